r"""Ask Qwen-VL one question about an image, or several images.

    %(prog)s --prompt "Where is the dog?"                        the bundled model and image
    %(prog)s --input_image street.jpg --prompt "这是什么？"       the bundled model, your image
    %(prog)s --model_name_or_path qwen-vl/qwen-vl-chat-7b \
        --input_image a.jpg --input_image https://example.org/b.jpg --prompt "What differs?"

Prints `response: …`, and where the answer points at places in the image, `image: …`: the path of a copy with the
boxes drawn in (output/pred.jpg, replaced by the next run). Control characters in an answer are shown escaped. Notes and
errors go to stderr, among them one where the answer was cut off; after an error the exit status is 1, after wrong
options 2, and no file is left half written. Where only the drawn image cannot be written the answer comes all the
same, and the status is 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ...errors import ConfigurationError
from ...inference import CAPTION
from ...options import CONVERSATION, GENERATION, IMAGES, MODEL
from ...zoo import DEFAULT_MODEL, DEMO_IMAGE
from .. import common as cli


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    result = cli.Parser(
        prog=prog, usage="%(prog)s [options]", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    question = result.add_argument_group("question")
    question.add_argument(
        "--input_image",
        action="append",
        metavar="PATH_OR_URL",
        help="an image: file or public http(s) URL; may be repeated (default: the bundled image with the "
        "bundled model, none with another one)",
    )
    question.add_argument("--prompt", metavar="TEXT", help=f"the question (default with an image: {CAPTION!r})")
    cli.add_options(result, MODEL, CONVERSATION, IMAGES, GENERATION)
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


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command and return its exit status."""
    options = parser(prog).parse_args(arguments)
    from ...predict import predict  # needs what --help does not

    given = cli.given_options(options, MODEL, CONVERSATION, IMAGES, GENERATION)
    cli.generation_options(options)  # a wrong one is told before anything else
    images = options.input_image or []
    if not images and options.model in (None, DEFAULT_MODEL):
        images = [DEMO_IMAGE]
        cli.note(f"note: no --input_image, so the question is about the bundled image {DEMO_IMAGE}")
    cli.model_note(options.model)
    reply = predict(options.prompt, images, **given)
    if not options.json:
        cli.output(f"response: {reply.text}")
    path, failure = None, None
    if options.visual:
        try:
            path = reply.save(options.output_dir)
        except ConfigurationError as error:  # the answer stands without its drawing
            failure = error
    if options.json:
        cli.output_json({**reply.to_dict(), "image": path and str(path)})
    elif path is not None:
        cli.output(f"image: {path}")
    cli.cut_off_note(reply.finish_reason, reply.new_tokens)
    if failure is not None:
        cli.note(f"note: the drawn image is missing: {failure}")
        return 1
    return 0
