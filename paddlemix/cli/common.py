"""What the command-line programs share: options of model and generation, one-line errors, quiet imports."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..checkpoint.dtypes import KV_CACHE_DTYPES, TARGETS
from ..errors import OutputError, PaddleMixError
from ..inference import GENERATION_OPTIONS, check_generation_options, cut_off_words
from ..quantization.plan import QUANTIZATIONS, VISION_QUANTIZATIONS
from ..utils.arguments import boolean
from ..utils.dependencies import INSTALL, ignore_import_warnings
from ..zoo import DEFAULT_MODEL
from .console import abandon_output, error_line, note, output, output_json, prepare_streams, write

__all__ = [
    "INTERRUPTED", "Parser", "add_generation_options", "add_model_options", "boolean", "cut_off_note",
    "generation_options", "model_note", "note", "output", "output_json", "positive", "run",
]  # fmt: skip

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, exit status 2; ``--help`` has the rest."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (--help lists the options)\n")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number of at least 1")
    return int(text)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Which model, in which number formats, on which device, and what it is told before the conversation."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model_name_or_path",
        metavar="NAME_OR_DIR",
        help="a directory, or a name such as qwen-vl/qwen-vl-chat-7b, which is downloaded when it is not there "
        f"(default: {DEFAULT_MODEL}, the small model that comes with the project)",
    )
    group.add_argument("--adapter", metavar="DIR", help="a LoRA adapter for the model, as fine-tuning or peft saves it")
    group.add_argument(
        "--dtype",
        choices=TARGETS,
        help="number format of the weights on a GPU (default: bfloat16); a CPU always computes in float32",
    )
    group.add_argument(
        "--quantization",
        choices=QUANTIZATIONS,
        help="round the weights to this format while loading; int4 makes head and vision int8 (default: as they are)",
    )
    group.add_argument(
        "--vision_quantization",
        choices=VISION_QUANTIZATIONS,
        help="another format for the image encoder (default: int8 with int4 and int8)",
    )
    group.add_argument(
        "--kv_cache_dtype",
        choices=KV_CACHE_DTYPES,
        help="number format of cached keys and values (default: as the activations; on a CPU bfloat16 halves them)",
    )
    group.add_argument("--device", metavar="cpu|gpu|gpu:N", help="where to run (default: the first GPU, else the CPU)")
    group.add_argument(
        "--seed", type=int, default=1234, help="of the random draws, -1 for a new one (default: %(default)s)"
    )
    group.add_argument("--system", metavar="TEXT", help="system text that chat models get before the conversation")
    group.add_argument(
        "--trusted_tags",
        type=boolean,
        nargs="?",
        const=True,
        default=False,
        metavar="True|False",
        help="read <ref>, <box> and <quad> in your text as tags (default: False, text is only text)",
    )


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """How images are read and shown to the model."""
    group = parser.add_argument_group("images")
    group.add_argument(
        "--exif_transpose",
        type=boolean,
        nargs="?",
        const=True,
        metavar="True|False",
        help="turn photos upright by their EXIF orientation; boxes, pixels and drawn images are then those of the "
        "upright image (default: as the model's preprocessor_config.json says, else False, as the original)",
    )
    group.add_argument(
        "--background",
        metavar="COLOR",
        help="color that transparent images are laid upon, such as white or #fff8f0 (default: the alpha channel is "
        "dropped, as in the original)",
    )
    group.add_argument(
        "--max_pixels",
        type=positive,
        metavar="N",
        help="most pixels of an image in memory (default: 32000000); a larger JPEG is read at a half, a quarter or an "
        "eighth of its size, another image is refused",
    )


def image_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of :func:`add_image_options`, as :func:`paddlemix.predict.predict` and others take them."""
    return {name: getattr(arguments, name) for name in ("exif_transpose", "background", "max_pixels")}


def add_generation_options(parser: argparse.ArgumentParser) -> None:
    """One option for each entry of :data:`GENERATION_OPTIONS`."""
    group = parser.add_argument_group("generation", "what is not given comes from the model's generation_config.json")
    for name, (kind, text) in GENERATION_OPTIONS.items():
        if kind is bool:
            group.add_argument(f"--{name}", type=boolean, nargs="?", const=True, metavar="True|False", help=text)
        elif kind is str:
            group.add_argument(f"--{name}", action="append", metavar="TEXT", help=f"{text} (may be repeated)")
        else:
            group.add_argument(f"--{name}", type=kind, metavar=kind.__name__.upper(), help=text)


def generation_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The generation options that were given. Raises ConfigurationError for values that cannot work."""
    return check_generation_options({name: getattr(arguments, name) for name in GENERATION_OPTIONS})


def add_overwrite_option(parser: argparse.ArgumentParser) -> None:
    """``--overwrite``, the same for every program that writes a folder."""
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a result that an earlier run wrote there; files of others are never touched",
    )


def check_output(folder: str, field: str, sources: Mapping[str, str | None]) -> None:
    """Refuse, before any work, a folder without a name, that of a source, and one that holds foreign files.

    Args:
        sources: what is read: what it is (``the source``) -> its folder, or a name, which is no folder to write to.

    Raises:
        TargetError.
    """
    from ..checkpoint.target import check_target, require_free

    places = {what: Path(name) for what, name in sources.items() if name is not None and Path(name).exists()}
    require_free(check_target(folder, field, places), overwrite=True)


def model_note(name: str | None) -> None:
    """Say what the bundled model is when it is the one in use."""
    if name is None or name == DEFAULT_MODEL:
        note(f"note: {DEFAULT_MODEL} is the small bundled model: it answers about drawn scenes of everyday objects.")


def cut_off_note(finish_reason: str, new_tokens: int) -> None:
    """Say so where an answer was cut off."""
    if finish_reason == "length":
        note(f"note: {cut_off_words(new_tokens)}")


def run(main: Callable[[Sequence[str] | None], int]) -> NoReturn:
    """Run a program: a deliberate error becomes one line ``error: …`` on stderr and exit status 1.

    So does an output that cannot be written; where its reader has gone (a closed pipe) there is nobody left to tell.
    """
    prepare_streams()
    _quiet_imports()
    try:
        status = _finish(main)
    except OutputError as error:
        abandon_output()
        note(error_line(error))
        status = 1
    except PaddleMixError as error:
        note(error_line(error))
        status = 1
    except ModuleNotFoundError as error:
        note(f"error: the package {error.name!r} is not installed; what paddlemix needs: {INSTALL}")
        status = 1
    except BrokenPipeError:
        abandon_output()
        status = 1
    except KeyboardInterrupt:
        note("interrupted")
        status = INTERRUPTED
    sys.exit(status)


def _finish(main: Callable[[Sequence[str] | None], int]) -> int | str | None:
    """The exit status of a program, whose output is then out."""
    try:
        status = main(None)
    except SystemExit as exit_:  # --help, or wrong options
        status = exit_.code
    if sys.stdout is not None:
        write(sys.stdout, "")
    return status


def _quiet_imports() -> None:
    """Keep what Paddle and PaddleNLP tell their developers off a user's terminal; warnings about the work stay."""
    ignore_import_warnings()
    # a filter, since PaddleNLP sets the level of its logger on import
    logging.getLogger("PaddleNLP").addFilter(lambda record: record.levelno >= logging.WARNING)
    # the first to say how log lines look decides: like the notes of the program, not like the log of a library
    logging.basicConfig(format="note: %(message)s", level=logging.WARNING)
