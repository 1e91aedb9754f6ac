"""Fetching one file over http(s): bounded, resumed where it stopped, checked, and renamed when it is whole."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Callable, Optional

from ..errors import CheckpointError
from ..utils.display import one_line
from ..utils.files import (
    CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    MAX_TEXT_BYTES,
    PREPROCESSOR_CONFIG_FILE,
    QUANTIZE_CONFIG_FILE,
    TOKENIZER_CONFIG_FILE,
    open_regular,
    read_json_if_whole,
    read_json_object,
    write_json,
)
from ..utils.foreign_file import HEAD_BYTES, foreign_content
from .transport import Answer, NotThereError, RefusedAnswerError, UnreachableError, get, shown
from .writer import file_sha256

__all__ = [
    "NotThereError",
    "RefusedAnswerError",
    "RemoteFile",
    "UnreachableError",
    "content_problem",
    "download",
    "fetch_json",
]

TIMEOUT_SECONDS = 20
"""Without a byte, after which a connection counts as dead."""
LISTING_SECONDS = 30
"""For a whole listing."""
ATTEMPTS = 5
MAX_LISTING_BYTES = 10_000_000
MAX_WEIGHT_BYTES = 100 * 10**9
"""Of one file of weights. Those of a 7B model in float32 take 38.6 GB together."""
#: the JSON that models are read by; other JSON in a folder is none of our business
_JSON_OBJECTS = (
    CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    PREPROCESSOR_CONFIG_FILE,
    QUANTIZE_CONFIG_FILE,
    TOKENIZER_CONFIG_FILE,
)
_WEIGHTS = (".safetensors", ".bin", ".pdparams")
# An attempt that brought less than this is a failed one: a server could go on for ever by a byte each.
_PROGRESS_BYTES = 1_000_000
_CHUNK = 1 << 20

OnBytes = Optional[Callable[[int], Any]]


@dataclass(frozen=True)
class RemoteFile:
    """A file in a store: its name in the model's folder, where it is, and what is known about its content.

    ``sha256`` of the content, or ``git_sha1`` (the id that git gives a blob), or neither. ``optional``: a store without
    a listing may not have it. ``headers``: to be sent, such as a token.
    """

    name: str
    url: str
    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    optional: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def most(self) -> int:
        """Bytes that it may have, by its kind."""
        return MAX_WEIGHT_BYTES if self.name.endswith(_WEIGHTS) else MAX_TEXT_BYTES


def fetch_json(url: str, headers: Mapping[str, str] | None = None) -> Any:
    """The JSON document at ``url``.

    Raises:
        NotThereError: the server has none.
        UnreachableError: no answer came.
        RefusedAnswerError: the answer is too large or no JSON.
    """
    with _open(url, headers or {}, total=LISTING_SECONDS) as answer:
        raw = bytearray()
        while chunk := answer.read():
            raw += chunk
            if len(raw) > MAX_LISTING_BYTES:
                raise RefusedAnswerError(f"{shown(url)}: answer is larger than {MAX_LISTING_BYTES} bytes")
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        other = foreign_content(raw, text=True)
        what = f"it {other.partition(';')[0]}" if other else one_line(error)
        raise RefusedAnswerError(f"{shown(url)}: answer is not JSON ({what})") from error


def download(remote: RemoteFile, path: Path, on_bytes: OnBytes = None, pause: float = 1.0) -> None:
    """Fetch ``remote`` to ``path``. What an interrupted earlier call left in ``path.part`` is continued.

    Args:
        remote: what to fetch.
        path: where to; it is there only when its size, its checksum and its kind are right.
        on_bytes: called with the number of bytes that have arrived, those of an earlier call included; negative if
            they had to be thrown away.
        pause: seconds before the second attempt, doubling.

    Raises:
        NotThereError: the store does not have it.
        UnreachableError: ``ATTEMPTS`` attempts brought nothing, or what came is something else (RefusedAnswerError).
        CheckpointError: size or checksum are not what the store states, or ``path.part`` is no file of ours.
        OSError: it cannot be written.
    """
    part, note = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.json")
    _tell(on_bytes, _size_of(part))
    failures = 0
    while True:
        before = _size_of(part)
        try:
            _continue(remote, part, note, on_bytes)
            break
        except RefusedAnswerError:
            raise
        except UnreachableError:
            failures = 1 if _size_of(part) >= before + _PROGRESS_BYTES else failures + 1
            if failures >= ATTEMPTS:
                raise
            time.sleep(pause * 2 ** (failures - 1))
    problem = _wrong_content(remote, part)
    if problem:
        raise _mismatch(remote, problem, part, note)
    problem = content_problem(part, remote.name)
    if problem:
        _remove(part, note)
        raise RefusedAnswerError(f"{shown(remote.url)}: what came {problem}")
    os.replace(part, path)
    note.unlink(missing_ok=True)


def content_problem(path: Path, name: str) -> str | None:
    """What is wrong with a file of a model by its kind, as the rest of a sentence; None where nothing is seen.

    JSON that models are read by is parsed. Of weights and vocabulary the beginning is looked at, for pages of a
    network's login, pointers and messages of a server.

    Args:
        path: the file. name: what it is called in the model's folder.
    """
    if name in _JSON_OBJECTS or name.endswith(".index.json"):
        try:
            read_json_object(path, allow_nan=True)
        except CheckpointError as error:
            return one_line(error).removeprefix(str(path)).lstrip(": ").partition(";")[0]
        return None
    if not name.endswith((*_WEIGHTS, ".tiktoken")):
        return None
    with open_regular(path) as file:
        head = file.read(HEAD_BYTES + 1)
    problem = foreign_content(head, text=not name.endswith(_WEIGHTS))
    return None if problem is None else problem.partition(";")[0]


def _continue(remote: RemoteFile, part: Path, note: Path, on_bytes: OnBytes) -> None:
    """One attempt: append to ``part`` what is missing. The note beside it says which version of the file it is from."""
    have = _size_of(part)
    known = read_json_if_whole(note) or {}
    etag = known.get("etag") if known.get("url") == remote.url else None
    if have and (remote.size is not None and have == remote.size):
        return
    if have and not (isinstance(etag, str) or remote.sha256 or remote.git_sha1):
        have = _discard(part, have, on_bytes)  # nothing would tell a mixture of two versions
    headers = dict(remote.headers)
    if have:
        headers["Range"] = f"bytes={have}-"
        if isinstance(etag, str):
            headers["If-Range"] = etag
    try:
        answer = _open(remote.url, headers)
    except _RangeError:
        _discard(part, have, on_bytes)
        raise UnreachableError(
            f"{shown(remote.url)}: the store's file is shorter than what was fetched before"
        ) from None
    with answer:
        if have and not (answer.status == 206 and _starts_at(answer, have)):
            have = _discard(part, have, on_bytes)
        elif not have and answer.status == 206:
            raise RefusedAnswerError(f"{shown(remote.url)}: sends a part of the file, but all of it was asked for")
        expected = None if answer.length is None else have + answer.length
        if None not in (expected, remote.size) and expected != remote.size:
            raise _mismatch(remote, f"has {expected} bytes, expected {remote.size}", part, note)
        limit = _limit(remote, expected)
        new_etag = answer.headers.get("ETag")
        if new_etag and not new_etag.startswith("W/"):
            write_json(note, {"url": remote.url, "etag": new_etag})
        with _append(part) as file:
            while chunk := answer.read():
                if have + len(chunk) > limit:
                    raise _mismatch(remote, f"has more than {limit} bytes, which is the most it may have", part, note)
                file.write(chunk)
                have += len(chunk)
                _tell(on_bytes, len(chunk))
            file.flush()
            os.fsync(file.fileno())
    if expected is not None and have != expected:
        raise UnreachableError(f"{shown(remote.url)}: broke off after {have} of {expected} bytes")


def _limit(remote: RemoteFile, expected: int | None) -> int:
    """Bytes after which reading stops.

    Raises:
        RefusedAnswerError: the file may not be so large.
    """
    stated = remote.size if remote.size is not None else expected
    if stated is None and remote.most > MAX_TEXT_BYTES:
        raise RefusedAnswerError(f"{shown(remote.url)}: nobody states its size, and weights are not fetched without")
    if stated is not None and stated > remote.most:
        raise RefusedAnswerError(f"{shown(remote.url)}: has {stated} bytes, expected at most {remote.most}")
    return remote.most if stated is None else stated


class _RangeError(Exception):
    """The store has no bytes after those that were asked for (status 416)."""


def _open(url: str, headers: Mapping[str, str], total: float | None = None) -> Answer:
    """An answer with a body to read.

    Raises:
        NotThereError: the server has no such file.
        UnreachableError: no answer came.
    """
    answer = get(url, headers, idle=TIMEOUT_SECONDS, total=total)
    problem: Exception | None = None
    if answer.status == 416:
        problem = _RangeError()
    elif answer.status in (401, 403):
        problem = NotThereError(
            f"{shown(url)}: status {answer.status}; where the model is private or gated, it takes a token of an "
            "account with access (HF_TOKEN, or: hf auth login)"
        )
    elif answer.status in (404, 410):
        problem = NotThereError(f"{shown(url)}: status {answer.status}")
    elif answer.status not in (200, 206):
        problem = UnreachableError(f"{shown(url)}: status {answer.status}")
    elif (answer.headers.get("Content-Encoding") or "identity").strip().lower() != "identity":
        problem = RefusedAnswerError(f"{shown(url)}: is compressed, which was not asked for")
    if problem is not None:
        with answer:
            raise problem
    return answer


def _starts_at(answer: Answer, offset: int) -> bool:
    return (answer.headers.get("Content-Range") or "").startswith(f"bytes {offset}-")


def _size_of(part: Path) -> int:
    """Bytes that are in a partial file.

    Raises:
        CheckpointError: this program did not write it.
    """
    try:
        found = os.lstat(part)
    except FileNotFoundError:
        return 0
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        raise CheckpointError(f"{part}: is a link or no regular file, expected part of a download; remove it")
    return found.st_size


def _append(part: Path) -> BinaryIO:
    """The partial file, open for more: never what a link points to."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(part, flags, 0o666), "ab")


def _discard(part: Path, have: int, on_bytes: OnBytes) -> int:
    part.unlink(missing_ok=True)
    _tell(on_bytes, -have)
    return 0


def _mismatch(remote: RemoteFile, problem: str, part: Path, note: Path) -> CheckpointError:
    """The error for content that is not what was stated; what there is of it is deleted."""
    _remove(part, note)
    return CheckpointError(f"{shown(remote.url)}: {problem}; it was deleted, try again or use another store")


def _remove(part: Path, note: Path) -> None:
    part.unlink(missing_ok=True)
    note.unlink(missing_ok=True)


def _wrong_content(remote: RemoteFile, path: Path) -> str | None:
    size = _size_of(path)
    if remote.size is not None and size != remote.size:
        return f"has {size} bytes, expected {remote.size}"
    if remote.sha256 is not None and file_sha256(path) != remote.sha256.lower():
        return "content does not have the sha256 that the store states"
    if remote.git_sha1 is not None and _git_sha1(path, size) != remote.git_sha1.lower():
        return "content does not have the checksum that the store states"
    return None


def _git_sha1(path: Path, size: int) -> str:
    digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _tell(on_bytes: OnBytes, count: int) -> None:
    if on_bytes is not None and count:
        on_bytes(count)
