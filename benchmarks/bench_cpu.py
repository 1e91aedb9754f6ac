"""Low-bit layers of the published widths on the CPU, beside llama.cpp and PyTorch, and the bundled model.

``python benchmarks/bench_cpu.py --llama "env/bin/python benchmarks/peer_llama.py" --torch "env/bin/python
benchmarks/peer_torch.py" --baseline OLDER_CHECKOUT``

Prints a Markdown table: the best and the median time per layer for one step of decoding, a prefill and an image in
every format, what share of a plain read of memory decoding reaches, and how many times faster than each peer that is.
Everything takes turns within every round, so that all meet the same load of the machine. README.md in this folder says
how to read the figures.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_model import READ_PROBE_BYTES, Workload, divisor, positive, probes, time_round, use_threads
from benchmarks.peer import Peer
from benchmarks.shapes import CACHED, PATCHES, PROMPT, Part, Shapes, parts

ROOM = 32
FORMATS = ("int4", "int8", "bf16")
# Bytes of a weight in the products of a decoder layer, scales included.
WEIGHT_BYTES = {"int4": 0.5 + 2 / 128, "int8": 1.0, "bf16": 2.0}


class Comparison(NamedTuple):
    """A row: what of ours, beside what of a peer's, and how many times faster it should be."""

    ours: str
    peer: str
    aim: float


COMPARISONS = (
    Comparison("decode/int4", "llama decode/Q4_0", 1.5),
    Comparison("decode/int8", "llama decode/Q8_0", 1.5),
    Comparison("decode/bf16", "llama decode/F16", 1.1),
    Comparison("decode/bf16", "torch float32 decode", 1.5),
    Comparison("decode/bf16", "torch bfloat16 decode", 1.5),
    Comparison("prefill/int4", "llama prefill/Q4_0", 1.5),
    Comparison("prefill/int4", "torch float32 prefill", 1.5),
    Comparison("vit/int8", "torch float32 vit", 2.0),
    Comparison("vit/bf16", "torch float32 vit", 0.9),
    Comparison("bundled/token", "baseline bundled/token", 2.0),
    Comparison("bundled/image", "baseline bundled/image", 2.0),
)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Time low-bit layers of the published widths on the CPU (random weights).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--lm-layers", type=positive, default=4, help="decoder layers in each format")
    parser.add_argument("--vit-layers", type=positive, default=2, help="ViT layers in each format")
    parser.add_argument("--threads", type=positive, default=os.cpu_count())
    parser.add_argument("--repeats", type=positive, default=8, help="rounds")
    parser.add_argument("--shrink", type=divisor, default=1, help="divide heads and widths by this; 16: quick trial")
    parser.add_argument("--llama", metavar="COMMAND", help="peer_llama.py in an environment with llama-cpp-python")
    parser.add_argument("--torch", metavar="COMMAND", help="peer_torch.py in an environment with torch")
    parser.add_argument("--baseline", metavar="DIR", help="an older checkout, for the bundled model's speed")
    return parser.parse_args(arguments)


def workloads(shapes: Shapes, lm_layers: int, vit_layers: int) -> dict[str, Workload]:
    """Decoding, prefill and ViT in every format, on the project's own classes."""
    import paddle

    from benchmarks.random_weights import config_of, random_model
    from paddlemix.quantization.plan import plan_for

    work = {}
    token, prompt = paddle.randn([1, 1, shapes.hidden]), paddle.randn([1, PROMPT, shapes.hidden])
    patches = paddle.randn([1, PATCHES, shapes.vit_width])
    for name in FORMATS:
        config = config_of(shapes, lm_layers, vit_layers)
        model = random_model(config, plan_for(None, name, None)).transformer
        cache = model_cache(config)

        def feed(x, past, model=model, cache=cache):
            cache.length = past
            return model(x, past_key_values=cache)[0]

        work[f"decode/{name}"] = Workload(lambda feed=feed: feed(token, CACHED), lm_layers, 8)
        work[f"prefill/{name}"] = Workload(lambda feed=feed: feed(prompt, 0), lm_layers, 1)
        if name != "int4":  # whose vision part is int8
            work[f"vit/{name}"] = Workload(lambda model=model: model.visual.transformer(patches), vit_layers, 1)
            work[f"resampler/{name}"] = Workload(lambda model=model: model.visual.attn_pool(patches), 1, 1)
    return work


def model_cache(config):
    from paddlemix.models.qwen_vl.kv_cache import KVCache

    return KVCache(config, 1, CACHED + ROOM, CACHED)


