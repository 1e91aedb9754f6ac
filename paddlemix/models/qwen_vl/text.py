"""Normalization of every text before it is encoded: NFC, in time that grows with the length and no faster."""

from __future__ import annotations

import functools
import re
import unicodedata

_SURROGATE = re.compile("[\ud800-\udfff]")
# Runs of combining marks up to this length are sorted by unicodedata itself.
_SHORT_RUN = 64
# No character beyond has a combining class (Unicode 15); one that gets one later costs time, not correctness.
_LAST_MARK = 0x1FFFF


def normalize_text(text: str) -> str:
    """NFC, as every text is before it is encoded; surrogates that stand alone become U+FFFD."""
    text = nfc(text)
    if _SURROGATE.search(text):
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def nfc(text: str) -> str:
    """``unicodedata.normalize("NFC", text)``, in linear time for long runs of combining marks, too.

    unicodedata puts the marks behind a letter into their canonical order by moving each past those before it, which is
    quadratic. Marks that are in order already are left alone, and the order of its input's marks does not change the
    result; so long runs are decomposed and sorted first.
    """
    if len(text) > _SHORT_RUN and not text.isascii():
        text = _long_runs().sub(_in_canonical_order, text)
    return unicodedata.normalize("NFC", text)


def _in_canonical_order(run: re.Match[str]) -> str:
    decomposed = (unicodedata.normalize("NFD", mark) for mark in run.group())
    return "".join(sorted("".join(decomposed), key=unicodedata.combining))


@functools.lru_cache(maxsize=1)
def _long_runs() -> re.Pattern[str]:
    """Matches runs of characters that decompose into combining marks alone."""
    marks = (chr(code) for code in range(0x300, _LAST_MARK + 1) if not 0xD800 <= code < 0xE000)
    found = [mark for mark in marks if unicodedata.combining(unicodedata.normalize("NFD", mark)[0])]
    return re.compile(f"[{''.join(found)}]{{{_SHORT_RUN},}}")
