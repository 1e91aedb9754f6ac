"""Kinds of values: what they take, what they say, and that nothing makes them raise."""

from __future__ import annotations

import pytest

from paddlemix.errors import ConfigurationError
from paddlemix.utils.schema import (
    FLAG,
    NULL,
    SOME_TEXT,
    TEXT,
    Field,
    Kind,
    check_fields,
    check_kind,
    either,
    integer,
    list_of,
    number,
    one_of,
    shown,
)

ENDLESS: list = []
ENDLESS.append(ENDLESS)
VALUES = [
    None, True, False, 0, 1, -1, 3, 10**320, -(10**320), 10**5000, 0.5, 1e308, float("nan"), float("inf"), "", "x", [],
    [1], [[1]], {}, {"a": 1}, (1, 2), b"x", object(), ENDLESS,
]  # fmt: skip
KINDS = [
    integer(0, 5), integer(1), number(0, 1), number(0, 1, above=True, below=True), FLAG, TEXT, SOME_TEXT, NULL,
    one_of(1, "x", None), list_of(integer(1), "ids", 1), either(TEXT, NULL),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.expected)
def test_any_value_is_taken_or_refused_in_one_short_line(kind: Kind) -> None:
    for value in VALUES:
        if kind.accepts(value):
            check_kind("field", value, kind)
            continue
        with pytest.raises(ConfigurationError, match="^field: expected ") as caught:
            check_kind("field", value, kind)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_ranges_hold_their_ends_and_truth_is_no_number() -> None:
    assert [value for value in VALUES if integer(0, 3).accepts(value)] == [0, 1, 3]
    assert [value for value in VALUES if number(0, 1).accepts(value)] == [0, 1, 0.5]
    assert [value for value in VALUES if number(0, 1, above=True, below=True).accepts(value)] == [0.5]
    assert not integer(0, 3).accepts(True) and not number(0, 1).accepts(True)
    assert one_of(True).accepts(True) and not one_of(True).accepts(1)


def test_what_is_expected_is_said() -> None:
    assert integer(1).expected == "an integer of at least 1"
    assert integer(1, 5).expected == "an integer from 1 to 5"
    assert number(0, 1, below=True).expected == "a number from 0 to below 1"
    assert either(TEXT, NULL).expected == "a text or null"


def test_fields_are_checked_and_filled_in() -> None:
    schema = {"a": Field(integer(1), 7), "b": Field(TEXT, "x")}
    assert check_fields(schema, {"b": "y", "other": 1}) == {"a": 7, "b": "y"}
    with pytest.raises(ConfigurationError, match=r"^visual\.a: expected an integer of at least 1, got None$"):
        check_fields(schema, {"a": None}, "visual.")


def test_values_are_shown_short_and_escaped() -> None:
    assert shown("\x1b[31m") == "'\\x1b[31m'"
    assert len(shown("x" * 10**6)) == 80
    assert shown(10**5000) == "a value of type int"
