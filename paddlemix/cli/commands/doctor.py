"""Report what is installed, which device Paddle uses, and whether a tiny model runs, to paste into a bug report.

    %(prog)s

The exit status is 0 when a tiny Qwen-VL with random weights ran on the device, 1 when something needed is missing or
failed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ... import __version__
from ..program import Parser

NEEDED = ["paddlenlp", "numpy", "pillow", "safetensors", "tiktoken", "aistudio-sdk", "datasets", "pyarrow"]
PADDLES = ["paddlepaddle", "paddlepaddle-gpu"]
GIB = 1024**3
PACKAGE = Path(__file__).resolve().parents[2]

# The published architecture at toy size: two layers on each side, an image of 4 x 4 patches read by 4 queries.
TINY_CONFIG: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "kv_channels": 64,
    "intermediate_size": 128,
    "seq_length": 128,
    "visual": {
        "image_size": 56,
        "patch_size": 14,
        "width": 64,
        "layers": 2,
        "heads": 2,
        "mlp_ratio": 2.0,
        "output_dim": 128,
        "n_queries": 4,
        "image_start_id": 500,
    },
}


def line(name: str, value: object) -> None:
    """Print one fact."""
    print(f"{name:<22} {value}")


def installed_version(distribution: str) -> str | None:
    """The version of a distribution; ``None`` where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def report_machine() -> None:
    """Print the system, the interpreter, the processors and the memory."""
    line("system", platform.platform())
    line("python", f"{platform.python_version()} ({sys.executable})")
    line("processors", f"{os.cpu_count()}, {cpu_extensions()}")
    line("memory", memory())


def cpu_extensions() -> str:
    """The instruction sets that matter here."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    known = ["avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd"]
    return " ".join(flag for flag in known if flag in flags) or "extensions unknown"


def memory() -> str:
    """Free and total memory, in words."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return "unknown"
    kib = {row.split(":")[0]: int(row.split()[1]) for row in meminfo.read_text().splitlines()}
    return f"{kib['MemAvailable'] * 1024 / GIB:.1f} GiB free of {kib['MemTotal'] * 1024 / GIB:.1f} GiB"


def report_packages() -> list[str]:
    """Print the versions; return what is wrong, in words."""
    problems = []
    line("paddlemix", f"{__version__} ({PACKAGE})")
    paddles = [name for name in PADDLES if installed_version(name)]
    if not paddles:
        problems.append("Paddle is not installed: pip install -c constraints.txt -e '.[cpu]' or Paddle's own GPU wheel")
    if len(paddles) > 1:
        problems.append("paddlepaddle and paddlepaddle-gpu own the same folder: uninstall both, install one again")
    for name in paddles + NEEDED:
        version = installed_version(name)
        line(name, version or "MISSING")
        if version is None:
            problems.append(f"{name} is not installed: pip install -c constraints.txt -e '.[cpu]'")
    return problems


def report_device() -> None:
    """Print what Paddle was built for and which GPUs it sees."""
    import paddle

    line("device of paddle", paddle.device.get_device())
    if not paddle.device.is_compiled_with_cuda():
        line("GPU", "this Paddle is built for CPU only")
        return
    line("built with", f"CUDA {paddle.version.cuda()}, cuDNN {paddle.version.cudnn()}")
    count = paddle.device.cuda.device_count()
    if count == 0:
        line("GPU", "this Paddle is built for CUDA but sees no GPU")
    for index in range(count):
        gpu = paddle.device.cuda.get_device_properties(index)
        details = f"compute capability {gpu.major}.{gpu.minor}, {gpu.total_memory / GIB:.1f} GiB"
        line(f"GPU {index}", f"{gpu.name}, {details}, {gpu.multi_processor_count} multiprocessors")
    if count:
        line("bfloat16 on GPU", "yes" if paddle.amp.is_bfloat16_supported() else "no: float16 will be used instead")


def operators() -> str:
    """Which operators are used: the fused kernels, or plain Paddle and why."""
    from ...ops import backend

    library = backend.library()
    if library.functions is None:
        return f"plain Paddle: {library.missing}"
    used = backend.INSTRUCTION_SETS[library.functions.paddlemix_cpu_isa()]
    return f"fused kernels for {' and '.join(library.devices)} ({used}), PADDLEMIX_OPS={backend.mode()}"


def run_tiny_model() -> str:
    """One forward pass over a prompt with an image; returns words about it, raises when the numbers are unusable."""
    import paddle

    from ...models.qwen_vl.configuration import QWenVLConfig
    from ...models.qwen_vl.modeling import QWenLMHeadModel

    paddle.seed(0)
    model = QWenLMHeadModel(QWenVLConfig(**TINY_CONFIG))
    model.eval()
    visual = TINY_CONFIG["visual"]
    start = visual["image_start_id"]
    # <img>, one placeholder per query, </img>, then text: the special ids follow each other.
    image = [start] + [start + 2] * visual["n_queries"] + [start + 1]
    input_ids = paddle.to_tensor([image + list(range(1, 9))], dtype="int64")
    images = paddle.randn([1, 3, visual["image_size"], visual["image_size"]])
    began = time.perf_counter()
    with paddle.no_grad():
        logits = model(input_ids, images=images).logits
    milliseconds = (time.perf_counter() - began) * 1000
    if not bool(paddle.isfinite(logits).all()):
        raise FloatingPointError("the logits of the tiny model are not finite")
    return f"ran on {logits.place} in {milliseconds:.0f} ms, logits {list(logits.shape)} {logits.dtype}"


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    return Parser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command and return its exit status."""
    parser(prog).parse_args(arguments)
    report_machine()
    problems = report_packages()
    if not problems:
        try:
            report_device()
            line("operators", operators())
            line("tiny model", run_tiny_model())
        except Exception as error:  # noqa: BLE001 - whatever breaks here is what the report is for
            traceback.print_exc()
            problems.append(f"the tiny model did not run: {type(error).__name__}: {error}")
    for problem in problems:
        print(f"problem: {problem}")
    print("result: " + ("not usable as it is" if problems else "ready"))
    return 1 if problems else 0
