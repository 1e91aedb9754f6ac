"""Calibration data in both schemas."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from paddlemix.data.calibration import model_inputs, read_conversations
from paddlemix.errors import ConfigurationError, RecordError
from tests.random_model import random_model


@pytest.fixture
def image(tmp_path):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def as_messages(image):
    content = [{"type": "image", "image": image}, {"type": "text", "text": "What?"}]
    return [{"role": "user", "content": content}, {"role": "assistant", "content": "A bus."}]


def as_record(image):
    turns = [("user", f"Picture 1: <img>{image}</img>\nWhat?"), ("assistant", "A bus.")]
    return {"id": "x", "conversations": [{"from": role, "value": value} for role, value in turns]}


def test_all_forms_of_a_conversation_give_the_same_inputs(tmp_path, image):
    _, processor = random_model(tmp_path)
    entries = [as_messages(image), {"messages": as_messages(image)}, as_record(image)]
    (tmp_path / "data.json").write_text(json.dumps(entries))
    inputs = list(model_inputs(read_conversations(tmp_path / "data.json"), processor, max_length=200))
    ids = [row["input_ids"].numpy().tolist() for row in inputs]
    assert ids[0] == ids[1] == ids[2]
    assert all(list(row["images"].shape) == [1, 3, 28, 28] for row in inputs)


def test_long_conversations_are_left_out_and_text_alone_has_no_images(tmp_path):
    _, processor = random_model(tmp_path)
    short = ([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi"}], False)
    long = ([{"role": "user", "content": "Hi " * 200}, {"role": "assistant", "content": "Hi"}], False)
    (row,) = model_inputs([long, short], processor, max_length=100)
    assert set(row) == {"input_ids"}


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("[]", ConfigurationError, "data.json: got an empty list, expected conversations"),
        ("[\n3]", RecordError, r"data.json:2: got 3, expected {'conversations': \[...\]}"),
        ('[[{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],\n'
         '{"conversations": [{"from": "me", "value": ""}]}]', RecordError,
         r"data.json:2: conversations\[0\].from: got 'me'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_file_is_said(tmp_path, text, error, message):
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(error, match=message):
        read_conversations(tmp_path / "data.json")
