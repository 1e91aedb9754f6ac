"""JSON is read strictly, within bounds, and what is no JSON is told in one line that names the place."""

from __future__ import annotations

import pytest

from paddlemix.utils.json_text import JSONError, check_depth, parse_json


def test_json_is_read() -> None:
    assert parse_json(' {"a": [1, -2.5e3, true, null, "\\u4f60"]} ') == {"a": [1, -2500.0, True, None, "你"]}
    assert parse_json('{"a": 1, "a": 2}') == {"a": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        (" \n", "it is empty"),
        ('{\n  "a": 1, // one\n  "b": 2\n}', "JSON has no comments: line 2; remove it"),
        ('{\n\n  # b\n  "b": 2\n}', "JSON has no comments: line 3; remove it"),
        ('/* a */ {"b": 2}', "JSON has no comments: line 1; remove it"),
        ('{"a": 1 /* one */}', "JSON has no comments: line 1; remove it"),
        ('{"a": 1} // end', "JSON has no comments: line 1; remove it"),
        ('{"a": 1,\n}', "JSON has no comma before a closing }"),
        ('{"a": [1, 2, ]}', "JSON has no comma before a closing ]: line 1; remove it"),
        ("{'a': 1}", "JSON has no single quotes: line 1; write names and texts in double quotes"),
        ('{"a": True}', "JSON writes true, false and null: line 1, got True"),
        ('{"a": 1', "it ends in the middle: line 1"),
        ('{"a" 1}', "Expecting ':' delimiter: line 1, column 6"),
        ('{"a": NaN}', "JSON has no NaN; write a number"),
        ('{"a": -Infinity}', "JSON has no -Infinity; write a number"),
        ("[" * 100_000, "nested too deeply (more than 64 inside each other)"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("[" * 65 + "]" * 65, "nested too deeply"),
        ("9" * 5000, "it has an integer of thousands of digits"),
    ],
)
def test_what_is_no_json_is_told(text: str, said: str) -> None:
    with pytest.raises(JSONError) as caught:
        parse_json(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_what_pythons_writer_adds_to_json_is_read_where_asked_for() -> None:
    assert parse_json("[Infinity]", allow_nan=True) == [float("inf")]


def test_a_name_that_stands_twice_is_refused_where_asked_for() -> None:
    with pytest.raises(JSONError, match="'a' stands there twice; keep one"):
        parse_json('{"b": {"a": 1, "a": 2}}', unique_names=True)


def test_depth_counts_lists_and_objects() -> None:
    check_depth([[{"a": 1}]], max_depth=3)
    parse_json("[" * 64 + "]" * 64)
    with pytest.raises(JSONError, match="more than 2"):
        check_depth([[{"a": 1}]], max_depth=2)
