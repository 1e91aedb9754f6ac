"""Decode steps of this checkout beside those of another one, interleaved; see benchmarks/README.md.

``python benchmarks/bench_decode.py --baseline ../older``
"""

from __future__ import annotations

import argparse
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_model import divisor, positive
from benchmarks.peer import Peer

HERE = Path(__file__).resolve().parent
TITLES = {
    "bundled greedy": "bundled model, a token of the engine, greedy",
    "bundled sampled": "the same, temperature 1 and top-p 0.3",
    "per layer": "Python and Paddle for each decoder layer",
    "wide int4": "a layer of the published widths, int4",
    "wide int8": "the same, int8",
    "wide bf16": "the same, bfloat16 weights",
    "sampling": "top-p 0.3 over 151,936 logits",
}


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Decode steps of this checkout and of another one, on one thread.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--baseline", type=Path, help="another checkout; without one there is nothing to compare with")
    parser.add_argument("--rounds", type=positive, default=6, help="each checkout takes its turn in every round")
    parser.add_argument(
        "--shrink", type=divisor, default=1, help="divide the published widths by this; 16: quick trial"
    )
    parser.add_argument(
        "--threads", type=int, default=1, choices=[1], help="what is compared is the work of one thread"
    )
    return parser.parse_args(arguments)


def low(seconds: list[float], share: float) -> float:
    """The value below which this share of them lies, in microseconds."""
    return sorted(seconds)[int(share * len(seconds))] * 1e6


def per_layer(times: dict[str, list[float]], share: float) -> float:
    """What 28 more layers of next to no arithmetic take, for each."""
    return (low(times["narrow 32"], share) - low(times["narrow 4"], share)) / 28


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    checkouts = [HERE.parent, *([] if options.baseline is None else [options.baseline])]
    script = [sys.executable, str(HERE / "peer_decode.py"), "--shrink", str(options.shrink)]
    measured: list[dict[str, list[float]]] = [{} for _ in checkouts]
    with ExitStack() as stack:
        peers = [stack.enter_context(Peer(shlex.join([*script, "--checkout", str(path)]))) for path in checkouts]
        for _ in range(options.rounds):
            for times, peer in zip(measured, peers):
                for name, seconds in peer.time_round().items():
                    times.setdefault(name, []).extend(seconds)
    names = ["this", "baseline"][: len(checkouts)]
    columns = [f"{name}, {kind}" for name in names for kind in ("least tenth", "median")]
    print("| µs of one thread | " + " | ".join(columns) + " | this / baseline |")
    print("| --- |" + " --: |" * (len(columns) + 1))
    for part, title in TITLES.items():
        values = [
            per_layer(times, share) if part == "per layer" else low(times[part], share)
            for times in measured
            for share in (0.1, 0.5)
        ]
        ratio = f"{values[0] / values[2]:.2f}" if len(checkouts) > 1 else ""
        print(f"| {title} | " + " | ".join(f"{value:.1f}" for value in values) + f" | {ratio} |")


if __name__ == "__main__":
    main()
