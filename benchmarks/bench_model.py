"""Time the model's layers at the published widths, with random weights.

``python benchmarks/bench_model.py --lm-layers 2 --vit-layers 2``
``python benchmarks/bench_model.py --peer "other-env/bin/python benchmarks/peer_torch.py"``

Prints a Markdown table: the best and the median time per layer for the ViT, the resampler, a prefill and one step of
decoding; tokens per second and GFLOPS; and for decoding, which does little but read weights, GB/s and their share of
what a plain read of memory reaches. Everything is timed in rounds, the probes and the peer in every round too, so that
all of them meet the same load of the machine. README.md in this folder says how to read the figures.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.peer import SETTLE_SECONDS, Peer
from benchmarks.shapes import CACHED, PATCHES, PROMPT, Shapes, parts

# Positions the cache has room for besides the prompt: decoding attends over unused room too.
ROOM = 32
READ_PROBE_BYTES = 2**29
READ_PROBE_RUNS = 8  # each pattern twice
MATMUL_PROBE_SIDE = 2048


class Workload(NamedTuple):
    """Something to time: ``run`` does the work of ``layers`` layers, ``times`` of it in each round.

    ``settle``: seconds to wait first, until threads of an earlier step that wait actively have given up the processor.
    """

    run: Callable[[], object]
    layers: int
    times: int
    settle: float = 0.0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Time the model's layers at the published widths (random weights).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--lm-layers", type=positive, default=2, help="decoder layers; 0.81 GB each in float32")
    parser.add_argument("--vit-layers", type=positive, default=2, help="ViT layers; 0.15 GB each in float32")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        default="float32",
        help="of weights and activations; a CPU takes float32 only",
    )
    parser.add_argument("--threads", type=positive, default=os.cpu_count(), help="threads for matrix products")
    parser.add_argument("--repeats", type=positive, default=8, help="rounds")
    parser.add_argument("--shrink", type=divisor, default=1, help="divide heads and widths by this; 16: quick trial")
    parser.add_argument("--peer", help="command that times the same shapes elsewhere, such as peer_torch.py in a venv")
    return parser.parse_args(arguments)


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}, expected a positive number")
    return value


def divisor(text: str) -> int:
    """Of all numbers of heads."""
    value = positive(text)
    if 16 % value:
        raise argparse.ArgumentTypeError(f"got {value}, expected a divisor of 16")
    return value


def workloads(shapes: Shapes, lm_layers: int, vit_layers: int, dtype: str) -> dict[str, Workload]:
    """The parts to time, on the project's own layers with Paddle's initial weights."""
    import paddle

    from paddlemix.models.qwen_vl.causal_lm import QWenModel
    from paddlemix.models.qwen_vl.configuration import QWenVLConfig
    from paddlemix.models.qwen_vl.kv_cache import KVCache

    paddle.set_default_dtype(dtype)
    config = QWenVLConfig(
        vocab_size=64,
        hidden_size=shapes.hidden,
        num_hidden_layers=lm_layers,
        num_attention_heads=shapes.heads,
        kv_channels=shapes.hidden // shapes.heads,
        intermediate_size=2 * shapes.ffn,
        visual={
            "width": shapes.vit_width,
            "layers": vit_layers,
            "heads": shapes.vit_heads,
            "mlp_ratio": shapes.vit_mlp / shapes.vit_width,
            "output_dim": shapes.hidden,
            "image_start_id": 58,
        },
    )
    model = QWenModel(config)
    model.eval()

    def random(length: int, width: int) -> paddle.Tensor:
        return paddle.randn([1, length, width], dtype="float32").astype(dtype)

    cache = KVCache(config, 1, CACHED + ROOM, CACHED, dtype)
    token, prompt = random(1, shapes.hidden), random(PROMPT, shapes.hidden)
    patches = random(PATCHES, shapes.vit_width)

    def feed(x: paddle.Tensor, past: int) -> paddle.Tensor:
        cache.length = past
        return model(x, past_key_values=cache)[0]

    return {
        "vit": Workload(lambda: model.visual.transformer(patches), vit_layers, 1),
        "resampler": Workload(lambda: model.visual.attn_pool(patches), 1, 2),
        "prefill": Workload(lambda: feed(prompt, 0), lm_layers, 1),
        "decode": Workload(lambda: feed(token, CACHED), lm_layers, 8),
    }


def use_threads(count: int) -> None:
    """Of Paddle when it is imported, of the kernels when they are loaded, and of processes that are started."""
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "PADDLEMIX_NUM_THREADS"), str(count)))


def read_probe(threads: int) -> Workload:
    """Reads of memory by all threads in several patterns, in turn; the best of them is what a plain read reaches.

    How many streams a processor wants to be read at once differs: one core of an EPYC without AMX reads faster from
    several places than from one.
    """
    # Ones: pages that were never written would all be the same page of zeros, read from the processor's cache.
    memory = np.ones(READ_PROBE_BYTES // 4, np.float32)
    pool = ThreadPoolExecutor(2 * threads)

    def one_stream(workers: int) -> Callable[[], list[float]]:
        chunks = np.array_split(memory, workers)
        return lambda: list(pool.map(lambda chunk: np.dot(chunk, chunk), chunks))

    def two_streams(workers: int) -> Callable[[], list[float]]:
        even = memory[: memory.size // (2 * workers) * 2 * workers].reshape(workers, 2, -1)
        halves = [tuple(pair) for pair in even]
        return lambda: list(pool.map(lambda pair: np.dot(*pair), halves))

    patterns = cycle([one_stream(threads), two_streams(threads), one_stream(2 * threads), two_streams(2 * threads)])
    return Workload(lambda: next(patterns)(), 1, READ_PROBE_RUNS, SETTLE_SECONDS)


def probes(threads: int) -> dict[str, Workload]:
    """A plain read of memory by all threads, and a square float32 matrix product."""
    import paddle

    square = paddle.randn([MATMUL_PROBE_SIDE, MATMUL_PROBE_SIDE], dtype="float32")
    return {"read": read_probe(threads), "matmul": Workload(lambda: paddle.matmul(square, square), 1, 2)}


def time_round(work: Workload) -> list[float]:
    """Seconds per layer of each run in this round."""
    seconds = []
    time.sleep(work.settle)
    for _ in range(work.times):
        start = time.perf_counter()
        output = work.run()
        if hasattr(output, "numpy"):
            # A device computes asynchronously; asking for a number waits for it.
            output.flatten()[0].item()
        seconds.append((time.perf_counter() - start) / work.layers)
    return seconds


def measure(
    timed: dict[str, Workload], repeats: int, peer: Peer | None
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Run all workloads and the peer round by round; seconds per layer of ours and of the peer's, by name."""
    ours: dict[str, list[float]] = {name: [] for name in timed}
    theirs: dict[str, list[float]] = {}
    for work in timed.values():
        work.run()
    for _ in range(repeats):
        for name, work in timed.items():
            ours[name] += time_round(work)
        if peer is not None:
            for name, seconds in peer.time_round().items():
                theirs.setdefault(name, []).extend(seconds)
    return ours, theirs


