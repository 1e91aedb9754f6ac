"""Processes that wait for each other, played by threads."""

import threading
import time
from types import SimpleNamespace

import pytest

from paddlemix.errors import ConfigurationError
from paddlemix.parallel import processes
from paddlemix.parallel.processes import init_process, wait_for_everyone

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
