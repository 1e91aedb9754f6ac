"""Files that users hand in, and the small files of a model directory.

Every text and JSON file is read here: regular files only, up to a size, in UTF-8 with or without a byte order mark.
What is wrong with one comes out as the caller's own type of error, in one line. Files are written so that they are
whole or not there.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import CheckpointError, PaddleMixError
from .display import one_line
from .foreign_file import foreign_content
from .json_text import JSONError, parse_json

CONFIG_FILE = "config.json"
GENERATION_CONFIG_FILE = "generation_config.json"
PREPROCESSOR_CONFIG_FILE = "preprocessor_config.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
VOCAB_FILE = "qwen.tiktoken"
MAX_VOCABULARY_BYTES = 16 << 20  # the published file has 2.5 MB
QUANTIZE_CONFIG_FILE = "quantize_config.json"  # of AutoGPTQ
RUN_FILE = "finetune.json"  # of a training of one's own
_ASIDE = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.tmp")


MAX_TEXT_BYTES = 16 << 20
"""Of a configuration, a script or a saved setting. What may be larger is read with a limit of its own."""
MAX_LINE_CHARS = 16 << 20
"""Of one line of JSON lines."""

_UTF16_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_JSON_CONTAINER = re.compile(rb"(\xef\xbb\xbf)?\s*[{\[]")

ErrorType = Callable[[str], PaddleMixError]
"""The class that a reader raises with its message: each caller documents its own."""


# ---------------------------------------------------------------- reading


def open_regular(path: str | bytes | os.PathLike[str]) -> BinaryIO:
    """Open a regular file to read its bytes, unbuffered.

    Raises:
        OSError: it is missing, may not be read, or is a directory, device, pipe or socket. Nothing of these is waited
            for; :func:`reason` says what it is.
    """
    # Looked at before it is opened, because opening a device can have effects; and after, because it may have changed.
    _require_regular(os.stat(path).st_mode)
    # O_NONBLOCK: opening a named pipe must not wait for a writer
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _require_regular(os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


def pieces_up_to(file: BinaryIO, count: int) -> Iterator[bytes]:
    """At most ``count`` bytes of a file, in pieces."""
    while count > 0 and (piece := file.read(min(count, 1 << 20))):
        count -= len(piece)
        yield piece


def reason(error: OSError | ValueError) -> str:
    """Why a path cannot be opened, as one phrase: of an OSError, or of the ValueError for a path that cannot be."""
    return getattr(error, "strerror", None) or one_line(error)


def read_bytes(path: str | os.PathLike[str], *, limit: int = MAX_TEXT_BYTES, error: ErrorType) -> bytes:
    """The bytes of a regular file of at most ``limit`` bytes.

    Raises:
        error: it is missing, not readable, larger, or no regular file.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            # Files of the kernel say 0 and have more.
            data = b"" if size > limit else b"".join(pieces_up_to(file, limit + 1))
    except (OSError, ValueError) as cause:
        raise error(f"{os.fspath(path)} cannot be read: {reason(cause)}") from cause
    if size > limit or len(data) > limit:
        had = f"{size} bytes" if size > limit else "more"
        raise error(f"{os.fspath(path)} cannot be read: it has {had}, expected at most {limit} bytes")
    return data


def read_text(path: str | os.PathLike[str], *, limit: int = MAX_TEXT_BYTES, error: ErrorType) -> str:
    """The text of a regular UTF-8 file, without its byte order mark.

    Raises:
        error: as :func:`read_bytes`, and for bytes that are not UTF-8.
    """
    return decode_text(read_bytes(path, limit=limit, error=error), os.fspath(path), error=error)