def table(shapes: Shapes, ours: dict[str, list[float]], theirs: dict[str, list[float]], item_size: int) -> str:
    """The Markdown table. ``item_size``: bytes of a weight."""
    read = READ_PROBE_BYTES / min(ours["read"]) / 1e9
    gflops = 2 * MATMUL_PROBE_SIDE**3 / min(ours["matmul"]) / 1e9
    lines = [
        f"Probes: plain memory reads {read:.1f} GB/s, float32 matrix product {gflops:.0f} GFLOPS.",
        "",
        "| part | ms/layer | median | layer-tokens/s | GFLOPS | GB/s | of plain reads "
        "| peer ms/layer | median | ours/peer |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for part in parts(shapes):
        best = min(ours[part.name])
        bandwidth = part.weights * item_size / best / 1e9
        # Only one position for each weight read: only there is memory what limits the speed.
        bound = [f"{bandwidth:.1f}", f"{bandwidth / read:.0%}"] if part.tokens == 1 else ["", ""]
        peer = ["", "", ""]
        if theirs:
            peer_best, peer_median = min(theirs[part.name]), statistics.median(theirs[part.name])
            peer = [f"{peer_best * 1e3:.1f}", f"{peer_median * 1e3:.1f}", f"{best / peer_best:.2f}"]
        cells = [
            part.title,
            f"{best * 1e3:.1f}",
            f"{statistics.median(ours[part.name]) * 1e3:.1f}",
            f"{part.tokens / best:.0f}",
            f"{part.operations / best / 1e9:.0f}",
            *bound,
            *peer,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    use_threads(options.threads)
    import paddle

    from paddlemix.utils.allocator import keep_freed_memory

    device = paddle.device.get_device()
    if device == "cpu":
        if options.dtype != "float32":
            raise SystemExit(f"bench_model.py: --dtype {options.dtype}: a CPU computes in float32 only; leave it out")
        keep_freed_memory()  # as the scripts do for a model on a CPU
    paddle.seed(0)
    shapes = Shapes().shrunk(options.shrink)
    command = None
    if options.peer:
        same = ("lm_layers", "vit_layers", "threads", "shrink")
        command = " ".join([options.peer, *(f"--{name.replace('_', '-')} {getattr(options, name)}" for name in same)])
    with paddle.no_grad():
        timed = probes(options.threads)
        timed.update(workloads(shapes, options.lm_layers, options.vit_layers, options.dtype))
        if command is None:
            ours, theirs = measure(timed, options.repeats, None)
        else:
            with Peer(command) as peer:
                ours, theirs = measure(timed, options.repeats, peer)
    print(
        f"Paddle {paddle.__version__} on {device}, {options.dtype}, {options.threads} thread(s), {options.lm_layers} "
        f"decoder and {options.vit_layers} ViT layer(s), best and median of {options.repeats} rounds."
    )
    if command is not None:
        print(f"Peer: {peer.description}.")
    print(table(shapes, ours, theirs, 4 if options.dtype == "float32" else 2))


if __name__ == "__main__":
    main()
