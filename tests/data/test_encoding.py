"""Records to ids and labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddlemix.data.encoding import encode
from paddlemix.data.records import read_records
from paddlemix.errors import RecordTooLongError
from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer
from paddlemix.models.qwen_vl.vocabulary import IGNORE_INDEX
from tests.data.building import image_part, talk, write_json

GOLDEN = Path(__file__).parents[1] / "fixtures/golden/tokenizer/cases.json"


def record_of(entry, folder):
    (record,) = read_records(write_json(folder / "data.json", [entry]))
    return record


def test_labels_are_the_original_s(real_vocab_file, tmp_path):
    published = QWenVLTokenizer(real_vocab_file)
    compared = 0
    for case in json.loads(GOLDEN.read_text(encoding="utf-8"))["finetune_preprocess"]:
        turns = case["conversations"]
        well_formed = [turn["from"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
        if not well_formed or "<|" in json.dumps(turns) or not turns[1]["value"]:
            continue
        example = encode(record_of({"conversations": turns}, tmp_path), published)
        length = min(len(example), case["max_len"])
        assert example.labels[:length].tolist() == case["labels"][:length]
        assert set(case["labels"][length:]) <= {IGNORE_INDEX}
        # the original writes the path into the slots
        slots = [i for i, token in enumerate(example.input_ids[:length]) if token == published.img_pad_id]
        ids = list(case["input_ids"][:length])
        for slot in slots:
            ids[slot] = published.img_pad_id
        assert example.input_ids[:length].tolist() == ids
        compared += 1
    assert compared >= 3


def with_images(counts):
    turns = []
    for index, count in enumerate(counts):
        images = [image_part(f"{index}{i}.png") for i in range(count)]
        turns.append({"role": "user", "content": [*images, {"type": "text", "text": f"q{index} <ref>x</ref>"}]})
        turns.append({"role": "assistant", "content": f"the answer {index}"})
    return turns


@given(counts=st.lists(st.integers(0, 2), min_size=1, max_size=4), cut=st.floats(0, 1), system=st.booleans())
def test_truncation_keeps_whole_turns_with_their_images_from_the_start(
    processor, tmp_path_factory, counts, cut, system
):
    tokenizer, folder = processor.tokenizer, tmp_path_factory.mktemp("data")
    before = [{"role": "system", "content": "be the brief"}] if system else []
    record = record_of(before + with_images(counts), folder)
    whole = encode(record, tokenizer)
    max_length = int(cut * len(whole)) + 1
    try:
        example = encode(record, tokenizer, max_length)
    except RecordTooLongError:
        assert len(encode(record_of(before + with_images(counts[:1]), folder), tokenizer)) > max_length
        return
    kept = len(counts) - example.dropped_turns
    expected = encode(record_of(before + with_images(counts[:kept]), folder), tokenizer)
    assert example.input_ids.tolist() == expected.input_ids.tolist() == whole.input_ids[: len(example)].tolist()
    assert example.labels.tolist() == expected.labels.tolist()
    assert example.images == expected.images == whole.images[: len(example.images)]
    assert len(example) <= max_length
    if kept < len(counts):
        assert len(encode(record_of(before + with_images(counts[: kept + 1]), folder), tokenizer)) > max_length


def test_refusing_leaves_nothing_out(processor, tmp_path):
    record = record_of(talk("a", "b", "c", "d"), tmp_path)
    whole = encode(record, processor.tokenizer)
    assert len(encode(record, processor.tokenizer, len(whole), "refuse")) == len(whole)
    with pytest.raises(
        RecordTooLongError, match=rf"data.json:1: got {len(whole)} tokens, expected at most max_length, "
    ):
        encode(record, processor.tokenizer, len(whole) - 1, "refuse")


def test_the_first_id_is_no_target(processor, tmp_path):
    example = encode(record_of(talk("a", "b"), tmp_path), processor.tokenizer)
    assert example.labels[0] == example.input_ids[0]
    assert example.targets == (example.labels != IGNORE_INDEX).sum() - 1
