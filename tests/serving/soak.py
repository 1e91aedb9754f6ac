"""Asks a server with the bundled model very many times, with faults of every kind: ``make soak``.

Every request must be answered, and at the end nothing be left: no request, no block, no growing memory.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import logging
import os
import random
import socket
import sys
import threading
from collections import Counter
from pathlib import Path

import httpx

from paddlemix.engine.engine import EngineConfig
from paddlemix.engine.request import EngineStats
from paddlemix.options import ModelOptions
from paddlemix.serving.loading import EngineLoader, served_model
from paddlemix.zoo import DEFAULT_MODEL_DIR
from tests.serving.harness import MODEL, Running, data_url, image_part, running, wait_for

THREADS = 8
GROWTH_MIB = 64
EXPECTED = {
    "plain": {200}, "streamed": {200}, "image": {200}, "broken image": {400}, "bad field": {400}, "bad json": {400},
}  # fmt: skip
LEAVING = "leaves", "leaves later"


def ask(server: Running, kind: str, rng: random.Random) -> int:
    """One request of a kind; its status, 0 where it was left."""
    text = f"Where is the {rng.choice(['dog', 'cup', 'bus'])}? {rng.randrange(1000)}"
    limits = {"max_tokens": rng.randrange(1, 12), "temperature": rng.choice([0, 1])}
    if kind == "plain":
        return server.chat(text, **limits).status_code
    if kind == "streamed":
        return server.chat(text, stream=True, **limits).status_code
    if kind == "image":
        color = tuple(rng.randrange(256) for _ in range(3))
        return server.chat([image_part(data_url(color)), text], **limits).status_code
    if kind == "broken image":
        broken = base64.b64encode(base64.b64decode(data_url().partition(",")[2])[: rng.randrange(60)]).decode()
        return server.chat([image_part(f"data:image/png;base64,{broken}"), text]).status_code
    if kind == "bad field":
        return server.chat(text, temperature=-1).status_code
    if kind == "bad json":
        headers = {"Content-Type": "application/json"}
        return server.http.post("/v1/chat/completions", content=b"[" * 1000, headers=headers).status_code
    leave(server, text, rng, later=kind == "leaves later")
    return 0


def leave(server: Running, text: str, rng: random.Random, *, later: bool) -> None:
    """Ask, and close the connection, at once or after some of the answer."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "stream": rng.random() < 0.5}
    data = json.dumps({**body, "ignore_eos": True, "max_tokens": 200}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection:
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        connection.settimeout(rng.random() * 0.2)
        if later:
            try:
                connection.recv(rng.choice((1, 2000)))
            except TimeoutError:
                return


def resident_mib() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def soak(server: Running, requests: int) -> list[str]:
    """Ask; what went wrong."""
    kinds = ["plain", "streamed", "image", "broken image", "bad field", "bad json", *LEAVING]
    numbers, wrong, counts = itertools.count(), [], Counter()

    def work(seed: int) -> None:
        rng = random.Random(seed)
        while next(numbers) < requests:
            kind = rng.choice(kinds)
            try:
                status = ask(server, kind, rng)
            except httpx.HTTPError as error:
                wrong.append(f"{kind}: {error!r}")
                continue
            counts[kind, status] += 1
            if kind in EXPECTED and status not in EXPECTED[kind]:
                wrong.append(f"{kind}: {status}")
            if server.http.get("/health").status_code != 200:
                wrong.append("/health failed")

    threads = [threading.Thread(target=work, args=[seed]) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for (kind, status), count in sorted(counts.items()):
        print(f"{kind:14} {status or 'left':>5} {count:6}")
    server.idle()
    try:
        wait_for(lambda: not owned(server.thread.stats()))
    except AssertionError:
        wrong.append(f"something is left behind: {server.thread.stats()}")
    return wrong


def owned(stats: EngineStats) -> int:
    """Requests and blocks that are in use; the numbers are those of the end of a step."""
    return stats.running + stats.waiting + stats.blocks_owned


def main() -> int:
    """Soak a server; 1 where something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    requests = parser.parse_args().requests
    loader = EngineLoader(ModelOptions(model=DEFAULT_MODEL_DIR), EngineConfig(cache_bytes=32 << 20))
    with running(model=served_model(ModelOptions(model=DEFAULT_MODEL_DIR), loader), thread=loader.thread()) as server:
        server.thread.wait_until_ready()
        for name in ("httpx", "paddlemix.serving.access"):
            logging.getLogger(name).setLevel(logging.WARNING)
        wrong = soak(server, max(requests // 4, 100))
        before = resident_mib()
        wrong += soak(server, requests)
        growth = resident_mib() - before
    print(f"resident memory grew by {growth:.1f} MiB after warm-up")
    if growth > GROWTH_MIB:
        wrong.append(f"resident memory grew by {growth:.0f} MiB")
    for text in wrong[:20]:
        print(text, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
