"""examples/qwen_vl/chat_demo.py, run as a user runs it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.examples.conftest import EXAMPLES
from tests.tiny_model import ANSWER


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "street.png"
    Image.new("RGB", (120, 90), "white").save(path)
    return path


def test_a_script_runs_unattended(run_example, tiny_model_dir, image, tmp_path):
    script = tmp_path / "lines.txt"
    script.write_text(
        f"/image {image}\n这是什么？\n/save talk.json\n/reset\nand now?\n/load talk.json\n框出公交车\n/quit\nnever\n",
        encoding="utf-8",
    )
    done = run_example("chat_demo.py", "--model_name_or_path", tiny_model_dir, "--script", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"> /image {image}",
        "image of 120x90 pixels goes with the next message",
        "> 这是什么？",
        ANSWER,
        "image: output/chat.jpg",
        "> /save talk.json",
        "saved: talk.json",
        "> /reset",
        "the conversation is forgotten",
        "> and now?",
        ANSWER,
        "> /load talk.json",
        "loaded: talk.json",
        "> 框出公交车",
        ANSWER,
        "image: output/chat-2.jpg",
        "> /quit",
    ]
    assert done.stderr == ""
    assert sorted(os.listdir(tmp_path / "run" / "output")) == ["chat-2.jpg", "chat.jpg"]


def test_piped_lines_run_unattended_up_to_the_first_error(run_example, tiny_model_dir, tmp_path):
    stdin = "hello\n/image missing.png\nnot any more\n"
    done = run_example("chat_demo.py", "--model_name_or_path", tiny_model_dir, "--max_new_tokens", 1, stdin=stdin)
    assert done.returncode == 1
    note = (
        "note: the answer was cut off after 1 tokens; --max_new_tokens N allows more, as far as the model's window goes"
    )
    assert done.stdout.splitlines() == ["> hello", "<ref>", note, "> /image missing.png"]
    assert re.fullmatch(r"error: image file 'missing.png' does not exist .*\n", done.stderr)
    assert os.listdir(tmp_path / "run") == []


def test_without_a_script_it_talks_with_a_person(tiny_model_dir, image, tmp_path):
    command = [sys.executable, str(EXAMPLES / "chat_demo.py"), "--model_name_or_path", str(tiny_model_dir)]
    output = talk(command, ["/nonsense", f"/image {image}", "where is the bus?", "/quit"], tmp_path)
    assert "/help lists the commands" in output
    assert "error: /nonsense: unknown command" in output
    assert ANSWER in output
    assert (tmp_path / "output" / "chat.jpg").is_file()


def talk(command: list[str], lines: list[str], folder: Path) -> str:
    """Run a program on a terminal, type each line when it asks for one, and return what the terminal showed."""
    ours, theirs = pty.openpty()
    program = subprocess.Popen(command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True)
    os.close(theirs)
    shown = ""
    remaining = list(lines)
    asked = 0
    try:
        while True:
            try:
                data = os.read(ours, 4096)
            except OSError:  # Linux: the other end was closed
                break
            if not data:
                break
            shown += data.decode("utf-8", errors="replace")
            prompts = len(re.findall(r"^(?:\x1b\[\?2004h)?> ", shown, flags=re.MULTILINE))
            if prompts > asked and remaining:
                asked = prompts
                os.write(ours, (remaining.pop(0) + "\n").encode())
        assert program.wait() == 0, shown
    finally:
        program.kill()
        program.wait()
        os.close(ours)
    return shown


def test_a_missing_script_and_a_base_model_are_refused(run_example, tiny_base_model_dir):
    done = run_example("chat_demo.py", "--script", "missing.txt")
    assert done.returncode == 1
    assert done.stderr == "error: --script: missing.txt cannot be read: No such file or directory\n"
    done = run_example("chat_demo.py", "--model_name_or_path", tiny_base_model_dir, stdin="hello\n")
    assert done.returncode == 1
    assert re.fullmatch(r"error: model .* a base model, which knows no chat.*\n", done.stderr)


def test_help_names_the_commands(run_example):
    done = run_example("chat_demo.py", "--help")
    assert done.returncode == 0
    for command in ("/image", "/reset", "/save", "/load", "/help", "/quit", "--script"):
        assert command in done.stdout
