"""The bytes behind a source that is a text or a path: files, file: URLs, data URLs, base64.

Files are read only where the policy allows paths; a text that may be one is not even looked for otherwise.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from pathlib import Path
from typing import AnyStr
from urllib.parse import unquote, unquote_to_bytes

from ..errors import ImageError
from ..utils.files import open_regular, pieces_up_to, reason
from .formats import kind_of
from .policy import ImagePolicy

EXPECTED = "a PIL image, path, bytes, data URL, base64, http(s) URL or uint8 array"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_FILE_URL = re.compile(r"file:(?://(?P<host>[^/]*))?(?P<path>/.*)", re.IGNORECASE | re.DOTALL)
_DATA_URL = re.compile(r"data:(?P<media>[^;,]*)(?P<parameters>(?:;[^;,]*)*),", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
_URL_SAFE = str.maketrans("+/", "-_")
_LEAST_BASE64 = 32  # characters of a text that is taken for an image without saying so
_BEGINNING = 64  # of them, that are looked at
_PIECE = 1 << 20  # characters of a data URL that are decoded at once


def scheme_of(text: str) -> str:
    """``"data"``, ``"file"``, ``"base64"``, that of a URL, or ``""`` for a path. Nothing is opened."""
    if text[:5].lower() == "data:":
        return "data"
    if text[:6].lower() == "file:/":
        return "file"
    scheme = _SCHEME.match(text)
    if scheme is not None:
        return scheme.group()[:-3].lower()
    return "base64" if _is_base64(text) else ""


def is_url(source: object) -> bool:
    """Whether a source is an http(s) URL, whose contents are fetched."""
    return isinstance(source, str) and scheme_of(source) in ("http", "https")


def short(text: str | bytes) -> str:
    """A source for messages: printable, and not longer than a line."""
    shown = repr(text if len(text) <= 100 else text[:97])
    return shown if len(text) <= 100 else shown + "..."


def check_bytes(size: int, name: str, policy: ImagePolicy) -> None:
    """Raise ImageError for more encoded bytes than the policy has."""
    if size > policy.max_bytes:
        raise ImageError(f"{name} is larger than the limit of {policy.max_bytes} bytes")


# ---------------------------------------------------------------- files


def find_file(path: AnyStr, policy: ImagePolicy) -> AnyStr:
    """The path to open for ``path``: itself, or where it is not there, what a terminal's spelling of it stands for.

    ``~`` is the home directory; quotation marks around it, backslashes before spaces and spaces at the ends come from
    dragging a file into a terminal. Raises ImageError where the policy reads no files, or the path is empty.
    """
    if not policy.allow_paths:
        raise ImageError(
            f"image file {short(path)} refused: this image policy reads no local files; pass the image itself"
        )
    if not path:
        raise ImageError(f"image path is empty: expected {EXPECTED}")
    if isinstance(path, str):
        return next((spelling for spelling in _spellings(path) if _exists(spelling)), path)
    return path


def file_of_url(url: str, policy: ImagePolicy) -> str:
    """The path that a ``file:`` URL names. Raises ImageError."""
    match = _FILE_URL.fullmatch(url)
    if match is None or (match["host"] or "").lower() not in ("", "localhost"):
        raise ImageError(f"image {short(url)}: expected file:///path on this computer")
    return find_file(unquote(match["path"], errors="surrogateescape"), policy)


def expand_home(path: str) -> str:
    """``path`` with the home directory in place of ``~``; as it is where there is none of that name."""
    try:
        return os.path.expanduser(path)
    except ValueError:  # no name of a user: a NUL in it, or half a surrogate pair
        return path


def read_file(path: str | bytes, name: str, limit: int) -> bytes:
    """At most ``limit`` bytes of an image file.

    Raises:
        ImageError: it is missing, may not be read, or is a directory, device, pipe or socket.
    """
    try:
        with open_regular(path) as file:
            return b"".join(pieces_up_to(file, limit))
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist{_working_directory()}") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{name} cannot be read: {reason(error)}") from error


def _working_directory() -> str:
    try:
        return f" (working directory {Path.cwd()})"
    except OSError:  # it was removed
        return ""


def _spellings(path: str) -> list[str]:
    stripped = path.strip()
    unquoted = stripped
    if len(stripped) > 1 and stripped[0] == stripped[-1] and stripped[0] in "'\"":
        unquoted = stripped[1:-1]
    plain = [path, stripped, unquoted, re.sub(r"\\(.)", r"\1", unquoted)]
    return [*plain, *(expand_home(spelling) for spelling in plain if spelling.startswith("~"))]


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:  # a NUL in it; surrogates
        return False


# ---------------------------------------------------------------- texts that hold the image


def data_url_bytes(url: str, policy: ImagePolicy) -> bytes:
    """The contents of a data URL. Raises ImageError."""
    header = _DATA_URL.match(url[:1024])
    if header is None or not header["parameters"].lower().endswith(";base64"):
        raise ImageError(f"data URL {short(url)}: expected data:image/...;base64,...")
    media = header["media"].strip().lower()
    if media not in ("", "image", "application/octet-stream") and not media.startswith("image/"):
        raise ImageError(f"data URL of type {media[:40]!r}: expected image/...")
    return _decode_base64(url, header.end(), f"data URL {short(url)}", policy)


def base64_bytes(text: str, policy: ImagePolicy) -> bytes:
    """The contents of a base64 text. Raises ImageError."""
    return _decode_base64(text.strip(), 0, "base64 text", policy)


def _is_base64(text: str) -> bool:
    """Whether a text is an image in base64 rather than a path: long, of its letters alone, and one by its beginning."""
    if len(text) < _LEAST_BASE64:
        return False
    beginning = "".join(text[:_BEGINNING].split())
    if not _BASE64.fullmatch(beginning):
        return False
    data = base64.urlsafe_b64decode(beginning[: len(beginning) // 4 * 4].translate(_URL_SAFE))
    kind = kind_of(data)
    # two letters are not enough to tell a BMP from a path
    return kind is not None and kind.format is not None and (kind.format != "BMP" or not any(data[6:10]))


def _decode_base64(text: str, start: int, name: str, policy: ImagePolicy) -> bytes:
    """``text[start:]`` decoded in pieces: percent escapes, white space and the URL-safe alphabet are taken."""
    # escapes and line ends make a text longer, but never twice as long unless to no purpose
    if len(text) - start > policy.max_bytes // 3 * 8 + 1024:
        check_bytes(policy.max_bytes + 1, name, policy)
    decoded = bytearray()
    rest, ended = b"", False
    try:
        for position in range(start, len(text), _PIECE):
            piece = rest + text[position : position + _PIECE].encode("ascii")
            is_last = position + _PIECE >= len(text)
            # an escape, and four characters that make three bytes, must not be cut
            cut = len(piece) if is_last or b"%" not in piece[-2:] else piece.rindex(b"%")
            letters = b"".join(unquote_to_bytes(piece[:cut]).split()).replace(b"-", b"+").replace(b"_", b"/")
            whole = len(letters) if is_last else len(letters) // 4 * 4
            rest = letters[whole:] + piece[cut:]
            if ended and letters:
                raise ValueError("data after its end")
            ended = letters.endswith(b"=")
            decoded += base64.b64decode(letters[:whole], validate=True)
            if len(decoded) > policy.max_bytes:
                break
    except (binascii.Error, ValueError) as error:
        reason = "a character that is not ASCII" if isinstance(error, UnicodeError) else error
        raise ImageError(f"{name}: malformed base64: {reason}") from error
    check_bytes(len(decoded), name, policy)
    return bytes(decoded)
