"""What a step of fine-tuning costs on a CPU: time and memory, and what the ways to save either of them change.

``python benchmarks/bench_train.py --output benchmarks/results/train_cpu.md``

Prints Markdown tables: the step of the loss alone at the published vocabulary; steps of the bundled model and of layers
of the published widths, in full, with LoRA and with Q-LoRA; packed rows beside rows grouped by length; one step of
Q-LoRA with a model of the published size. Every figure of memory is from a process of its own; times that are compared
are from one process, in which they take turns. README.md in this folder says how to read the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_model import divisor, positive, use_threads

PARTS = ("loss", "bundled", "published", "packing", "qlora")
VOCABULARY = 151936
# Full fine-tuning of the published vocabulary alone, embeddings and head, would be 20 GB with AdamW's state.
LAYERS_VOCABULARY = 16384
MODES = {"full": "full, ViT frozen", "lora": "LoRA", "qlora": "Q-LoRA, int4"}
STEPS = ("plain Paddle", "all logits", "all logits, recompute", "chunked loss", "chunked loss, recompute")
BUNDLED_ROWS, BUNDLED_LENGTH = 8, 256
# Slots of a forward pass; how long the conversations are: evenly spread, or most of them short, as in collected data.
PACKING = (
    (256, "even", 20, 60),
    (512, "even", 20, 120),
    (512, "mostly short", 20, 256),
    (1024, "even", 20, 200),
    (1024, "mostly short", 20, 512),
    (2048, "even", 20, 400),
)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Time and memory of fine-tuning on the CPU.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    parser.add_argument("--repeats", type=positive, default=3, help="rounds, after one that warms up")
    parser.add_argument("--positions", type=positive, default=2048, help="of the step of the loss")
    parser.add_argument("--length", type=positive, default=512, help="tokens of a conversation at the published widths")
    parser.add_argument("--lm-layers", type=positive, default=2, help="decoder layers of the published widths")
    parser.add_argument("--vit-layers", type=positive, default=2, help="ViT layers of the published widths")
    parser.add_argument("--records", type=positive, default=512, help="short conversations to pack")
    parser.add_argument("--shrink", type=divisor, default=1, help="divide heads and widths by this; 16: quick trial")
    parser.add_argument("--threads", type=positive, default=os.cpu_count())
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    return parser.parse_args(arguments)


def measure(name: str, **arguments: Any) -> dict[str, Any]:
    """Run a function of train_measurements.py in a process of its own."""
    print(f"# {name} {arguments}", file=sys.stderr, flush=True)
    script = Path(__file__).with_name("train_measurements.py")
    done = subprocess.run([sys.executable, str(script), name, json.dumps(arguments)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"train_measurements.py {name} {json.dumps(arguments)} ended with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def table(header: tuple[str, ...], rows: list[list[str]]) -> str:
    """A Markdown table; all columns but the first hold numbers."""
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def loss_part(options: argparse.Namespace) -> str:
    shape = {
        "positions": options.positions,
        "hidden": 4096 // options.shrink,
        "vocabulary": VOCABULARY // options.shrink,
    }
    rows = []
    for trained in (False, True):
        setting = {**shape, "trained_head": trained}
        memory = {name: measure("loss_memory", variant=name, **setting)["gigabytes"] for name in ("plain", "chunked")}
        seconds = measure("loss_times", repeats=options.repeats, **setting)
        ratio = statistics.median(ours / plain for ours, plain in zip(seconds["chunked"], seconds["plain"]))
        for name in ("plain", "chunked"):
            compared = [f"{memory[name] / memory['plain']:.2f}", f"{ratio:.2f}"] if name == "chunked" else ["", ""]
            rows.append(
                [
                    "trained" if trained else "frozen",
                    name,
                    f"{memory[name]:.2f}",
                    f"{min(seconds[name]):.2f}",
                    *compared,
                ]
            )
    title = f"## The step of the loss: {shape['positions']} positions, {shape['vocabulary']} entries of the vocabulary"
    header = ("head", "loss", "GB", "s", "memory, of plain", "time, of plain")
    return f"{title}\n\n{table(header, rows)}"


def steps_part(title: str, setting: dict[str, Any], repeats: int) -> str:
    """Steps of one size of model in all modes."""
    rows = []
    tokens = setting["rows"] * setting["length"]
    for mode, name in MODES.items():
        seconds = measure("step_times", repeats=repeats, mode=mode, **setting)
        for step in STEPS:
            memory = measure("step_memory", variant=step, mode=mode, **setting)["gigabytes"]
            best = min(seconds[step])
            faster = statistics.median(plain / ours for ours, plain in zip(seconds[step], seconds[STEPS[0]]))
            rows.append([name, step, f"{best:.2f}", f"{tokens / best:.0f}", f"{faster:.2f}", f"{memory:.2f}"])
    return f"{title}\n\n{table(('trained', 'step', 's', 'tokens/s', 'times plain', 'peak GB'), rows)}"


def bundled_part(options: argparse.Namespace) -> str:
    rows, length = BUNDLED_ROWS, BUNDLED_LENGTH
    setting = {**layers(options, 1), "size": "bundled", "rows": rows, "length": length}
    return steps_part(f"## The bundled model, {rows} rows of {length} tokens with an image", setting, options.repeats)


def published_part(options: argparse.Namespace) -> str:
    setting = {**layers(options, LAYERS_VOCABULARY), "size": "published", "rows": 1, "length": options.length}
    title = (
        f"## {options.lm_layers} decoder and {options.vit_layers} ViT layers of the published widths, vocabulary "
        f"{setting['vocabulary']}, {options.length} tokens with an image"
    )
    return steps_part(title, setting, options.repeats)


def layers(options: argparse.Namespace, vocabulary: int) -> dict[str, int]:
    return {
        "shrink": options.shrink,
        "lm_layers": options.lm_layers,
        "vit_layers": options.vit_layers,
        "vocabulary": vocabulary,
    }


def shrunk_packing(shrink: int) -> list[tuple[int, str, int, int]]:
    """``PACKING``; for a quick trial one case of each kind, with fewer positions and shorter conversations."""
    if shrink == 1:
        return list(PACKING)
    first_of_kind = {lengths: (budget, lengths, low, high) for budget, lengths, low, high in reversed(PACKING)}
    return [
        (max(budget // shrink, high // shrink, 8), lengths, max(low // shrink, 2), max(high // shrink, 4))
        for budget, lengths, low, high in first_of_kind.values()
    ]


def packing_part(options: argparse.Namespace) -> str:
    rows = []
    records = options.records if options.shrink == 1 else max(options.records // options.shrink, 16)
    for budget, lengths, shortest, longest in shrunk_packing(options.shrink):
        result = measure(
            "packing_times",
            repeats=options.repeats,
            records=records,
            budget=budget,
            lengths=lengths,
            shortest=shortest,
            longest=longest,
        )
        seconds = result["seconds"]
        for name, own in seconds.items():
            faster = statistics.median(other / mine for mine, other in zip(own, seconds["grouped by length"]))
            samples = records / min(own)
            rows.append(
                [
                    f"{shortest} to {longest}, {lengths}",
                    f"{budget}",
                    name,
                    f"{result['passes'][name]}",
                    f"{samples:.1f}",
                    f"{faster:.2f}",
                ]
            )
    header = ("tokens of a conversation", "positions of a pass", "rows", "passes", "samples/s", "times grouped")
    title = f"## Packing: {records} conversations, the bundled model, a step of AdamW in each pass"
    return f"{title}\n\n{table(header, rows)}"


def qlora_part(options: argparse.Namespace) -> str:
    lm_layers, vit_layers = (32, 48) if options.shrink == 1 else (options.lm_layers, options.vit_layers)
    setting = {"shrink": options.shrink, "lm_layers": lm_layers, "vit_layers": vit_layers, "vocabulary": VOCABULARY}
    result = measure("whole_model_step", length=options.length, **setting)
    row = [
        f"{lm_layers}",
        f"{vit_layers}",
        f"{options.length}",
        *(f"{result[n]:.2f}" for n in ("seconds", "made", "gigabytes")),
    ]
    header = ("decoder layers", "ViT layers", "tokens", "s", "GB, model made", "peak GB")
    return f"## Q-LoRA, int4, the whole model: one step, recomputed, with an image\n\n{table(header, [row])}"


def heading(options: argparse.Namespace) -> str:
    import paddle

    from paddlemix import ops

    return (
        f"# Fine-tuning on a CPU\n\n{time.strftime('%Y-%m-%d')}, {processor()}, {options.threads} thread(s). Paddle "
        f"{paddle.__version__}, operators: {', '.join(ops.backend.library().devices) or 'none built'}. Best of "
        f"{options.repeats} rounds; ratios are medians of the rounds'."
    )


def processor() -> str:
    """The processor's name as Linux knows it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores of {names[0] if names else 'an unknown processor'}"


def sections(options: argparse.Namespace) -> Iterator[str]:
    parts: dict[str, Callable[[argparse.Namespace], str]] = {
        "loss": loss_part,
        "bundled": bundled_part,
        "published": published_part,
        "packing": packing_part,
        "qlora": qlora_part,
    }
    yield heading(options)
    for name in PARTS:
        if name in options.only:
            yield parts[name](options)


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    use_threads(options.threads)
    text = ""
    for section in sections(options):
        print(section, end="\n\n", flush=True)
        text += ("\n\n" if text else "") + section
        if options.output is not None:
            options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
