"""Asks a server with the bundled model very many times, with faults of every kind: ``make soak``.

Every request must be answered, and at the end nothing be left: no request, no block, no growing memory. Then a server
is killed in the middle of its answers and started again.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from paddlemix.engine.engine import Engine, EngineConfig
from paddlemix.options import ModelOptions
from paddlemix.serving.loading import EngineLoader, served_model
from paddlemix.zoo import DEFAULT_MODEL, DEFAULT_MODEL_DIR
from tests.serving.harness import Running, running, wait_for
from tests.serving.soak_requests import KINDS, MAX_BODY_BYTES

THREADS = 8
PARTS = 10
GROWTH_MIB = 32.0
"""That resident memory may grow by between the first tenth of the requests and the last."""
FAIL_EVERY = 499
"""A pass through the model fails so often."""
CHECK_EVERY = 50
"""Steps after which the engine's books are checked."""


class FaultyLoader(EngineLoader):
    """Loads an engine in which passes through the model fail now and then, and which checks itself."""

    engine: Engine
    failures = 0
    checks = 0

    def load(self) -> Engine:
        """The engine."""
        self.engine = super().load()
        forward, step = self.engine._runner.forward, self.engine.step
        passes, steps = itertools.count(1), itertools.count()

        def failing(*given: Any) -> Any:
            if next(passes) % FAIL_EVERY == 0:
                self.failures += 1
                raise RuntimeError("a failure that the soak wants")
            return forward(*given)

        def checking() -> Any:
            outputs = step()
            if next(steps) % CHECK_EVERY == 0:
                self.checks += 1
                self.engine.check()
            return outputs

        self.engine._runner.forward, self.engine.step = failing, checking
        return self.engine


@dataclass
class Health:
    """What ``/health`` said while requests ran."""

    asked: int = 0
    wrong: int = 0
    slowest: float = 0.0

    @contextmanager
    def watched(self, url: str) -> Iterator[None]:
        """Ask all the time."""
        over = threading.Event()

        def watch() -> None:
            with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
                while not over.wait(0.1):
                    began = time.monotonic()
                    try:
                        self.wrong += client.get("/health").status_code != 200
                    except httpx.HTTPError:
                        self.wrong += 1
                    self.asked += 1
                    self.slowest = max(self.slowest, time.monotonic() - began)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@dataclass
class Soak:
    """Requests to a server, and what came of them."""

    server: Running
    loader: FaultyLoader
    wrong: list[str] = field(default_factory=list)
    counts: Counter = field(default_factory=Counter)

    def ask(self, requests: int, seed: int) -> None:
        """So many requests of all kinds, several at once."""
        numbers = itertools.count()

        def work(rng: random.Random) -> None:
            while next(numbers) < requests:
                kind = rng.choice(list(KINDS))
                try:
                    status = kind(self.server, rng)
                except (httpx.HTTPError, OSError, AssertionError) as error:
                    self.wrong.append(f"{kind.__name__}: {error!r}")
                    continue
                self.counts[kind.__name__, status] += 1
                if status not in KINDS[kind] | {500}:
                    self.wrong.append(f"{kind.__name__}: {status}")

        threads = [threading.Thread(target=work, args=[random.Random(seed + i)]) for i in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def check(self) -> None:
        """Nothing may be left, and no more have failed than the failures that were wanted explain."""
        try:
            wait_for(lambda: not self.server.server.admission.taken and not self.server.thread.pending)
            wait_for(lambda: not self._owned())
            self.loader.engine.check()
        except AssertionError:
            self.wrong.append(f"something is left behind: {self.server.thread.stats()}")
        failed = sum(count for (_, status), count in self.counts.items() if status == 500)
        if failed > THREADS * self.loader.failures:
            self.wrong.append(f"{failed} requests failed where {self.loader.failures} passes did")

    def _owned(self) -> int:
        stats = self.server.thread.stats()
        return stats.running + stats.waiting + stats.blocks_owned


def resident_mib() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def soak_one_server(requests: int) -> list[str]:
    """Ask one server, in this process; what went wrong."""
    model = ModelOptions(model=DEFAULT_MODEL_DIR)
    loader = FaultyLoader(model, EngineConfig(cache_bytes=32 << 20, feature_cache_bytes=4 << 20))
    sizes, health, began = [], Health(), time.monotonic()
    settings: dict[str, Any] = {"limits": {"max_body_bytes": MAX_BODY_BYTES}}
    with running(model=served_model(model, loader), thread=loader.thread(), **settings) as server:
        server.thread.wait_until_ready()
        soak = Soak(server, loader)
        with health.watched(server.url):
            for part in range(PARTS):
                soak.ask(requests // PARTS, THREADS * part)
                sizes.append(resident_mib())
                print(f"{(part + 1) * requests // PARTS:6} requests, {sizes[-1]:.0f} MiB", flush=True)
        soak.check()
        stats = server.thread.stats()
    for (kind, status), count in sorted(soak.counts.items()):
        print(f"{kind:20} {status or 'left':>5} {count:6}")
    print(f"{stats.steps} steps, {loader.failures} of them made to fail, {loader.checks} checks of the engine's books")
    print(f"/health: asked {health.asked} times, wrong {health.wrong} times, slowest {health.slowest:.2f} s")
    print(f"{time.monotonic() - began:.0f} s; resident memory by tenths, MiB: {', '.join(map('{:.0f}'.format, sizes))}")
    if health.wrong:
        soak.wrong.append(f"/health failed {health.wrong} times")
    if sizes[-1] - sizes[0] > GROWTH_MIB:
        soak.wrong.append(f"resident memory grew by {sizes[-1] - sizes[0]:.0f} MiB")
    return soak.wrong


def kill_and_restart(times: int = 2) -> list[str]:
    """Kill a server while it answers, start it again on the same port, and ask again; what went wrong."""
    wrong, port, answers = [], 0, []
    body = {"model": DEFAULT_MODEL, "messages": [{"role": "user", "content": "Where is the dog?"}]}
    for _ in range(times + 1):
        command = [sys.executable, "-m", "paddlemix.serving", "--port", str(port)]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        with subprocess.Popen(command, **pipes) as process, httpx.Client(timeout=120, trust_env=False) as client:
            url = next(m[1] for line in process.stdout or () if (m := re.search(r"on (http://\S+)/v1", line)))
            port = int(url.rpartition(":")[2])
            answers.append(client.post(f"{url}/v1/chat/completions", json=body).json()["choices"][0]["message"])
            endless = {**body, "stream": True, "ignore_eos": True, "max_tokens": 1000}
            try:
                with client.stream("POST", f"{url}/v1/chat/completions", json=endless) as response:
                    lines = response.iter_lines()
                    next(lines)
                    process.send_signal(signal.SIGKILL)
                    list(lines)
                wrong.append("the answer of a server that was killed came to its end")
            except httpx.HTTPError:
                pass  # its client knows at once
    print(f"killed and started again {times} times")
    return wrong + ["after a restart the answer is another"] * (len({str(answer) for answer in answers}) > 1)


def main() -> int:
    """Soak a server; 1 where something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10000)
    requests = parser.parse_args().requests
    for name in ("httpx", "paddlemix.serving.access", "paddlemix.engine.thread", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    wrong = soak_one_server(requests) + kill_and_restart()
    for text in wrong[:20]:
        print(text, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
