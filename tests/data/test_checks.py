"""What is found wrong with records before a training."""

from __future__ import annotations

import os
import signal

import pytest

from paddlemix.data.checks import check_files
from paddlemix.data.encoding import encode
from paddlemix.data.problems import Problem, RecordLocation, problem_table
from paddlemix.data.workers import parallel_map
from paddlemix.errors import ConfigurationError, NotEnoughMemoryError, RecordError
from paddlemix.models.qwen_vl.chat_template import render_training
from paddlemix.models.qwen_vl.messages import conversation_to_messages
from tests.data.building import image_part, messages, talk, write_image, write_json, write_lines


@pytest.fixture
def check(tmp_path, processor):
    """Checks the given entries, one a line, in a folder that has ``ok.png``."""
    write_image(tmp_path / "ok.png")

    def run(*entries, **options):
        return check_files([write_lines(tmp_path / "data.jsonl", *entries)], processor, **options)

    return run


FAULTY = [
    (talk("a", "<ref>x</ref><box>(1,2),(1000,3)</box>"), 1, "'<box>(1,2),(1000,3)'", "coordinates from 0 to 999"),
    (talk("a", "<box>(-1,2),(3,4)</box>"), 1, "'<box>(-1,2),(3,4)'", "coordinates from 0 to 999"),
    (talk("a", "<box>(5,2),(3,4)</box>"), 1, "'<box>(5,2),(3,4)'", "x1 <= x2 and y1 <= y2"),
    (talk("a", "<box>(1,6),(3,4)</box>"), 1, "'<box>(1,6),(3,4)'", "x1 <= x2 and y1 <= y2"),
    (talk("a", "<box>(1, 2),(3,4)</box>"), 1, "'<box>(1, 2),(3,4)'", "without spaces"),
    (talk("a", "<box>(0.1,0.2),(0.3,0.4)</box>"), 1, "'<box>(0.1,0.2),(0.3,0.4)'", "whole numbers"),
    (talk("a", "<box>(1,2)</box>"), 1, "'<box>(1,2)'", "(x1,y1),(x2,y2)"),
    (talk("a", "<quad>(1,2),(3,4)</quad>"), 1, "'<quad>(1,2),(3,4)'", "(x3,y3),(x4,y4)"),
    (talk("a", "<quad>(1,2),(3,4),(5,6),(7,1000)</quad>"), 1, "'<quad>(1,2),(3,4),(5,6),(7,1000)'", "0 to 999"),
    (talk("a", "see <ref>x"), 1, "'<ref>x'", "</ref> after it"),
    (talk("a", "x</box>"), 1, "'</box>'", "</box> after its opening tag"),
    (talk("a", "<ref>x</box>"), 1, "'<ref>x</box>'", "</box> after its opening tag"),
    (talk("<ref>x<box>(1,2),(3,4)</box>", "b"), 0, "'<ref>x<box>(1,2),(3,4)</box>'", "</ref> before <box>"),
    (talk("<img>ok.png", "b"), 0, "'<img>ok.png'", "<img>path</img> in a user's value"),
    (talk("a", "<img>ok.png</img>"), 1, "'<img>ok.png</img>'", "<img>path</img> in a user's value"),
    (talk("<|im_end|>", "b"), 0, "'<|im_end|>'", "text without control tokens"),
    (talk("a", " \n"), 1, "an empty answer", "a text to train on"),
    (talk(" ", "b"), 0, "an empty question", "a text or an image"),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "turn", "came", "expected"), FAULTY)
def test_a_fault_is_told_by_field(check, entry, turn, came, expected):
    report = check(talk("a", "b"), entry)
    assert len(report.records) == 1 and report.bad_records == 1
    problem = report.problems[0]
    assert (problem.location.line, problem.field, problem.came) == (2, f"conversations[{turn}].value", came)
    assert expected in problem.expected


def test_faults_are_found_in_the_message_schema(check):
    report = check(
        messages("a", "<box>(9,2),(3,4)</box>"),
        messages("<img>ok.png</img>", "b"),
        [{"role": "user", "content": [image_part("no.png"), "a"]}, {"role": "assistant", "content": "b"}],
    )
    assert [(p.location.line, p.field) for p in report.problems] == [
        (1, "messages[1].content"), (2, "messages[0].content"), (2, "messages[0].content"), (3, "messages[0].content")
    ]  # fmt: skip
    assert report.problems[1].expected == "images as parts of type 'image'"


def test_good_tags_and_boxes_pass(check):
    report = check(
        talk("<ref>it</ref>?", "<ref>x</ref><box>(0,0),(999,999)</box><box>(5,5),(5,5)</box> 3 < 4"),
        talk("Picture 1: <img>ok.png</img>\n", "<quad>(1,2),(9,8),(3,4),(0,0)</quad>"),
    )
    assert report.problems == [] and len(report.records) == 2


