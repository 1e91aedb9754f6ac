"""Ask Qwen-VL one question about an image, or several images.

    python run_predict.py --prompt "Where is the dog?"                        the bundled model and image
    python run_predict.py --input_image street.jpg --prompt "这是什么？"       the bundled model, your image
    python run_predict.py --model_name_or_path qwen-vl/qwen-vl-chat-7b \\
        --input_image a.jpg --input_image https://example.org/b.jpg --prompt "What differs?"

Prints `response: …`, and where the answer points at places in the image, `image: …`: the path of a copy with the
boxes drawn in (output/pred.jpg, replaced by the next run). Control characters in an answer are shown escaped. Notes and
errors go to stderr, among them one where the answer was cut off; after an error the exit status is 1, after wrong
options 2, and no file is left half written. Where only the drawn image cannot be written the answer comes all the
same, and the status is 1.
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
from paddlemix.errors import ConfigurationError  # noqa: E402
from paddlemix.inference import CAPTION  # noqa: E402
from paddlemix.zoo import DEFAULT_MODEL, DEMO_IMAGE  # noqa: E402


def parser() -> argparse.ArgumentParser:
    result = cli.Parser(
        usage="%(prog)s [options]", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    question = result.add_argument_group("question")
    question.add_argument(
        "--input_image",
        action="append",
        metavar="PATH_OR_URL",
        help="an image: file or public http(s) address; may be repeated (default: the bundled image with the "
        "bundled model, none with another one)",
    )
    question.add_argument("--prompt", metavar="TEXT", help=f"the question (default with an image: {CAPTION!r})")
    cli.add_model_options(result)
    cli.add_image_options(result)
    cli.add_generation_options(result)
    output = result.add_argument_group("output")
    output.add_argument(
        "--visual",
        type=cli.boolean,
        nargs="?",
        const=True,
        default=True,
        metavar="True|False",
        help="draw the boxes of the answer into a copy of the image (default: True)",
    )
    output.add_argument(
        "--output_dir", default="output", metavar="DIR", help="where drawn images go (default: %(default)s)"
    )
    output.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object instead: text, boxes (corners in thousandths of width and height, and in pixels), "
        "finish_reason (stop, or length where it was cut off), timings in seconds, path of the drawn image",
    )
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    from paddlemix.predict import predict  # needs what --help does not

    generation = cli.generation_options(options)
    images = options.input_image or []
    if not images and options.model_name_or_path in (None, DEFAULT_MODEL):
        images = [DEMO_IMAGE]
        cli.note(f"note: no --input_image, so the question is about the bundled image {DEMO_IMAGE}")
    cli.model_note(options.model_name_or_path)
    prediction = predict(
        options.prompt,
        images,
        model=options.model_name_or_path or DEFAULT_MODEL,
        dtype=options.dtype,
        device=options.device,
        quantization=options.quantization,
        vision_quantization=options.vision_quantization,
        kv_cache_dtype=options.kv_cache_dtype,
        adapter=options.adapter,
        system=options.system,
        trusted_tags=options.trusted_tags,
        seed=options.seed,
        **cli.image_options(options),
        **generation,
    )
    if not options.json:
        cli.output(f"response: {prediction.text}")
    path, failure = None, None
    if options.visual:
        try:
            path = prediction.save(options.output_dir)
        except ConfigurationError as error:  # the answer stands without its drawing
            failure = error
    if options.json:
        cli.output_json({**prediction.to_dict(), "image": path and str(path)})
    elif path is not None:
        cli.output(f"image: {path}")
    cli.cut_off_note(prediction.finish_reason, prediction.new_tokens)
    if failure is not None:
        cli.note(f"note: the drawn image is missing: {failure}")
        return 1
    return 0


if __name__ == "__main__":
    cli.run(main)
