"""Tokens per second and time to the first token through the server, at 1, 4 and 8 clients.

    python benchmarks/bench_serving.py [--model_name_or_path DIR] [--quantization int4]

The server runs in a process of its own, this client in another. Rounds of the client counts are interleaved, so that a
machine that slows down slows all of them alike; the medians are printed as a table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time

import httpx

QUESTION = "Generate the caption in English with grounding:"


async def ask(client: httpx.AsyncClient, model: str, number: int, tokens: int) -> tuple[float, int]:
    """One streamed answer: seconds to its first token, and how many tokens it had."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": f"{QUESTION} {number}"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": tokens,
        "ignore_eos": True,
    }
    start = time.perf_counter()
    first, count = 0.0, 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if chunk["choices"] and chunk["choices"][0]["delta"].get("content") and not first:
                first = time.perf_counter() - start
            if chunk.get("usage"):
                count = chunk["usage"]["completion_tokens"]
    return first, count


async def measure(url: str, model: str, clients: int, rounds: int, tokens: int) -> list[tuple[float, float]]:
    """For each round of ``clients`` answers at once: tokens per second, and the mean time to the first token."""
    results = []
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as client:
        for number in range(rounds):
            start = time.perf_counter()
            answers = await asyncio.gather(*(ask(client, model, 100 * number + i, tokens) for i in range(clients)))
            seconds = time.perf_counter() - start
            results.append((sum(n for _, n in answers) / seconds, statistics.mean(t for t, _ in answers)))
    return results


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    options, rest = parser.parse_known_args()
    command = [sys.executable, "-m", "paddlemix.serving", "--port", "0", *rest]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        try:
            lines = iter(process.stdout or ())
            model, url = next(
                found.groups() for line in lines if (found := re.search(r"serving (\S+) on (\S+)/v1", line))
            )
            rounds: dict[int, list[tuple[float, float]]] = {clients: [] for clients in options.clients}
            asyncio.run(measure(url, model, 1, 1, 8))  # what only the first request costs
            for _ in range(options.rounds):
                for clients in options.clients:
                    rounds[clients] += asyncio.run(measure(url, model, clients, 1, options.tokens))
        finally:
            process.terminate()
    print("| clients | tokens/s | first token, ms |\n|---|---|---|")
    for clients, results in rounds.items():
        rate, first = (statistics.median(column) for column in zip(*results))
        print(f"| {clients} | {rate:.0f} | {1000 * first:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
