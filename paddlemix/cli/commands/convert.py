"""Convert Qwen-VL weights between PyTorch's layout and Paddle's, in either direction.

    %(prog)s Qwen-VL-Chat qwen-vl-chat-paddle                    Hugging Face -> Paddle
    %(prog)s qwen-vl-chat-paddle qwen-vl-chat-hf --to hf         Paddle -> Hugging Face
    %(prog)s qwen-vl/qwen-vl-chat-7b qwen-vl-chat-hf --to hf     a known name, downloaded

Reads pytorch_model*.bin, *.safetensors and PaddleMIX's model_state.pdparams, which of them is found out; writes
safetensors with an index and a sha256 manifest, and copies configuration and tokenizer along. It needs neither torch
nor much memory. Stopped half-way, the same command goes on where it was; the output appears only when it is complete.
A folder that holds anything else is left alone; --overwrite replaces an earlier result.
Notes and errors go to stderr; after an error the exit status is 1, after wrong options 2.

Models need not be converted before they are used: every program here reads all of these layouts as they are.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from ...checkpoint import convert_checkpoint, resolve
from ...checkpoint.dtypes import TARGETS
from ...models.registry import family_of
from ...utils.progress import ProgressBar
from .. import common as cli


def gigabytes(text: str) -> float:
    """A finite number."""
    size = float(text)
    if not math.isfinite(size):  # float() reads "nan" and "inf" too
        raise ValueError(text)
    return size


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    result = cli.Parser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("input", metavar="INPUT", help="folder or name of the model to convert")
    result.add_argument("output", metavar="OUTPUT", help="folder to write, made if it is not there")
    result.add_argument(
        "--to",
        choices=("paddle", "hf"),
        default="paddle",
        help="layout to write: paddle, ours; hf, what PyTorch tools load (default: %(default)s)",
    )
    result.add_argument("--dtype", choices=TARGETS, help="number format to convert to (default: as stored)")
    result.add_argument(
        "--max_shard_size",
        type=gigabytes,
        default=2.0,
        metavar="GB",
        help="largest size of one file; one tensor is never divided (default: %(default)s)",
    )
    result.add_argument("--verify", action="store_true", help="read everything again and compare it bit by bit")
    result.add_argument("--allow_non_finite", action="store_true", help="accept NaN and infinite values")
    cli.add_overwrite_option(result)
    return result


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command and return its exit status."""
    options = parser(prog).parse_args(arguments)
    cli.check_output(options.output, "OUTPUT", {"the source": options.input})
    source = options.input if Path(options.input).is_file() else resolve(options.input)
    with ProgressBar("converting") as converting, ProgressBar("verifying") as verifying:
        result = convert_checkpoint(
            source,
            options.output,
            options.to,
            family=family_of(Path(source)),
            dtype=options.dtype,
            verify=options.verify,
            check_finite=not options.allow_non_finite,
            max_shard_bytes=int(options.max_shard_size * 1e9),
            overwrite=options.overwrite,
            progress=converting,
            verify_progress=verifying,
        )
    for name in result.passed_over:
        cli.note(f"note: {name} is computed, not learned, and was left out.")
    for name in result.missing:
        cli.note(f"note: {name} is missing in the source; programs need it beside the weights to answer.")
    cli.output(
        f"{result.folder}: {result.tensors} tensors, {result.total_bytes / 1e9:.2f} GB, {len(result.files)} files, "
        f"{result.source_layout} -> {result.layout}" + (", verified" if result.verified else "")
    )
    return 0
