"""Files to records, and what is said about malformed ones."""

from __future__ import annotations

import json

import pytest

from paddlemix.data.records import read_record_file, read_records
from paddlemix.errors import ConfigurationError, PromptError, RecordError
from tests.data.building import image_part, messages, talk, write_json, write_lines


def lines_of(path):
    return [record.location.line for record in read_records(path)]


def test_both_schemas_say_the_same(tmp_path):
    content = [image_part("a.png"), {"type": "text", "text": "What?"}]
    as_messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "A bus."}]
    path = write_json(
        tmp_path / "data.json",
        [talk("Picture 1: <img>a.png</img>\nWhat?", "A bus."), as_messages, {"id": 3, "messages": as_messages}],
    )
    original, bare, named = read_records(path)
    assert bare.messages == named.messages and bare.content_hash == named.content_hash
    assert (original.labeled, bare.labeled) == (True, False)
    assert original.images == bare.images == [str(tmp_path / "a.png")]
    assert original.messages[0]["content"][0] == {"type": "text", "text": "Picture 1: "}


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_list_has_a_line_for_each_record(tmp_path, indent):
    path = write_json(tmp_path / "data.json", [talk("a", "b"), messages("a", "b")], indent=indent)
    text = path.read_text()
    expected = [text[: text.index(start)].count("\n") + 1 for start in ('"id"', '"role"')]
    # indented, the brackets that open an entry stand a line above its first key, and those of a list two
    assert lines_of(path) == ([1, 1] if indent is None else [expected[0] - 1, expected[1] - 2])


def test_json_lines_of_either_schema_have_their_lines(tmp_path):
    path = write_lines(tmp_path / "data.jsonl", messages("a", "b"), talk("a", "b"), {"messages": messages("c", "d")})
    path.write_text("\ufeff\n" + path.read_text() + "\n\n")
    assert lines_of(path) == [2, 3, 4]


def test_one_conversation_is_a_file(tmp_path):
    assert len(read_records(write_json(tmp_path / "a.json", messages("a", "b"), indent=2))) == 1
    assert len(read_records(write_json(tmp_path / "b.json", talk("a", "b"), indent=2))) == 1


def test_paths_are_relative_to_the_file_and_other_sources_stay(tmp_path, monkeypatch):
    sources = ["../p/a.png", "/abs/b.png", "data:image/png;base64,AA==", "https://example.com/c.png"]
    content = [*map(image_part, sources), {"type": "image_url", "image_url": {"url": "d.png", "detail": "high"}}]
    turns = [{"role": "user", "content": [*content, "what"]}, {"role": "assistant", "content": "x"}]
    write_json(tmp_path / "sub" / "data.json", [turns])
    monkeypatch.chdir(tmp_path)
    (record,) = read_records("sub/data.json")
    expected = [str(tmp_path / "p" / "a.png"), *sources[1:], str(tmp_path / "sub" / "d.png")]
    assert record.images == expected
    assert str(record.location) == "sub/data.json:1"


def test_the_content_hash_depends_on_the_conversation_alone(tmp_path):
    first, second, other = read_records(
        write_json(tmp_path / "a.json", [talk("q", "a"), {**talk("q", "a"), "id": "y"}, talk("q", "b")])
    )
    (moved,) = read_records(write_lines(tmp_path / "b.jsonl", talk("q", "a")))
    assert first.content_hash == second.content_hash == moved.content_hash != other.content_hash


