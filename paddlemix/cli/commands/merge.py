"""Add a LoRA adapter to the weights of its model, and write the result as a model like any other.

    %(prog)s --adapter my-adapter --output_dir my-model                              the bundled model
    %(prog)s --model_name_or_path qwen-vl/qwen-vl-chat-7b --adapter my-adapter --output_dir my-model
    paddlemix predict --model_name_or_path my-model --prompt "..."

The adapter is one of paddlemix finetune, of Hugging Face's peft, or of PaddleNLP. The output is complete: weights,
configuration, tokenizer; paddlemix convert --to hf turns it into what PyTorch tools load. One weight at a time is in
memory. Quantized models (int4, int8, Qwen-VL-Chat-Int4) become 16-bit ones. Stopped half-way, the same command goes on
where it was. After an error the exit status is 1, after wrong options 2.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ...checkpoint.dtypes import TARGETS
from ...utils.progress import ProgressBar
from ...zoo import DEFAULT_MODEL
from .. import common as cli


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    result = cli.Parser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument(
        "--model_name_or_path",
        default=DEFAULT_MODEL,
        metavar="NAME_OR_DIR",
        help="the model that the adapter was trained on (default: %(default)s)",
    )
    result.add_argument("--adapter", "--lora_path", required=True, metavar="DIR", help="the adapter")
    result.add_argument(
        "--output_dir", "--merge_model_path", required=True, metavar="DIR", help="folder to write, made if not there"
    )
    result.add_argument("--dtype", choices=TARGETS, help="number format to write (default: that of the model)")
    cli.add_overwrite_option(result)
    return result


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command and return its exit status."""
    options = parser(prog).parse_args(arguments)
    from ...adapters import merge_adapter  # needs what --help does not

    read = {"the base model": options.model_name_or_path, "the adapter": options.adapter}
    cli.check_output(options.output_dir, "output_dir", read)
    with ProgressBar("merging") as advance:
        folder = merge_adapter(
            options.model_name_or_path,
            options.adapter,
            options.output_dir,
            options.dtype,
            overwrite=options.overwrite,
            progress=advance,
        )
    cli.output(f"{folder}: {options.model_name_or_path} with {options.adapter}")
    return 0
