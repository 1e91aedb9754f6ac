"""Fetching one file over http(s): resumed where it stopped, checked against its checksum, renamed when it is whole."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

from ..errors import CheckpointError, PaddleMixError
from ..files import read_json_if_whole, write_json
from .writer import file_sha256

TIMEOUT_SECONDS = 20
ATTEMPTS = 5
MAX_JSON_BYTES = 50_000_000
_CHUNK = 1 << 20
_HEADERS = {"User-Agent": "paddlemix", "Accept-Encoding": "identity"}

OnBytes = Optional[Callable[[int], Any]]


class NotThereError(PaddleMixError):
    """A store answered that it does not have what was asked for."""


class UnreachableError(PaddleMixError):
    """A store could not be reached, broke off, or answered with an error."""


@dataclass(frozen=True)
class RemoteFile:
    """A file in a store: its name in the model's folder, where it is, and what is known about its content.

    ``sha256`` of the content, or ``git_sha1`` (the id that git gives a blob), or neither. ``optional``: a store without
    a listing may not have it.
    """

    name: str
    url: str
    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    optional: bool = False


def fetch_json(url: str) -> Any:
    """The JSON document at ``url``. Raises NotThereError or UnreachableError."""
    with _open(url, {}) as response:
        try:
            raw = response.read(MAX_JSON_BYTES + 1)
            if len(raw) > MAX_JSON_BYTES:
                raise UnreachableError(f"{url}: answer is larger than {MAX_JSON_BYTES} bytes")
            return json.loads(raw)
        except (ValueError, OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"{url}: answer is not JSON ({error})") from error


def download(remote: RemoteFile, path: Path, on_bytes: OnBytes = None, pause: float = 1.0) -> None:
    """Fetch ``remote`` to ``path``. What an interrupted earlier call left in ``path.part`` is continued.

    ``on_bytes``: called with the number of bytes that have arrived, those of an earlier call included; negative if
    they had to be thrown away. ``pause``: seconds before the second attempt, doubling. Raises NotThereError,
    UnreachableError after ``ATTEMPTS`` attempts without progress, CheckpointError if the content is not what it should.
    """
    part, note = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.json")
    have = part.stat().st_size if part.exists() else 0
    _tell(on_bytes, have)
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _continue(remote, part, note, on_bytes)
            break
        except UnreachableError:
            now = part.stat().st_size if part.exists() else 0
            failures = 1 if now > before else failures + 1
            if failures >= ATTEMPTS:
                raise
            time.sleep(pause * 2 ** (failures - 1))
    problem = _wrong_content(remote, part)
    if problem:
        part.unlink()
        note.unlink(missing_ok=True)
        raise CheckpointError(f"{remote.url}: {problem}; it was deleted, try again or use another store")
    os.replace(part, path)
    note.unlink(missing_ok=True)


def _continue(remote: RemoteFile, part: Path, note: Path, on_bytes: OnBytes) -> None:
    """One attempt: append to ``part`` what is missing. The note beside it says which version of the file it is from."""
    have = part.stat().st_size if part.exists() else 0
    known = read_json_if_whole(note) or {}
    etag = known.get("etag") if known.get("url") == remote.url else None
    if have and (remote.size is not None and have == remote.size):
        return
    if have and not (etag or remote.sha256 or remote.git_sha1):
        have = _discard(part, have, on_bytes)  # nothing would tell a mixture of two versions
    headers = {}
    if have:
        headers["Range"] = f"bytes={have}-"
        if etag:
            headers["If-Range"] = etag
    try:
        response = _open(remote.url, headers)
    except _RangeError:
        _discard(part, have, on_bytes)
        raise UnreachableError(f"{remote.url}: the store's file is shorter than what was fetched before") from None
    with response:
        if have and not (response.status == 206 and _starts_at(response, have)):
            have = _discard(part, have, on_bytes)
        length = response.headers.get("Content-Length")
        expected = have + int(length) if length and length.isdigit() else None
        new_etag = response.headers.get("ETag")
        if new_etag and not new_etag.startswith("W/"):
            write_json(note, {"url": remote.url, "etag": new_etag})
        with open(part, "ab") as file:
            while chunk := _read_chunk(response, f"{remote.url}: broke off after {have} bytes"):
                file.write(chunk)
                have += len(chunk)
                _tell(on_bytes, len(chunk))
            file.flush()
            os.fsync(file.fileno())
    if expected is not None and have != expected:
        raise UnreachableError(f"{remote.url}: broke off after {have} of {expected} bytes")


class _RangeError(Exception):
    """The store has no bytes after those that were asked for (status 416)."""


def _open(url: str, headers: dict[str, str]) -> Any:
    request = urllib.request.Request(url, headers={**_HEADERS, **headers})
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            raise _RangeError from error
        if error.code in (401, 403, 404, 410):
            raise NotThereError(f"{url}: status {error.code}") from error
        raise UnreachableError(f"{url}: status {error.code}") from error
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(f"{url}: {getattr(error, 'reason', None) or error}") from error


def _read_chunk(response: Any, problem: str) -> bytes:
    """The next bytes of an answer, apart from writing them: an OSError here is the network's, there the disk's."""
    try:
        return response.read(_CHUNK)
    except (http.client.HTTPException, OSError) as error:
        raise UnreachableError(f"{problem} ({error})") from error


def _starts_at(response: Any, offset: int) -> bool:
    return (response.headers.get("Content-Range") or "").startswith(f"bytes {offset}-")


def _discard(part: Path, have: int, on_bytes: OnBytes) -> int:
    part.unlink(missing_ok=True)
    _tell(on_bytes, -have)
    return 0


def _wrong_content(remote: RemoteFile, path: Path) -> str | None:
    size = path.stat().st_size
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
