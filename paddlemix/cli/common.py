"""What the command-line programs share: options of model and generation, notes, checks of output folders."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..options import ALL_OPTIONS, GENERATION, check_generation_options
from ..utils.arguments import boolean, positive
from ..zoo import DEFAULT_MODEL
from . import arguments
from .console import note, output, output_json
from .program import INTERRUPTED, Parser, run

__all__ = [
    "INTERRUPTED", "Parser", "add_options", "add_overwrite_option", "boolean", "check_output", "cut_off_note",
    "cut_off_words", "generation_options", "given_options", "model_note", "note", "output", "output_json", "positive",
    "run",
]  # fmt: skip

_DESCRIPTIONS = {GENERATION: "what is not given comes from the model's generation_config.json"}


def add_options(parser: argparse.ArgumentParser, *groups: str) -> None:
    """Add the options of some groups of :data:`paddlemix.options.ALL_OPTIONS`."""
    arguments.add_options(parser, ALL_OPTIONS, {group: _DESCRIPTIONS.get(group) for group in groups})


def given_options(parsed: argparse.Namespace, *groups: str) -> dict[str, Any]:
    """The options of some groups that a command line has, by their names in Python."""
    return arguments.given_options(parsed, {name: item for name, item in ALL_OPTIONS.items() if item.group in groups})


def generation_options(parsed: argparse.Namespace) -> dict[str, Any]:
    """The generation options that were given. Raises ConfigurationError for values that cannot work."""
    return check_generation_options(given_options(parsed, GENERATION))


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
        folder: where a result is to be written.
        field: the name of its option, for messages.
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


def cut_off_words(new_tokens: int) -> str:
    """What to tell a person about an answer that ended with ``"length"`` after so many tokens."""
    return (
        f"the answer was cut off after {new_tokens} tokens; --max_new_tokens N allows more, "
        "as far as the model's window goes"
    )


def cut_off_note(finish_reason: str, new_tokens: int) -> None:
    """Say so where an answer was cut off."""
    if finish_reason == "length":
        note(f"note: {cut_off_words(new_tokens)}")
