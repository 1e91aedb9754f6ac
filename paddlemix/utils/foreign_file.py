"""What lies where a file of a model should be, when it is none: a pointer, a page, a server's error, an archive.

Clones without Git LFS, captive portals, expired logins and broken downloads put other things under the names of
weights, vocabularies and configurations. A parser's complaint about their bytes helps nobody, so readers ask here
first.
"""

from __future__ import annotations

import json
import re
from typing import Any

from .display import quoted

#: how much of a file is looked at
HEAD_BYTES = 4096
_AGAIN = "delete it and download it again"
_LFS = re.compile(rb"version https?://(git-lfs|git-media|hawser)\.github\.com/")
_HTML = re.compile(rb"<(!--|(!doctype\s+html|html|head|body|script|title|meta|h1|center)\b)", re.IGNORECASE)
_XML = re.compile(rb"<(\?xml|[A-Za-z][\w:]*Error|Error|Message|Code)\b")
_OTHER_WEIGHTS = "use the model's weights in safetensors, .bin or .pdparams"
#: beginnings of files that hold something else, and what to do about it; none of them can begin a base64 vocabulary
_SIGNATURES = tuple(
    (re.compile(start, re.DOTALL), what, remedy)
    for start, what, remedy in (
        (rb"\x1f\x8b", "is compressed with gzip", "unpack it with gunzip"),
        (rb"BZh[1-9]1AY&SY", "is compressed with bzip2", "unpack it with bunzip2"),
        (rb"\xfd7zXZ\x00", "is compressed with xz", "unpack it with unxz"),
        (rb"\x28\xb5\x2f\xfd", "is compressed with zstd", "unpack it with unzstd"),
        (rb"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive", "unpack it"),
        (rb"Rar!\x1a", "is a RAR archive", "unpack it"),
        (rb".{257}ustar", "is a tar archive", "unpack it with tar -xf"),
        (rb"GGUF[\x01-\x0f]\x00", "is a GGUF file, of llama.cpp", _OTHER_WEIGHTS),
        (rb"\x89HDF", "is an HDF5 file", _OTHER_WEIGHTS),
        (rb"%PDF-", "is a PDF document", _AGAIN),
        (rb"\x89PNG|\xff\xd8\xff", "is an image", _AGAIN),
    )
)
#: fields of a server's error in JSON; no file of a model consists of some of these alone
_ERROR_FIELDS = {
    "error", "errors", "error_code", "error_description", "errorcode", "errormessage", "message", "msg", "detail",
    "details", "code", "status", "statuscode", "status_code", "success", "requestid", "request_id", "path", "timestamp",
    "documentation_url", "data", "hint", "reason",
}  # fmt: skip
_ERROR_TEXT = re.compile(
    rb"\s*(\d{3}[ :]|(entry|repository|file|page|model)? ?not found|forbidden|unauthori[sz]ed|access denied"
    rb"|access to (model|dataset|this)|invalid (credentials|username|token)|bad gateway|internal server error"
    rb"|service unavailable|too many requests|rate limit|error\b)",
    re.IGNORECASE,
)


def foreign_content(content: bytes | bytearray | memoryview, *, text: bool) -> str | None:
    """What a file holds in place of a part of a model, and what mends it: the rest of a sentence that begins with its
    name; None where it may be what it should be.

    Args:
        content: all of the file. Only its beginning is looked at.
        text: whether it should be text, as JSON and vocabularies are. Weights are not.
    """
    head, size = bytes(content[:HEAD_BYTES]), len(content)
    if not head:
        return f"is empty; {_AGAIN}"
    for start, what, remedy in _SIGNATURES:
        if start.match(head):
            return f"{what}; {remedy}"
    if text and head.startswith(b"PK\x03\x04"):
        return "is a zip archive; unpack it with unzip"
    if len(head) >= 8 and not any(head):
        return f"begins with zeros, as a download does that was broken off; {_AGAIN}"
    stripped = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if _LFS.match(stripped):
        return "is a Git LFS pointer, not the file itself; fetch it in that folder with: git lfs pull"
    if _HTML.match(stripped):
        return f"is an HTML page, of a login or an error, not the file itself; {_AGAIN}"
    if _XML.match(stripped):
        return f"is an XML answer of a server, not the file itself: {_first(_xml_reasons(stripped))}; {_AGAIN}"
    if size <= HEAD_BYTES:
        message = _json_error(stripped) or (_plain_text(stripped) if not text or _ERROR_TEXT.match(stripped) else None)
        if message is not None:
            return f"is a message of a server, not the file itself: {quoted(message)}; {_AGAIN}"
    return None


def _xml_reasons(content: bytes) -> list[str]:
    return [found.decode("utf-8", "replace") for found in re.findall(rb"<(?:Code|Message)>([^<]{1,200})<", content)]


def _first(reasons: list[str]) -> str:
    return quoted(reasons[0]) if reasons else "no reason given"


def _json_error(content: bytes) -> str | None:
    try:
        value: Any = json.loads(content) if content[:1] == b"{" else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not value or not {name.lower() for name in value} <= _ERROR_FIELDS:
        return None
    named = {name.lower(): part for name, part in value.items()}
    known = ("error", "message", "msg", "detail", "errormessage", "error_description")
    found = next((named[name] for name in known if isinstance(named.get(name), str)), None)
    return found if found is not None else content.decode("utf-8", "replace")


def _plain_text(content: bytes) -> str | None:
    """A short file as text, if that is what it is."""
    try:
        text = content.decode("utf-8").strip()
    except UnicodeDecodeError:
        return None
    return text if text and all(char.isprintable() or char.isspace() for char in text) else None