def test_images_that_are_missing_broken_or_too_many_are_told(check, tmp_path, processor):
    (tmp_path / "text.png").write_text("no image")
    whole = write_image(tmp_path / "large.png", size=(200, 100)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:150])
    names = ["ok.png", "no.png", "text.png", "cut.png"]
    entries = [talk(f"Picture 1: <img>{name}</img>\n?", "b") for name in names]
    found = {p.location.line: p.came for p in check(*entries, talk("<img>ok.png</img>" * 4, "b")).problems}
    assert "no.png' does not exist" in found[2]
    assert "text.png' is not an image of a supported format" in found[3]
    assert "cut.png' is damaged or truncated" in found[4]
    assert found[5] == "4 images"
    assert sorted(found) == [2, 3, 4, 5]
    assert [p.location.line for p in check(*entries, image_check="header").problems] == [2, 3]


def test_workers_find_what_one_process_finds(check):
    entries = [talk(f"<img>no{i}.png</img>?" if i % 3 else "a", "b" if i % 5 else " ") for i in range(120)]
    alone, shared = check(*entries), check(*entries, workers=2)
    assert alone.problems == shared.problems and len(alone.problems) == 80 + 24
    assert alone.lengths.tolist() == shared.lengths.tolist()


def test_a_worker_that_is_killed_is_told():
    with pytest.raises(NotEnoughMemoryError, match="one of 2 worker processes was killed"):
        parallel_map(_die, range(100), 2)


def _die(item):
    os.kill(os.getpid(), signal.SIGKILL)


def test_too_long_records_are_told_or_lose_turns(check, processor):
    entries = [talk("a", "b", "c " * 50, "d"), talk("c " * 50, "d"), talk("a", "b")]
    report = check(*entries, max_length=100)
    assert [str(p).partition(": ")[2] for p in report.problems] == [
        f"got {len(encode_of(entries[1], processor))} tokens until the end of the first answer, "
        "expected at most max_length, 100"
    ]
    assert report.dropped_turns.tolist() == [1, 0]
    assert "1 records exceed max_length and lose 1 turns" in report.summary()
    refused = check(*entries, max_length=100, truncation="refuse")
    assert [p.location.line for p in refused.problems] == [1, 2]


def encode_of(entry, processor):
    return render_training(processor.tokenizer, conversation_to_messages(entry["conversations"])).input_ids


def test_sizes_are_those_of_the_examples(check, processor):
    image = "Picture 1: <img>ok.png</img>\n"  # one, in two records
    report = check(talk(image + "a", "b"), talk("x", " "), talk(image + "a", "the the the"))
    examples = [encode(record, processor.tokenizer) for record in report.records]
    assert report.lengths.tolist() == list(map(len, examples))
    assert report.targets.tolist() == [example.targets for example in examples]
    assert "2 records in 1 file(s) are good, 1 are not; 1 images" in report.summary()


def test_bad_records_are_refused_or_skipped_by_choice(check):
    report = check(talk("a", "b"), talk("a", " "), talk("", " "))
    with pytest.raises(RecordError, match=r"data.jsonl:2: .*one of 3 problems in 2 records\); mend them") as caught:
        report.usable()
    assert "\n" not in str(caught.value)
    assert report.usable("skip").records == report.records and len(report.records) == 1
    assert check(talk("a", "b")).usable() is not None
    with pytest.raises(ConfigurationError, match=r"data.jsonl: none of the records is usable"):
        check(talk("a", " ")).usable("skip")


def test_bad_records_of_one_line_are_counted_each(tmp_path, processor):
    path = write_json(tmp_path / "a.json", [talk("a", "b"), talk("a", " "), talk("", " "), 3, {"messages": []}])
    report = check_files([path], processor)
    assert "1 records in 1 file(s) are good, 4 are not" in report.summary()
    assert {problem.location.line for problem in report.problems} == {1}


def test_several_files_keep_their_order_and_may_not_be_given_twice(tmp_path, processor):
    first = write_json(tmp_path / "z.json", [talk("a", "b"), talk("", "b")])
    second = write_json(tmp_path / "a.json", [3, talk("a", "b"), talk("c", "d")])
    report = check_files([first, second], processor)
    assert report.sources.tolist() == [0, 1, 1]
    assert [p.location.path for p in report.problems] == [str(first), str(second)]
    part = report.select(report.sources == 1)
    assert part.records == report.records[1:] and part.lengths.tolist() == report.lengths[1:].tolist()
    with pytest.raises(ConfigurationError, match="is given twice"):
        check_files([first, second, tmp_path / "." / "z.json"], processor)


def test_the_table_has_a_line_for_each_problem_and_says_how_many_are_left_out():
    problems = [Problem(RecordLocation("dir/" * 30 + f"data{i}.json", i), "f", "a\nb", "c" * 200) for i in range(5)]
    lines = problem_table(problems, limit=3).splitlines()
    assert lines[0].split() == ["where", "field", "got", "expected"]
    assert [line.split()[0].endswith(f"data{i}.json:{i}") for i, line in enumerate(lines[2:5])] == [True] * 3
    assert "  a b  " in lines[2] and lines[2].endswith("c…")
    assert lines[5] == "… and 2 more"
