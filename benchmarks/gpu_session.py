"""All that a GPU with Paddle can tell of this project, in one file to send back.

``python benchmarks/gpu_session.py --output gpu.md``
``python benchmarks/gpu_session.py --dry-run``

Each step is a process of its own with a time limit; one that fails is told, and the next one runs. The steps: versions,
the device, which kernels run; the tests that compare with the PyTorch original; the bundled model on the GPU and on the
CPU; models of the published widths with random weights: time of prompts, tokens per second, the share of a copy's
bandwidth at which a token's weights, keys and values are read, memory. With ``--dry-run`` the steps run small, on the
CPU: a trial of the script.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

GOLDEN_TESTS = [
    "tests/models/qwen_vl/test_modeling.py",
    "tests/models/qwen_vl/test_language.py",
    "tests/models/qwen_vl/test_vision.py",
    "tests/models/qwen_vl/test_resampler.py",
    "tests/models/qwen_vl/test_generation.py",
    "tests/models/qwen_vl/test_bfloat16.py",
    "tests/quantization/test_loading.py",
]
FORMS = ("int4", "int8", "bf16", "plain")
PROMPTS, CONTEXTS = (300, 8000), (1150, 8000)
QUESTIONS = ("Where is the bus?", "Describe the picture.", "How many objects are there?")
COPIED = 512 << 20  # bytes of the copy that is the yardstick
MOST_LINES = 120


@dataclass(frozen=True)
class Step:
    title: str
    command: Sequence[str]
    limit: int


def steps(dry: bool) -> list[Step]:
    python, this = sys.executable, [sys.executable, str(Path(__file__))]
    tests = GOLDEN_TESTS[1:2] if dry else GOLDEN_TESTS
    size = [
        "--device",
        "cpu",
        "--shrink",
        "16",
        "--layers",
        "1",
        "--prompts",
        "20",
        "--contexts",
        "20",
        "--new-tokens",
        "4",
    ]
    measure = [*this, *(size if dry else []), "--measure"]
    return [
        Step("Installation", [python, "-m", "paddlemix", "doctor"], 300),
        Step("Operators", [python, "-m", "paddlemix.ops"], 120),
        Step("Against the original", [python, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *tests], 600),
        Step("Bundled model", [*this, *(["--device", "cpu"] if dry else []), "--compare"], 300),
        *(Step(f"Published widths, {form}", [*measure, form], 420) for form in (FORMS[:1] if dry else FORMS)),
    ]


def run(step: Step) -> tuple[str, str]:
    """What became of a step in a few words, and what it printed."""
    begin = time.monotonic()
    try:
        done = subprocess.run(
            step.command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=step.limit
        )  # fmt: skip
        printed, end = done.stdout, "ok" if done.returncode == 0 else f"FAILED with status {done.returncode}"
    except subprocess.TimeoutExpired as expired:
        printed, end = expired.stdout or b"", f"STOPPED after {step.limit} s"
    lines = printed.decode(errors="replace").splitlines()
    return f"{end}, {time.monotonic() - begin:.0f} s", "\n".join(lines[-MOST_LINES:])


def machine() -> str:
    query = "name,driver_version,compute_cap,clocks.max.sm,clocks.max.mem,memory.total"
    found = []
    for command in (["nvidia-smi", f"--query-gpu={query}", "--format=csv"], ["git", "log", "-1", "--format=%H %cd"]):
        try:
            found.append(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout.strip())
        except (OSError, subprocess.TimeoutExpired) as error:
            found.append(f"{command[0]}: {error}")
    return "\n".join(found)


# ---------------------------------------------------------------- the steps that are no program of their own


def compare_bundled(device: str) -> int:
    """Answers of the bundled model on the device and on the CPU; 1 where one differs."""
    from paddlemix.predict import predict
    from paddlemix.zoo import DEMO_IMAGE

    different = 0
    for question in QUESTIONS:
        there, here = (predict(question, [str(DEMO_IMAGE)], device=where).text for where in (device, "cpu"))
        different += there != here
        print(
            f"{'same' if there == here else 'DIFFERENT'}: {question} {there!r}"
            + ("" if there == here else f" {here!r}")
        )
    return min(different, 1)


def copy_bandwidth() -> float:
    """Bytes per second, read and written, of a copy on the device."""
    import paddle

    source, target = (paddle.zeros([COPIED], dtype="uint8") for _ in range(2))
    best = float("inf")
    for _ in range(10):
        synchronize()
        start = time.perf_counter()
        paddle.assign(source, target)
        synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * COPIED / best


def synchronize() -> None:
    import paddle

    if paddle.get_device() != "cpu":
        paddle.device.synchronize()


def measure(options: argparse.Namespace) -> None:
    """A table of one form: prompts and tokens behind them."""
    import numpy as np
    import paddle

    from benchmarks.random_weights import config_of, random_model
    from benchmarks.shapes import Shapes
    from paddlemix.quantization.plan import plan_for

    paddle.set_device(options.device)
    on_cpu = paddle.get_device() == "cpu"
    paddle.set_default_dtype("float32" if on_cpu else "bfloat16")
    vocabulary = 151936 if options.shrink == 1 else 64
    config = config_of(Shapes().shrunk(options.shrink), options.layers, 1, vocabulary)
    config.kv_cache_dtype = "bfloat16" if on_cpu else None
    plan = None if options.measure == "plain" else plan_for(None, options.measure, None)
    model = random_model(config, plan)
    weights = sum(
        tensor.size * tensor.element_size()
        for part in (*model.transformer.h, model.lm_head)
        for tensor in (*part.parameters(), *part.buffers())
    )
    generator = np.random.default_rng(0)

    def seconds(length: int, tokens: int) -> float:
        ids = generator.integers(0, 50, [1, length])  # new ones each time: no prefix is found in a cache
        synchronize()
        start = time.perf_counter()
        model.generate(ids, max_new_tokens=tokens, do_sample=False, eos_token_id=-1)
        return time.perf_counter() - start

    copy = copy_bandwidth()
    print(f"{options.layers} layers; a device copy reaches {copy / 1e9:.0f} GB/s.\n")
    print("| weights | prompt | first token ms | token ms | tokens/s | GB a token | of the copy | peak GB |")
    print("| --- | --: | --: | --: | --: | --: | --: | --: |")
    for length in sorted({*options.prompts, *options.contexts}):
        seconds(length, 2)
        first = min(seconds(length, 1) for _ in range(3))
        row = f"| {options.measure} | {length} | {first * 1e3:.1f} |"
        if length in options.contexts:
            step = (min(seconds(length, options.new_tokens) for _ in range(2)) - first) / (options.new_tokens - 1)
            read = weights + 2 * 2 * config.hidden_size * options.layers * (length + options.new_tokens / 2)
            row += f" {step * 1e3:.2f} | {1 / step:.1f} | {read / 1e9:.2f} | {read / step / copy:.0%} |"
        else:
            row += " | | | |"
        peak = "" if on_cpu else f"{paddle.device.cuda.max_memory_allocated() / 1e9:.1f}"
        print(f"{row} {peak} |", flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="All that a GPU with Paddle can tell of this project, in one file.")
    parser.add_argument("--output", type=Path, default=Path("gpu_session_paddle.md"), help="the file to send back")
    parser.add_argument("--dry-run", action="store_true", help="small, on the CPU")
    single = parser.add_argument_group("one step alone")
    single.add_argument("--compare", action="store_true", help="the bundled model on the device and on the CPU")
    single.add_argument("--measure", choices=FORMS, help="a model of the published widths; plain: Paddle's own layers")
    single.add_argument("--device", default="gpu", help="gpu, gpu:N or cpu")
    single.add_argument("--shrink", type=int, default=1, help="divide heads and widths by this")
    single.add_argument("--layers", type=int, default=32)
    single.add_argument("--prompts", type=int, nargs="+", default=list(PROMPTS))
    single.add_argument("--contexts", type=int, nargs="+", default=list(CONTEXTS), help="behind which tokens are timed")
    single.add_argument("--new-tokens", type=int, default=65)
    options = parser.parse_args(arguments)
    if options.compare:
        return compare_bundled(options.device)
    if options.measure:
        measure(options)
        return 0
    parts = [f"# paddlemix on a GPU{', a dry run' if options.dry_run else ''}\n\n```\n{machine()}\n```\n"]
    failed = 0
    for step in steps(options.dry_run):
        print(f"{step.title} …", end=" ", flush=True)
        end, printed = run(step)
        print(end, flush=True)
        failed += not end.startswith("ok")
        parts.append(f"## {step.title}: {end}\n\n" + (printed if "\n| " in printed else f"```\n{printed}\n```") + "\n")
        options.output.write_text("\n".join(parts), encoding="utf-8")
    print(f"{options.output}: {failed} of the steps failed" if failed else f"{options.output} is complete")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
