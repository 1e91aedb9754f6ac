"""Convert a LoRA adapter to the files of Hugging Face's peft, which are also those of this project.

    %(prog)s pytorch-adapter my-adapter                 adapter_model.bin or .safetensors of peft
    %(prog)s paddlemix-adapter my-adapter --dtype float16   lora_model_state.pdparams of PaddleNLP

Adapters need not be converted before they are used: every program here reads all of these as they are, and peft loads
on the original Qwen-VL what fine-tuning here saves. This is for other tools, for another number format, and, with
--model_name_or_path, to check an adapter against its model and note that model's fingerprint in it. It needs no torch
and runs no pickle. After an error the exit status is 1, after wrong options 2.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ...checkpoint.dtypes import TARGETS
from .. import common as cli


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    result = cli.Parser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("input", metavar="INPUT", help="folder of the adapter")
    result.add_argument("output", metavar="OUTPUT", help="folder to write, made if it is not there")
    result.add_argument("--dtype", choices=TARGETS, help="number format to write (default: as stored)")
    result.add_argument(
        "--model_name_or_path", metavar="NAME_OR_DIR", help="the model that the adapter was trained on, to check it"
    )
    cli.add_overwrite_option(result)
    return result


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command and return its exit status."""
    options = parser(prog).parse_args(arguments)
    from ...adapters import convert_adapter  # needs what --help does not

    cli.check_output(options.output, "OUTPUT", {"the source": options.input})
    adapter = convert_adapter(
        options.input,
        options.output,
        dtype=options.dtype,
        base=options.model_name_or_path,
        overwrite=options.overwrite,
    )
    cli.output(
        f"{options.output}: rank {adapter.config.r}, {len(adapter.tensors.pairs)} adapted layers"
        + (f", {len(adapter.tensors.whole)} whole weights" if adapter.tensors.whole else "")
    )
    return 0
