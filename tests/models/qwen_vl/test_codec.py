"""Texts are normalized to NFC exactly, and in bounded work, whatever marks stand in them."""

from __future__ import annotations

import random
import unicodedata

import pytest

from paddlemix.models.qwen_vl import codec as normalization
from paddlemix.models.qwen_vl.codec import nfc, normalize_text

MARKS = [chr(code) for code in range(0x300, 0x20000) if unicodedata.combining(chr(code))]
STARTERS = "aeiouAÅ\u1100\u1161\u11a8가각你\u09c7\u0b47 \u0958\u2126\ufb1d"


@pytest.fixture
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run of two marks counts as a long one."""
    monkeypatch.setattr(normalization, "_SHORT_RUN", 2)
    normalization._long_runs.cache_clear()
    yield
    normalization._long_runs.cache_clear()


@pytest.mark.usefixtures("short_runs")
def test_sorted_runs_give_exactly_what_unicodedata_gives() -> None:
    source = random.Random(0)
    alphabets = [MARKS, MARKS[:60], ["\u0300", "\u0301", "\u0308", "\u0344", "\u0f73", "\u0f75", "\u0f81", "\u3099"]]
    for case in range(3000):
        alphabet = alphabets[case % 3]
        text = "".join(
            source.choice(alphabet) if source.random() < 0.8 else source.choice(STARTERS)
            for _ in range(source.randrange(3, 40))
        )
        assert nfc(text) == unicodedata.normalize("NFC", text), ascii(text)


def test_every_character_is_normalized_as_by_unicodedata_after_a_long_run() -> None:
    run = "a" + "\u0315\u0300" * 40
    for start in range(0x80, 0x20000, 0x1000):
        text = run.join(chr(code) for code in range(start, start + 0x1000, 7) if not 0xD800 <= code < 0xE000)
        assert nfc(text) == unicodedata.normalize("NFC", text)


def test_a_megabyte_of_alternating_marks_is_put_in_order() -> None:
    # quadratic work would take minutes here
    text = normalize_text("a" + "\u0315\u0300" * 500_000)
    assert text == "à" + "\u0300" * 499_999 + "\u0315" * 500_000


def test_surrogates_that_stand_alone_are_replaced() -> None:
    assert normalize_text("a\ud800\U0001f600") == "a\ufffd\U0001f600"
    assert normalize_text("\ud83d\ude00") == "\U0001f600"
