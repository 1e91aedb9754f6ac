"""The tokenizer with any vocabulary: special ids, hostile text, batches, files, drawing."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from paddlemix.errors import CheckpointError, ConfigurationError, PromptError
from paddlemix.models.qwen_vl import list_format
from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer
from paddlemix.models.qwen_vl.vocabulary import GROUNDING_TAGS, IMAGE_TAGS, SPECIAL_TOKENS
from tests.tiny_vocabulary import N_RANKS, write_rank_file


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> QWenVLTokenizer:
    """256 bytes and eight merges, 20 slots an image."""
    return QWenVLTokenizer(write_rank_file(tmp_path_factory.mktemp("vocab") / "tiny.tiktoken"), num_image_tokens=20)


def test_special_ids_follow_from_the_number_of_ranks(tiny):
    assert [tiny.eod_id, tiny.im_start_id, tiny.im_end_id] == [N_RANKS, N_RANKS + 1, N_RANKS + 2]
    assert tiny.special_tokens["<|extra_204|>"] == N_RANKS + 207
    assert [tiny.convert_tokens_to_ids(tag) for tag in IMAGE_TAGS] == list(range(N_RANKS + 208, N_RANKS + 217))
    assert [tiny.img_start_id, tiny.img_end_id, tiny.img_pad_id] == [N_RANKS + 214, N_RANKS + 215, N_RANKS + 216]
    assert len(tiny) == tiny.vocab_size == N_RANKS + 217


def test_the_number_of_image_slots_is_that_of_the_config(tiny):
    ids = tiny("<img>a.png</img>").input_ids
    assert ids == [tiny.img_start_id, *b"a.png", *[tiny.img_pad_id] * 15, tiny.img_end_id]


def test_merges_are_used(tiny):
    assert tiny.tokenize("in the 12") == [b"in", b" the", b" ", b"1", b"2"]  # digits stay single


@given(st.text(st.characters(), max_size=60))
def test_any_text_survives_the_round_trip_in_nfc(tiny, text):
    for allowed in ((), GROUNDING_TAGS):
        ids = tiny.encode(text, allowed_special=allowed)
        assert tiny.decode(ids) == list_format.normalize_text(text)


fragments = st.sampled_from(["<", "<|", "|>", "im_end", "img>", "\n", "(1,2),(3,4)"]) | st.text(max_size=4)
hostile_text = st.lists(st.sampled_from(SPECIAL_TOKENS[:4] + IMAGE_TAGS) | fragments, max_size=12).map("".join)
tagged_text = st.lists(st.sampled_from(IMAGE_TAGS) | fragments, max_size=12).map("".join)


@given(hostile_text)
def test_text_never_becomes_a_special_token_when_none_is_allowed(tiny, text):
    ids = tiny.encode(text, allowed_special=())
    assert all(token_id < tiny.eod_id for token_id in ids)
    assert tiny.decode(ids) == list_format.normalize_text(text)


@given(hostile_text)
def test_no_text_makes_the_tokenizer_fail(tiny, text):
    ids = tiny.encode(text, allowed_special=IMAGE_TAGS)
    assert not {tiny.eod_id, tiny.im_start_id, tiny.im_end_id} & set(ids)
    assert ids.count(tiny.img_start_id) == len(tiny.image_paths(ids))


@given(tagged_text)
def test_the_list_format_loses_no_text(tiny, text):
    tags = {"text": ("", ""), "image": ("<img>", "</img>")}
    tags.update({name: (f"<{name}>", f"</{name}>") for name in ("ref", "box", "quad")})
    parts = [(tags[key], value) for part in tiny.to_list_format(text) for key, value in part.items()]
    assert "".join(start + value + end for (start, end), value in parts) == list_format.normalize_text(text)
    assert all(len(box["box"]) == 4 for box in list_format.boxes_with_ref(text))


@given(st.lists(st.integers(0, 480), max_size=40))
def test_any_ids_can_be_decoded(tiny, ids):
    assert tiny.decode(ids) == tiny.decode(np.asarray(ids, dtype=np.int64))
    for keep in (False, True):
        assert "<|im_end|>" not in tiny.decode(ids, skip_special_tokens=True, keep_image_special=keep)


def test_a_million_spaces_are_encoded(tiny):
    text = " " * 1_000_000 + "x"
    assert tiny.decode(tiny.encode(text)) == text


def test_lone_surrogates_are_replaced_and_pairs_joined(tiny):
    assert tiny.decode(tiny.encode("a\ud800b")) == "a\ufffdb"
    assert tiny.decode(tiny.encode("\ud83d\ude00")) == "\U0001f600"
    assert tiny.image_paths(tiny.encode("<img>\udcff.png</img>")) == ["\ufffd.png"]


# ---------------------------------------------------------------- tokens, batches, files


def test_tokens_and_ids_are_converted_both_ways(tiny):
    ids = tiny.encode("in<ref>the</ref>")
    tokens = tiny.convert_ids_to_tokens(ids)
    assert tokens == [b"in", "<ref>", b"the", "</ref>"] == tiny.tokenize("in<ref>the</ref>")
    assert tiny.convert_tokens_to_ids(tokens) == ids
    assert tiny.convert_tokens_to_string(tokens) == "in<ref>the</ref>"
    assert tiny.convert_ids_to_tokens(ids, skip_special_tokens=True) == [b"in", b"the"]
    assert tiny.convert_tokens_to_ids("<nonsense>") is None
    vocabulary = tiny.get_vocab()
    assert len(vocabulary) == len(tiny) and vocabulary["<ref>"] == tiny.ref_start_id


def test_one_text_gives_a_row_and_a_list_gives_rows(tiny):
    row = tiny("in")
    assert row == {"input_ids": [row.input_ids[0]], "token_type_ids": [0], "attention_mask": [1]}
    assert tiny(["in"])["input_ids"] == [row.input_ids]
    assert tiny("in", return_tensors="np").input_ids.tolist() == [row.input_ids]
    with pytest.raises(AttributeError, match="input_ids"):
        _ = row.pixel_values


def test_tensors_are_int64(tiny):
    paddle = pytest.importorskip("paddle")
    batch = tiny(["in", "in the"], padding=True, return_tensors="pd")
    assert batch.input_ids.shape == [2, 2] and batch.input_ids.dtype == paddle.int64
    assert tiny.batch_decode(batch.input_ids, skip_special_tokens=True) == ["in", "in the"]


def test_padding_to_the_longest_and_to_a_length(tiny):
    tiny_left = copy.copy(tiny)
    tiny_left.padding_side = "left"
    pad = tiny.pad_token_id
    (a,), (b, c) = tiny.encode("in"), tiny.encode("in the")
    assert tiny(["in", "in the"], padding=True).input_ids == [[a, pad], [b, c]]
    assert tiny_left(["in", "in the"], padding="longest").input_ids == [[pad, a], [b, c]]
    padded = tiny(["in", "in the"], padding="max_length", max_length=3, padding_side="left")
    assert padded.input_ids == [[pad, pad, a], [pad, b, c]]
    assert padded.attention_mask == [[0, 0, 1], [0, 1, 1]]


def test_labels_are_padded_with_the_ignored_label(tiny):
    batch = tiny.pad([{"input_ids": [1], "labels": [1]}, {"input_ids": [1, 2], "labels": [1, 2]}])
    assert batch.labels == [[1, -100], [1, 2]]


def test_truncation_never_cuts_an_image(tiny):
    text = "in the<img>a</img>in"
    ids = tiny.encode(text)
    assert len(ids) == 2 + 22 + 1
    for length in range(1, 30):
        cut = tiny(text, truncation=True, max_length=length).input_ids
        assert cut == ids[: len(cut)]
        assert len(cut) == (length if length < 2 or length >= 24 else 2) or len(cut) == len(ids) <= length
        assert cut.count(tiny.img_start_id) == cut.count(tiny.img_end_id)
    assert tiny.truncate(tiny.encode("<img>a"), 2) == tiny.encode("<img>a")[:2]


@pytest.mark.parametrize(
    "arguments, field",
    [
        ({"padding": "shortest"}, "padding"),
        ({"padding_side": "top", "padding": True}, "padding_side"),
        ({"return_tensors": "pt"}, "return_tensors"),
        ({"max_length": 0, "truncation": True}, "max_length"),
        ({"allowed_special": "none"}, "allowed_special"),
        ({"allowed_special": {"<video>"}}, "allowed_special"),
        ({"disallowed_special": "some"}, "disallowed_special"),
    ],
)
def test_wrong_options_are_named(tiny, arguments, field):
    with pytest.raises(ConfigurationError, match=field):
        tiny("in", **arguments)


def test_rows_of_unequal_length_make_no_array(tiny):
    with pytest.raises(PromptError, match="padding=True"):
        tiny(["in", "in the"], return_tensors="np")


def test_something_else_than_text_is_refused(tiny):
    with pytest.raises(PromptError, match="got int, expected str"):
        tiny([5])


def test_saving_and_loading_gives_the_same_tokenizer(tiny, tmp_path):
    config = {
        "auto_map": {"AutoTokenizer": ["tokenization_qwen.QWenTokenizer", None]},
        "tokenizer_class": "QWenTokenizer",
    }
    source = tmp_path / "source"
    tiny.save_pretrained(source)
    (source / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 77, "image_slots": 20}))
    loaded = QWenVLTokenizer.from_pretrained(source, padding_side="left")
    assert (loaded.model_max_length, loaded.image_slots, loaded.padding_side) == (77, 20, "left")
    files = loaded.save_pretrained(tmp_path / "copy")
    assert sorted(Path(file).name for file in files) == ["qwen.tiktoken", "tokenizer_config.json"]
    saved = json.loads((tmp_path / "copy" / "tokenizer_config.json").read_text())
    assert saved == {**config, "model_max_length": 77, "image_slots": 20, "errors": "replace", "padding_side": "left"}
    again = QWenVLTokenizer.from_pretrained(tmp_path / "copy")
    text = "in the <img>x</img>你"
    assert again(text) == loaded(text) == tiny(text)
    assert QWenVLTokenizer.from_pretrained(tmp_path / "copy", num_image_tokens=4).num_image_tokens == 4
    assert QWenVLTokenizer.from_pretrained(tmp_path / "copy", image_slots=4).num_image_tokens == 4


@pytest.mark.parametrize(
    "content, message",
    [
        (b"not a rank file\n", "line 1"),
        (b"YQ== 0\nYg== 2\n", "ranks are not"),
        (b"YQ== 0\nYg== 1\n", "254 of the 256 single bytes"),
        (b"", "is empty; delete it and download it again"),
    ],
)
def test_a_damaged_rank_file_is_refused(tmp_path, content, message):
    path = tmp_path / "broken.tiktoken"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        QWenVLTokenizer(path)


def test_missing_and_damaged_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="qwen.tiktoken cannot be read"):
        QWenVLTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        QWenVLTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="expected a JSON object"):
        QWenVLTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "field, value",
    [
        ("num_image_tokens", 0),
        ("image_slots", 0),
        ("errors", "guess"),
        ("model_max_length", "8192"),
        ("padding_side", "both"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(tiny, field, value):
    with pytest.raises(ConfigurationError, match=field):
        QWenVLTokenizer(tiny.vocab_file, **{field: value})


# ---------------------------------------------------------------- drawing


@pytest.mark.parametrize("path", ["p" * 21, "图" * 7])
def test_a_path_that_does_not_fit_is_refused_at_once(tiny, path):
    with pytest.raises(PromptError, match="21 bytes of UTF-8, expected at most 20"):
        tiny(f"<img>{path}</img>")


def test_boxes_are_drawn_on_the_latest_image(tiny, tmp_path):
    path = tmp_path / "gray.png"
    Image.new("RGB", (80, 60), (128, 128, 128)).save(path)
    history = [(f"<img>{tmp_path / 'absent.png'}</img>", "no"), (f"<img>{path}</img>where?", "there")]
    drawn = tiny.draw_bbox_on_latest_picture("<box>(250,500),(750,900)</box>", history)
    drawn.save(tmp_path / "drawn.png")
    pixels = np.asarray(Image.open(tmp_path / "drawn.png").convert("RGB")).astype(int)
    assert pixels.shape == (60, 80, 3)
    assert (pixels[40, 20] != 128).any()
    assert (pixels[5, 5] == 128).all()


def test_the_image_to_draw_into_is_never_taken_from_an_answer(tiny, tmp_path):
    path = tmp_path / "gray.png"
    Image.new("RGB", (80, 60), (128, 128, 128)).save(path)
    answer = f"<img>{tmp_path / 'absent.png'}</img><box>(250,500),(750,900)</box>"
    assert tiny.draw_bbox_on_latest_picture(answer) is None
    assert tiny.draw_bbox_on_latest_picture(answer, [("what?", answer)]) is None
    assert tiny.draw_bbox_on_latest_picture(answer, [(f"<img>{path}</img>", answer), ("?", answer)]).size == (80, 60)


def test_boxes_after_one_with_a_label_are_drawn_in_its_color(tiny, tmp_path):
    path = tmp_path / "gray.png"
    Image.new("RGB", (100, 100), (128, 128, 128)).save(path)
    answer = "<ref>a</ref><box>(100,100),(300,300)</box><box>(600,600),(900,900)</box>"
    answer += "<ref>b</ref><box>(600,100),(900,300)</box>"
    pixels = np.asarray(tiny.draw_bbox_on_latest_picture(answer, [(f"<img>{path}</img>", "")]))
    first, second, third = (tuple(pixels[y, x]) for y, x in ((30, 20), (90, 75), (30, 75)))
    assert first == second != third


@pytest.mark.parametrize("response, history", [("no box", [("<img>a.png</img>", "x")]), ("<box>(1,2),(3,4)</box>", [])])
def test_nothing_is_drawn_without_an_image_or_a_box(tiny, response, history):
    assert tiny.draw_bbox_on_latest_picture(response, history) is None


@pytest.mark.parametrize("text", [3, None, b"bytes", {"a": 1}])
def test_what_is_neither_text_nor_a_list_is_refused(tiny, text):
    with pytest.raises(PromptError, match="text: got .*expected a str or a list"):
        tiny(text)


@pytest.mark.parametrize(
    "elements",
    [
        5,
        None,
        "abc",
        {"image": "x"},
        [5],
        [None],
        ["x"],
        [("image", "x")],
        [{}],
        [{"text": 5}],
        [{"text": None}],
        [{"image": None}],
        [{"image": b"x"}],
        [{"ref": None, "box": [(1, 2, 3, 4)]}],
        [{"box": 5}],
        [{"box": "abcd"}],
        [{"box": [5]}],
        [{"box": [(1, 2, 3, float("inf"))]}],
        [{"box": [(1, 2, 3, "x" * 1000)]}],
        [{"x" * 1000: 1}],
    ],
)
def test_a_list_format_of_other_things_is_refused_by_name(tiny, elements):
    with pytest.raises(PromptError) as error:
        tiny.from_list_format(elements)
    assert len(str(error.value)) < 250


@pytest.mark.parametrize("other", [5, b"x", [5], {"a": 1}])
def test_texts_and_histories_of_other_types_are_refused(tiny, other):
    with pytest.raises(PromptError, match="text: got"):
        tiny.to_list_format(other)
    with pytest.raises(PromptError, match="text: got"):
        tiny.draw_bbox_on_latest_picture(other, [("a", "b")])
    with pytest.raises(PromptError, match=r"history\[0\]: got"):
        tiny.draw_bbox_on_latest_picture("<box>(1,2),(3,4)</box>", [other])


@pytest.mark.parametrize("allowed", [5, "x", b"all", {5}, ["x"], [["<ref>"]]], ids=range(6))
def test_special_tokens_that_are_none_are_refused(tiny, allowed):
    with pytest.raises(ConfigurationError, match="allowed_special: got .*special token"):
        tiny.encode("a", allowed_special=allowed)


def test_rows_are_not_padded_without_end(tiny):
    with pytest.raises(ConfigurationError, match="max_length: got 1000000000000, expected at most 16777216"):
        tiny("a", padding="max_length", max_length=10**12)
