from __future__ import annotations

import pytest

from paddlemix.utils.display import escape_controls, one_line, quoted, shorten

FAMILY = "公交车 é \U0001f468\u200d\U0001f469\u200d\U0001f467 C:\\new"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b2J\x7f\x00", "\\x9b2J\\x7f\\x00"),
        ("a\r\nb\tc", "a\\x0d\\x0ab\\x09c"),
        ("safe\u202egpj.exe\u2066\u2069\u200f", "safe\\u202egpj.exe\\u2066\\u2069\\u200f"),
        ("\u2028\ud800", "\\u2028\\ud800"),
        (FAMILY, FAMILY),
    ],
)
def test_what_a_terminal_would_obey_is_escaped_and_nothing_else(text: str, shown: str) -> None:
    assert escape_controls(text) == shown


def test_kept_characters_stay() -> None:
    assert escape_controls("a\n\tb\x1b\r", keep="\n\t") == "a\n\tb\\x1b\\x0d"


def test_long_text_keeps_its_beginning_and_its_end() -> None:
    assert shorten("transformer.h.0.attn.c_attn.weight", 16) == "transforme…eight"
    assert [len(shorten("x" * 50, limit)) for limit in (1, 2, 10, 49, 50)] == [1, 2, 10, 49, 50]
    assert shorten("short", 5) == "short"


def test_quoted_names_are_short_and_hold_no_controls() -> None:
    assert quoted("lm_head.weight") == "'lm_head.weight'"
    assert quoted("\x1b[2J" + "a" * 1_000_000) == "'\\x1b[2J" + "a" * 49 + "…" + "a" * 26 + "'"


def test_messages_of_other_errors_are_quoted_short_and_readable() -> None:
    assert one_line(ValueError("a\n\x1b[2J\x00b")) == "a \\x1b[2J\\x00b"
    assert len(one_line(ValueError("x" * 100_000))) == 200
    assert one_line(KeyError()) == "KeyError"
