"""Processes that one has started end with it, and it ends with them; played by programs without a model."""

import os
import signal
import subprocess
import sys
import time

import pytest

from paddlemix.parallel.launch import launched, process_environment

FOLLOWER = """
import os, sys
from paddlemix.parallel.launch import end_with_parent
said = sys.stdin.buffer.readline().decode()
end_with_parent(sys.stdin.buffer)
open(os.environ["PADDLE_TRAINER_ID"], "w").write(f"{os.getpid()} {said}")
{follow}
"""
LEADER = """
import os, sys, time
from paddlemix.parallel.launch import start_processes
start_processes(3, [sys.executable, "-c", {follower!r}], b"hello", on_gpu=False)
end = time.monotonic() + 20
while not all(os.path.exists(name) and os.path.getsize(name) for name in "12") and time.monotonic() < end:
    time.sleep(0.01)
print("started", flush=True)
{lead}
"""
WAIT = "import time; time.sleep(60)"


def start(folder, lead=WAIT, follow=WAIT):
    """The first process, with two others started."""
    program = LEADER.format(follower=FOLLOWER.replace("{follow}", follow), lead=lead)
    leader = subprocess.Popen(
        [sys.executable, "-c", program], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert leader.stdout.readline() == "started\n"
    return leader


def followers(folder):
    return [int((folder / name).read_text().split()[0]) for name in "12"]


def are_gone(processes):
    end = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{process}") for process in processes) and time.monotonic() < end:
        time.sleep(0.01)
    return not any(os.path.exists(f"/proc/{process}") for process in processes)


def test_the_others_get_the_message_and_end_with_the_first(tmp_path):
    leader = start(tmp_path, lead="")
    assert leader.wait(20) == 0 and leader.stderr.read() == ""
    assert (tmp_path / "1").read_text().split()[1] == "hello"
    assert are_gone(followers(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_whatever_ends_the_first_ends_all(tmp_path, number):
    leader = start(tmp_path)
    leader.send_signal(number)
    leader.wait(20)
    assert are_gone(followers(tmp_path))


def test_one_that_is_killed_ends_all_with_one_line(tmp_path):
    leader = start(tmp_path)
    first, second = followers(tmp_path)
    os.kill(second, signal.SIGKILL)
    assert leader.wait(20) == 1
    assert leader.stderr.read() == "error: tensor_parallel: process 2 of 3 is lost: it ended with status -9\n"
    assert are_gone([first, second])


def test_the_last_words_of_one_that_fails_are_told(tmp_path):
    leader = start(tmp_path, follow="time = __import__('time'); time.sleep(0.3); sys.exit('error: no memory is left')")
    assert leader.wait(20) == 1
    said = leader.stderr.read()
    assert said.startswith("error: tensor_parallel: process ") and said.endswith("is lost: no memory is left\n")
    assert said.count("\n") == 1


def test_processes_know_their_places(monkeypatch):
    monkeypatch.delenv("PADDLE_TRAINERS_NUM", raising=False)
    assert launched() == 1
    environment = process_environment(1, 2, [7001, 7002], on_gpu=True)
    assert environment["PADDLE_CURRENT_ENDPOINT"] == "127.0.0.1:7002" and environment["FLAGS_selected_gpus"] == "1"
    assert process_environment(1, 2, [7001, 7002], on_gpu=False)["PADDLE_DISTRI_BACKEND"] == "gloo"
