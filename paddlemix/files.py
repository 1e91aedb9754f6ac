"""The small files of a model directory: their names and contents, and writing files that are whole or not there."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import CheckpointError

CONFIG_FILE = "config.json"
GENERATION_CONFIG_FILE = "generation_config.json"
PREPROCESSOR_CONFIG_FILE = "preprocessor_config.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
VOCAB_FILE = "qwen.tiktoken"
RUN_FILE = "finetune.json"  # of a training of one's own


def read_json_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a UTF-8 file; None where there is no such file.

    Raises CheckpointError when the file cannot be read or holds anything else.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: got {type(content).__name__}, expected a JSON object")
    return content


def read_json_if_whole(path: Path) -> dict[str, Any] | None:
    """As :func:`read_json_object`, for files that can be done without: None where it is damaged, too."""
    try:
        return read_json_object(path)
    except CheckpointError:
        return None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, readable by people. Raises OSError; an older file is then still there."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file. Raises OSError; an older file is then still there."""
    with replacing(path) as aside, open(aside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to instead of ``path``; what is there at the end takes the place of ``path`` in one step.

    After an exception nothing has changed.
    """
    aside = path_aside(path)
    try:
        yield aside
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise


def path_aside(path: Path) -> Path:
    """A hidden name beside ``path`` that nobody else uses, not even another thread of this process."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