def peers(options: argparse.Namespace) -> dict[str, str]:
    """Command of each process that is timed beside this one, by the prefix of its figures."""
    sizes = ("lm_layers", "vit_layers", "threads", "shrink")
    same = " ".join(f"--{name.replace('_', '-')} {getattr(options, name)}" for name in sizes)
    here, script = shlex.quote(sys.executable), Path(__file__).resolve().parent / "peer_bundled.py"
    commands = {}
    if options.llama:
        commands["llama "] = f"{options.llama} {same}"
    if options.torch:
        for dtype in ("float32", "bfloat16"):
            commands[f"torch {dtype} "] = f"{options.torch} {same} --dtype {dtype}"
    commands[""] = f"{here} {shlex.quote(str(script))}"
    if options.baseline:
        commands["baseline "] = f"{commands['']} --checkout {shlex.quote(options.baseline)}"
    return commands


def table(shapes: Shapes, seconds: dict[str, list[float]]) -> str:
    """The Markdown table of all that was timed, and the one of the comparisons."""
    read = READ_PROBE_BYTES / min(seconds["read"]) / 1e9
    shape_of = {part.name: part for part in parts(shapes)}
    lines = [
        f"Plain memory reads: {read:.1f} GB/s.",
        "",
        "| what | ms, best | median | GB/s | of plain reads | tokens/s, GOPS |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for name in sorted(seconds):
        if name in ("read", "matmul"):
            continue
        best, median = min(seconds[name]), statistics.median(seconds[name])
        lines.append(
            "| "
            + " | ".join(
                [name, f"{best * 1e3:.2f}", f"{median * 1e3:.2f}", *_rates(name, best, read, shape_of, shapes.hidden)]
            )
            + " |"
        )
    if any(row.peer in seconds for row in COMPARISONS):
        lines += ["", "| ours | peer | ms | peer ms | times faster | aim |", "| --- | --- | --: | --: | --: | --: |"]
    for row in COMPARISONS:
        if row.peer in seconds:
            ours, theirs = min(seconds[row.ours]), min(seconds[row.peer])
            cells = [row.ours, row.peer, f"{ours * 1e3:.2f}", f"{theirs * 1e3:.2f}", f"{theirs / ours:.2f}", row.aim]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _rates(name: str, best: float, read: float, shape_of: dict[str, Part], hidden: int) -> list[str]:
    """GB/s and share of the probe for our decoding, positions per second and operations per second for layers."""
    part = shape_of.get(name.split(" ")[-1].partition("/")[0])
    if part is None:
        return ["", "", f"{1 / best:.1f}/s"]
    rate = f"{part.tokens / best:.0f}, {part.operations / best / 1e9:.0f}"
    form = name.partition("/")[2]
    if part.name != "decode" or form not in WEIGHT_BYTES:
        return ["", "", rate]
    # What one step reads: every weight, and the keys and values (float32) of all positions.
    cached = 2 * 4 * (CACHED + 1) * hidden
    bandwidth = (part.weights * WEIGHT_BYTES[form] + cached) / best / 1e9
    return [f"{bandwidth:.1f}", f"{bandwidth / read:.0%}", rate]


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    use_threads(options.threads)
    import paddle

    from paddlemix import ops
    from paddlemix.utils.allocator import keep_freed_memory

    paddle.set_device("cpu")
    keep_freed_memory()
    shapes = Shapes().shrunk(options.shrink)
    seconds: dict[str, list[float]] = {}
    with paddle.no_grad(), ExitStack() as stack:
        running = {prefix: stack.enter_context(Peer(command)) for prefix, command in peers(options).items()}
        timed = {**probes(options.threads), **workloads(shapes, options.lm_layers, options.vit_layers)}
        for work in timed.values():
            work.run()
        for _ in range(options.repeats):
            for name, work in timed.items():
                seconds.setdefault(name, []).extend(time_round(work))
            for prefix, peer in running.items():
                for name, values in peer.time_round().items():
                    seconds.setdefault(prefix + name, []).extend(values)
    print(
        f"Paddle {paddle.__version__}, operators: {ops.mode()}, {options.threads} thread(s), {options.lm_layers} "
        f"decoder and {options.vit_layers} ViT layer(s), {options.repeats} rounds."
    )
    for prefix, peer in running.items():
        print(f"{prefix.strip() or 'bundled'}: {peer.description}.")
    print(table(shapes, seconds))


if __name__ == "__main__":
    main()