def decode_text(data: bytes, name: str, *, error: ErrorType) -> str:
    """UTF-8 bytes as text, without a byte order mark; ``name`` says in messages where they are from.

    Raises:
        error: bytes that are not UTF-8; UTF-16 is named.
    """
    if data.startswith(_UTF16_MARKS):
        raise error(f"{name}: is UTF-16 or UTF-32 text, expected UTF-8; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        line = data.count(b"\n", 0, cause.start) + 1
        raise error(f"{name}:{line}: not UTF-8 text (byte {cause.start} of the file)") from cause


def strip_bom(text: str) -> str:
    """The text without the byte order mark that some editors write before it."""
    return text.removeprefix("\ufeff")


def read_json(
    path: str | os.PathLike[str],
    *,
    limit: int = MAX_TEXT_BYTES,
    error: ErrorType = CheckpointError,
    allow_nan: bool = False,
    unique_names: bool = False,
) -> Any:
    """The value in a JSON file; ``allow_nan`` and ``unique_names`` as in :func:`paddlemix.utils.json_text.parse_json`.

    Raises:
        error: as :func:`read_text`, and for what is no JSON, or nested too deeply.
    """
    data = read_bytes(path, limit=limit, error=error)
    if data.strip() and not _JSON_CONTAINER.match(data):
        other = foreign_content(data, text=True)
        if other is not None:
            raise error(f"{os.fspath(path)} {other}")
    text = decode_text(data, os.fspath(path), error=error)
    try:
        return parse_json(text, allow_nan=allow_nan, unique_names=unique_names)
    except JSONError as cause:
        raise error(f"{os.fspath(path)} cannot be read as JSON: {cause}") from cause


def read_json_object(
    path: Path,
    *,
    limit: int = MAX_TEXT_BYTES,
    error: ErrorType = CheckpointError,
    allow_nan: bool = False,
    unique_names: bool = False,
) -> dict[str, Any] | None:
    """The JSON object in a UTF-8 file; None where there is no such file. Arguments as :func:`read_json`.

    Raises:
        error: the file cannot be read or holds anything else.
    """
    if not os.path.lexists(path):
        return None
    content = read_json(path, limit=limit, error=error, allow_nan=allow_nan, unique_names=unique_names)
    if not isinstance(content, dict):
        raise error(f"{path}: got {type(content).__name__}, expected a JSON object")
    return content


def read_json_if_whole(path: Path) -> dict[str, Any] | None:
    """As :func:`read_json_object`, for files that can be done without: None where it is damaged, too."""
    try:
        return read_json_object(path, allow_nan=True)
    except CheckpointError:
        return None


def read_json_lines(
    path: str | os.PathLike[str],
    *,
    limit: int,
    line_limit: int = MAX_LINE_CHARS,
    error: ErrorType,
    allow_nan: bool = False,
) -> Iterator[tuple[int, Any]]:
    """The values of a file with one JSON value a line, each with the number of its line; empty lines are passed over.

    Raises:
        error: as :func:`read_text`, and for a line that is no JSON or longer than ``line_limit`` characters.
    """
    for number, line in enumerate(read_text(path, limit=limit, error=error).split("\n"), start=1):
        if len(line) > line_limit:
            raise error(f"{os.fspath(path)}:{number}: {len(line)} characters, expected at most {line_limit} in a line")
        if line.strip():
            try:
                yield number, parse_json(line, allow_nan=allow_nan)
            except JSONError as cause:
                raise error(f"{os.fspath(path)}:{number}: is no JSON: {cause}") from cause


def _require_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _KINDS if test(mode)), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, expected a regular file")


# ---------------------------------------------------------------- writing


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, readable by people. Raises OSError; an older file is then still there."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    r"""Write a UTF-8 file. Raises OSError; an older file is then still there.

    Surrogates that stand alone, which UTF-8 does not have, are written as ``\ud800``, which JSON reads back.
    """
    with replacing(path) as aside, open(aside, "x", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to instead of ``path``; what is there at the end takes the place of ``path`` in one step.

    After an exception nothing has changed. Raises OSError for a ``path`` that is a device, a pipe or a socket.
    """
    require_replaceable(path)
    aside = path_aside(path)
    try:
        yield aside
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise


def require_replaceable(path: Path) -> None:
    """Raise OSError where ``path`` is a device, a pipe or a socket: it would be gone, and a file in its place."""
    with contextlib.suppress(FileNotFoundError):
        mode = os.lstat(path).st_mode
        if not (stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
            _require_regular(mode)


def path_aside(path: Path) -> Path:
    """A hidden name beside ``path`` that nobody else uses, not even another thread of this process."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def written_aside(name: str) -> str | None:
    """The name of the file that a process which did not finish was writing under :func:`path_aside`'s ``name``."""
    found = _ASIDE.fullmatch(name)
    return found and found["name"]


@contextlib.contextmanager
def told_as_checkpoint_error(path: Path) -> Iterator[None]:
    """Raise CheckpointError, naming ``path``, where the system cannot write inside."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from error
