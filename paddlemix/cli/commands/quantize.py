r"""Calibrate a model to 4 bits with GPTQ and write it in the format of the published Qwen-VL-Chat-Int4.

    %(prog)s --data talks.json --output_dir scenes-int4                        the bundled model
    %(prog)s --model_name_or_path my-model --data talks.json --output_dir my-model-int4

The data is a file for fine-tuning, a JSON list or JSON lines; a hundred or two conversations such as the model will be
used for are enough. Each is a list of messages, {"role": "user", "content": [{"type": "image", "image": "a.jpg"},
{"type": "text", "text": "..."}]} and {"role": "assistant", "content": "..."}, or a record of the original,
{"conversations": [{"from": "user", "value": "Picture 1: <img>a.jpg</img>\n..."}, {"from": "assistant", "value":
"..."}]}. Paths of images are relative to the file.

What it writes is loaded like any model: paddlemix predict --model_name_or_path scenes-int4. The float model and what
reaches its layers must fit into memory; --quantization int4 and nf4 of the other programs need neither data nor that
memory, and round a little worse. Progress goes to stderr; after an error the exit status is 1, after wrong options 2.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ...data.calibration import model_inputs, read_conversations
from ...inference import load_model
from ...media import ImagePolicy
from ...options import IMAGES
from ...utils.progress import ProgressBar
from ...zoo import DEFAULT_MODEL
from .. import common as cli


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    result = cli.Parser(prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--data", required=True, metavar="FILE", help="conversations, JSON or JSON lines")
    result.add_argument("--output_dir", required=True, metavar="DIR", help="where the model is written")
    result.add_argument(
        "--model_name_or_path",
        default=DEFAULT_MODEL,
        metavar="NAME_OR_DIR",
        help="the model to quantize, with float weights (default: %(default)s)",
    )
    result.add_argument("--device", metavar="cpu|gpu|gpu:N", help="where to run (default: the first GPU, else the CPU)")
    result.add_argument(
        "--max_samples", type=cli.positive, default=256, metavar="N", help="conversations to use (default: %(default)s)"
    )
    result.add_argument(
        "--max_length",
        type=cli.positive,
        default=2048,
        metavar="N",
        help="longer ones are left out (default: %(default)s)",
    )
    cli.add_options(result, IMAGES)
    cli.add_overwrite_option(result)
    return result


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command and return its exit status."""
    options = parser(prog).parse_args(arguments)
    # need what --help does not
    from ...quantization.export import check_export, save_gptq
    from ...quantization.gptq import calibrate, layer_shapes

    cli.check_output(options.output_dir, "output_dir", {"the source": options.model_name_or_path})
    images = cli.given_options(options, IMAGES)
    policy = ImagePolicy.scripts(images.pop("max_pixels", None))
    conversations = read_conversations(options.data, policy, bool(options.exif_transpose))[: options.max_samples]
    loaded = load_model(options.model_name_or_path, device=options.device, **images)
    table = loaded.model.weight_table
    check_export(
        loaded.directory, layer_shapes(loaded.model), options.output_dir, table=table, overwrite=options.overwrite
    )
    samples = list(model_inputs(conversations, loaded.processor, max_length=options.max_length, policy=policy))
    cli.note(f"note: {len(samples)} of {len(conversations)} conversations have at most {options.max_length} ids.")
    rounded = calibrate(loaded.model, samples, progress=cli.note)
    with ProgressBar("writing") as advance:
        folder = save_gptq(
            loaded.directory,
            rounded,
            options.output_dir,
            table=table,
            overwrite=options.overwrite,
            progress=advance,
        )
    cli.output(f"{folder}: {len(rounded)} layers in int4")
    return 0