MALFORMED = [
    (3, "", "3", "a list of messages"),
    ({"conversation": []}, "", "the fields 'conversation'", "{'conversations': [...]}"),
    ({"conversations": []}, "conversations", "an empty list", "a list of turns, not empty"),
    ({"messages": {}}, "messages", "an empty dict", "a list of turns"),
    ({**talk("a", "b"), "imgs": "x.png"}, "imgs", "an unknown field", "only id, conversations"),
    (["a"], "messages[0]", "'a'", "{'role', 'content'}"),
    ({"conversations": [{"from": "robot", "value": "a"}]}, "conversations[0].from", "'robot'", "user, assistant"),
    ({"conversations": [{"from": "user", "vaule": "a"}]}, "conversations[0].vaule", "an unknown field",
     "did you mean value?"),
    ({"conversations": [{"from": "user"}]}, "conversations[0].value", "nothing", "a text"),
    ({"conversations": [{"from": "user", "value": ["a"]}]}, "conversations[0].value", "list", "a text"),
    (talk("a", "b", "c"), "conversations[2]", "the user's turn as the last one", "an answer after it"),
    ([{"role": "user", "content": "a"}] * 2, "messages[1].role", "two user turns in a row", "in turn"),
    ([{"role": "assistant", "content": "a"}], "messages[0].role", "an answer before any question", "user's turn first"),
    ([*messages("a", "b"), {"role": "system", "content": "c"}], "messages[2].role",
     "a system message after other messages", "the first"),
    ([{"role": "user", "content": 3}], "messages[0].content", "3", "a text or a list of parts"),
    ([{"role": "user", "content": [{"type": "imag"}]}], "messages[0].content[0].type", "'imag'", "text, image"),
    ([{"role": "user", "content": [{"type": ["text"]}]}], "messages[0].content[0].type", "list", "text, image"),
    ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text", "nothing", "a text"),
    ([{"role": "user", "content": [image_part("")]}], "messages[0].content[0].image", "''", "a path"),
    ([{"role": "user", "content": [None]}], "messages[0].content[0]", "nothing", "{'type': 'text', 'text'}"),
    ([*messages("a"), {"role": "assistant", "content": [image_part("a")]}], "messages[1].content[0]",
     "an image in the assistant's message", "user's messages only"),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "field", "came", "expected"), MALFORMED)
def test_a_malformed_record_is_told_by_place_and_field(tmp_path, entry, field, came, expected):
    path = write_lines(tmp_path / "data.jsonl", talk("a", "b"), entry)
    records, problems, _ = read_record_file(path)
    assert len(records) == 1
    found = [problem for problem in problems if (problem.field, problem.came) == (field, came)]
    assert len(found) == 1, problems
    assert expected in found[0].expected
    assert found[0].location.line == 2
    with pytest.raises(RecordError, match=r"data.jsonl:2: "):
        read_records(path)
    assert issubclass(RecordError, PromptError)


@pytest.mark.parametrize(
    ("text", "line", "came", "good"),
    [
        ('{"conversations": [\n' + json.dumps(talk("a", "b")) + "\n", 1, "no JSON", 1),
        (json.dumps(talk("a", "b"))[:-1] + "\n" + json.dumps(talk("a", "b")), 1, "no JSON", 1),
        (json.dumps(talk("a", "b")) + "\nnot json\n" + json.dumps(talk("a", "b")), 2, "no JSON", 2),
        ("[" + json.dumps(talk("a", "b")) + ",\n{", 2, "no JSON", 1),
        ("[" + json.dumps(talk("a", "b")) + ",\n]", 2, "no JSON", 1),
        ("[" + json.dumps(talk("a", "b")) + "\n" + json.dumps(talk("a", "b")) + "]", 2, '\'{"id"', 1),
        ("[" + json.dumps(talk("a", "b")) + "\n", 2, "the end of the file", 1),
        ("[" + json.dumps(talk("a", "b")) + "]\nrest", 2, "'rest'", 1),
        ("[[" * 100_000, 1, "JSON that is nested too deeply", 0),
    ],
)
def test_broken_json_is_told_by_line_and_what_can_be_read_is_read(tmp_path, text, line, came, good):
    (tmp_path / "data.json").write_text(text)
    records, problems, _ = read_record_file(tmp_path / "data.json")
    assert len(records) == good
    assert problems[0].location.line == line
    assert problems[0].came.startswith(came)
    assert ("nothing after it is read" in problems[0].came) == text.startswith("[")
    assert len(problems) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" \n", "the file is empty"),
        (b"[ ]", "got an empty list, expected conversations"),
        (b'{"a": "b"}\n"\xff"', r"data.json:2: not UTF-8 text \(byte 12"),
    ],
)
def test_a_file_without_conversations_is_refused(tmp_path, content, message):
    (tmp_path / "data.json").write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        read_records(tmp_path / "data.json")


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no.json cannot be read: No such file"):
        read_records(tmp_path / "no.json")
