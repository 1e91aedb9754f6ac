"""Processes that wait for each other, played by threads."""

import os
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from paddlemix.errors import ConfigurationError
from paddlemix.parallel import processes
from paddlemix.parallel.launch import free_ports, process_environment
from paddlemix.parallel.processes import init_process, join_processes, wait_for_everyone
from tests.processes import run_processes

PROCESSES = 3


class Store:
    """What the processes' common store does of counting."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.lock = threading.Lock()

    def add(self, key: str, amount: int) -> int:
        with self.lock:
            self.counts[key] = self.counts.get(key, 0) + amount
            return self.counts[key]


@pytest.fixture
def store(monkeypatch):
    store = Store()
    monkeypatch.setattr(processes, "global_store", lambda: store)
    monkeypatch.setattr(processes, "dist", SimpleNamespace(get_world_size=lambda: PROCESSES))
    return store


def test_nobody_goes_on_before_the_last_has_come(store):
    events = []

    def process(rank):
        for meeting in range(3):
            time.sleep(0.05 if rank == meeting else 0.0)  # another one is late each time
            events.append((meeting, "comes"))
            wait_for_everyone()
            events.append((meeting, "goes"))

    threads = [threading.Thread(target=process, args=(rank,), daemon=True) for rank in range(PROCESSES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(events) == 3 * 2 * PROCESSES
    for meeting in range(3):
        comings = [place for place, event in enumerate(events) if event == (meeting, "comes")]
        goings = [place for place, event in enumerate(events) if event == (meeting, "goes")]
        assert max(comings) < min(goings)


def test_a_single_process_waits_for_nobody(store, monkeypatch):
    monkeypatch.setattr(processes, "dist", SimpleNamespace(get_world_size=lambda: 1))
    wait_for_everyone()
    assert store.counts == {}


def test_processes_on_cpus_without_gloo_are_refused(monkeypatch):
    for name in ("flush_denormals", "keep_freed_memory"):
        monkeypatch.setattr(processes, name, lambda: None)
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    monkeypatch.delenv("PADDLE_DISTRI_BACKEND", raising=False)
    with pytest.raises(ConfigurationError, match="--backend gloo"):
        init_process("cpu")


@pytest.fixture
def started(monkeypatch):
    """As ``paddle.distributed.launch`` starts the first of two processes; the variables."""
    first, second = free_ports(2)
    variables = process_environment(0, 2, [first, second], on_gpu=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "_JOIN_SECONDS", 1)
    return variables


@pytest.mark.parametrize("name", ["PADDLE_TRAINER_ID", "PADDLE_TRAINER_ENDPOINTS"])
def test_variables_of_the_launcher_that_are_missing_are_named(started, monkeypatch, name):
    monkeypatch.delenv(name)
    with pytest.raises(ConfigurationError, match=f"{name}: the environment has it not"):
        join_processes("cpu")


def test_a_port_in_use_is_told(started):
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(started["PADDLE_MASTER"].rpartition(":")[2])))
        other.listen()
        with pytest.raises(ConfigurationError, match="port [0-9]+ of 127.0.0.1 is in use"):
            join_processes("cpu")


def test_a_first_process_that_does_not_come_is_told(started, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
    with pytest.raises(ConfigurationError, match="process 0 was to listen at 127.0.0.1:[0-9]+, nobody does"):
        join_processes("cpu")


def waits_for_the_other(variables):
    """The first of two processes, of which the second does not come."""
    os.environ.update(variables)
    join_processes("cpu")


def test_a_second_process_that_does_not_come_is_told(started, capfd):
    with pytest.raises(AssertionError, match="process 0 ended with -9"):
        run_processes(1, waits_for_the_other, started)
    assert "error: processes: 2 were to meet at 127.0.0.1:" in capfd.readouterr().err
