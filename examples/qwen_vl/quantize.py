"""Calibrate a model to 4 bits with GPTQ and write it in the format of the published Qwen-VL-Chat-Int4.

    python quantize.py --data talks.json --output_dir scenes-int4                        the bundled model
    python quantize.py --model_name_or_path my-model --data talks.json --output_dir my-model-int4

The data is a file for fine-tuning, a JSON list or JSON lines; a hundred or two conversations such as the model will be
used for are enough. Each is a list of messages, {"role": "user", "content": [{"type": "image", "image": "a.jpg"},
{"type": "text", "text": "..."}]} and {"role": "assistant", "content": "..."}, or a record of the original,
{"conversations": [{"from": "user", "value": "Picture 1: <img>a.jpg</img>\\n..."}, {"from": "assistant", "value":
"..."}]}. Paths of images are relative to the file.

What it writes is loaded like any model: run_predict.py --model_name_or_path scenes-int4. The float model and what
reaches its layers must fit into memory; --quantization int4 of the other programs needs neither data nor that memory,
and rounds a little worse. Progress goes to stderr; after an error the exit status is 1, after wrong options 2.
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

from paddlemix.cli import common as cli  # noqa: E402
from paddlemix.data.calibration import model_inputs, read_conversations  # noqa: E402
from paddlemix.inference import load_model  # noqa: E402
from paddlemix.media import ImagePolicy  # noqa: E402
from paddlemix.utils.progress import ProgressBar  # noqa: E402
from paddlemix.zoo import DEFAULT_MODEL  # noqa: E402


def parser() -> argparse.ArgumentParser:
    result = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    cli.add_image_options(result)
    cli.add_overwrite_option(result)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    # need what --help does not
    from paddlemix.quantization.export import check_export, save_gptq
    from paddlemix.quantization.gptq import calibrate, layer_shapes

    cli.check_output(options.output_dir, "output_dir", {"the source": options.model_name_or_path})
    images = cli.image_options(options)
    policy = ImagePolicy.scripts(images.pop("max_pixels"))
    conversations = read_conversations(options.data, policy, bool(options.exif_transpose))[: options.max_samples]
    loaded = load_model(options.model_name_or_path, device=options.device, **images)
    check_export(loaded.directory, layer_shapes(loaded.model), options.output_dir, overwrite=options.overwrite)
    samples = list(model_inputs(conversations, loaded.processor, max_length=options.max_length, policy=policy))
    cli.note(f"note: {len(samples)} of {len(conversations)} conversations have at most {options.max_length} ids.")
    rounded = calibrate(loaded.model, samples, progress=cli.note)
    with ProgressBar("writing") as advance:
        folder = save_gptq(loaded.directory, rounded, options.output_dir, overwrite=options.overwrite, progress=advance)
    cli.output(f"{folder}: {len(rounded)} layers in int4")
    return 0


if __name__ == "__main__":
    cli.run(main)
