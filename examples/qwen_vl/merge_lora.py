"""Add a LoRA adapter to the weights of its model, and write the result as a model like any other.

    python merge_lora.py --adapter my-adapter --output_dir my-model                              the bundled model
    python merge_lora.py --model_name_or_path qwen-vl/qwen-vl-chat-7b --adapter my-adapter --output_dir my-model
    python run_predict.py --model_name_or_path my-model --prompt "..."

The adapter is one of finetune.py, of Hugging Face's peft, or of PaddleNLP. The output is complete: weights,
configuration, tokenizer; convert_weights.py --to hf turns it into what PyTorch tools load. One weight at a time is in
memory. Quantized models (int4, int8, Qwen-VL-Chat-Int4) become 16-bit ones. Stopped half-way, the same command goes on
where it was. After an error the exit status is 1, after wrong options 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# A checkout works without being installed.
_CHECKOUT = Path(__file__).resolve().parent.parent.parent
if (_CHECKOUT / "paddlemix" / "errors.py").is_file():
    sys.path.insert(0, str(_CHECKOUT))

from paddlemix.checkpoint.dtypes import TARGETS  # noqa: E402
from paddlemix.cli import common as cli  # noqa: E402
from paddlemix.utils.progress import ProgressBar  # noqa: E402
from paddlemix.zoo import DEFAULT_MODEL  # noqa: E402


def parser() -> argparse.ArgumentParser:
    result = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    from paddlemix.finetune import merge_adapter  # needs what --help does not

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


if __name__ == "__main__":
    cli.run(main)
