"""The tokenizer against the original's answers with the published vocabulary."""

from __future__ import annotations

import builtins
import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from paddlemix.errors import PromptError
from paddlemix.models.qwen_vl import list_format
from paddlemix.models.qwen_vl.grounding import Box
from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer

PUBLISHED_SHA256 = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"
CASES = json.loads((Path(__file__).parents[2] / "fixtures/golden/tokenizer/cases.json").read_text(encoding="utf-8"))

# Where this tokenizer differs from the original on purpose: {section: {golden case: what comes instead}}. The original
# raises in each of them. Everything that is not listed here must be equal.
UNCLOSED_OR_BROKEN_IMAGE_IS_TEXT = {
    "encode": {
        254: "<img>a.png",
        255: "text <img>a.png and more",
        256: "<img>a.png</img><img>b.png",
        257: "<img>",
        258: "<img><img>a</img>",
        259: "<img>a<ref>b</ref></img>",
        260: "<img>a<|im_end|>b</img>",
        261: "<img>x<imgpad>y</img>",
        266: "</img>x<img>",
    },
    "encode_image_st": {
        24: "<img>a.png",
        25: "text <img>a.png and more",
        26: "<img>a.png</img><img>b.png",
        27: "<img>",
        28: "<img><img>a</img>",
        29: "<img>a<ref>b</ref></img>",
        31: "<img>x<imgpad>y</img>",
        36: "</img>x<img>",
    },
    "decode": {
        385: "<img>",  # [img]
        386: "",
        387: "<img>\ufffd",  # [img, 97]: not closed, so id 97 is the token of a lone byte, not the letter a
        388: "\ufffd",
        389: "<img>a</img>",  # [img, 97, /img]: closed without a pad
        390: "a",
        393: "<img>" + "a" * 256 + "</img>",  # a path that fills all slots
        394: "a" * 256,
        395: "<img>\ufffd<imgpad></img>",  # bytes that are not UTF-8
        396: "\ufffd",
        399: "<img>as<imgpad></img>",  # an id that is no byte
        400: "as",
    },
    "to_list_format": {
        16: [{"text": "<ref>bad"}],
        17: [{"text": "<box>(1,2),(3,4)"}],
        41: [
            {"image": "data/refcoco/COCO_train2014_000000000001.jpg"},
            {"ref": "left man"},
            {"text": "<box>"},
        ],
        52: [{"text": "<img>a.png"}],
        53: [{"text": "text <img>a.png and more"}],
        54: [{"image": "a.png"}, {"text": "<img>b.png"}],
        55: [{"text": "<img>"}],
        60: [{"text": "<ref>no end"}],
        61: [{"text": "<quad>(1,2)"}],
        63: [{"text": "</img>x<img>"}],
    },
    "fetch_latest_picture": {7: "a.png"},
}
MALFORMED_BOX_IS_TEXT = {
    "fetch_all_box_with_ref": {8: [], 9: [], 10: [], 11: [], 16: [], 17: [], 25: []},
}
# The original raises too, but another type: IndexError for a box of three numbers.
OTHER_ERROR_TYPE = {"from_list_format": {18: PromptError}}


@pytest.fixture(scope="module")
def published(real_vocab_file) -> QWenVLTokenizer:
    assert hashlib.sha256(real_vocab_file.read_bytes()).hexdigest() == PUBLISHED_SHA256
    return QWenVLTokenizer(real_vocab_file)


def mismatches(section: str, key: str, call: Callable[[dict], object], *mended: dict) -> list[str]:
    """The golden cases of a section for which ``call`` gives neither their answer nor the original's error.

    Args:
        section: a list of cases in the golden file.
        key: the field of a case with the answer of the original.
        call: makes the answer out of a case.
        *mended: tables of cases that differ on purpose; they are left out.
    """
    changed = {index for table in mended for index in table.get(section, {})}
    wrong = []
    for index, case in enumerate(CASES[section]):
        if index not in changed:
            expected = case["raises"]["type"] if "raises" in case else case[key]
            given = _answer_or_error(case, call)
            if given != expected:
                wrong.append(f"{section}[{index}]: expected {expected!r}, got {given!r}")
    assert len(CASES[section]) > len(changed), f"{section}: no case is left"
    return wrong


def _answer_or_error(case: dict, call: Callable[[dict], object]) -> object:
    """What ``call`` gives, as JSON has it; the type of the original's error where it raises that one."""
    allowed = getattr(builtins, case["raises"]["type"]) if "raises" in case else ()
    try:
        return json.loads(json.dumps(call(case)))
    except allowed:
        return case["raises"]["type"]
    except Exception as error:  # noqa: BLE001 (reported beside the other cases)
        return f"{type(error).__name__}: {error}"


def test_text_is_encoded_with_all_special_tokens(published):
    assert not mismatches("encode", "ids", lambda c: published(c["text"]).input_ids, UNCLOSED_OR_BROKEN_IMAGE_IS_TEXT)


def test_text_is_encoded_without_special_tokens(published):
    def encode(case):
        return published.encode(case["text"], allowed_special=(), disallowed_special=())

    assert not mismatches("encode_plain", "ids", encode)


def test_text_is_encoded_with_image_and_box_tags_only(published):
    def encode(case):
        return published.encode(case["text"], allowed_special=set(published.IMAGE_ST))

    assert not mismatches("encode_image_st", "ids", encode, UNCLOSED_OR_BROKEN_IMAGE_IS_TEXT)


def test_disallowed_special_tokens_are_refused(published):
    def encode(case):
        return published.encode(case["text"], allowed_special=set(), disallowed_special="all")

    assert not mismatches("encode_disallowed", "ids", encode)


def test_paths_are_written_into_the_image_slots(published):
    assert not mismatches("image_ids", "ids", lambda case: published(f"<img>{case['path']}</img>").input_ids)


def test_ids_are_decoded(published):
    def decode(case):
        options = {k: case[k] for k in ("skip_special_tokens", "errors", "keep_image_special") if k in case}
        return published.decode(case["ids"], **options)

    assert not mismatches("decode", "text", decode, UNCLOSED_OR_BROKEN_IMAGE_IS_TEXT)


def test_batches_are_padded(published):
    for case in CASES["batch"]:
        batch = published(case["texts"], padding="longest", padding_side=case["padding_side"])
        assert batch.input_ids == case["input_ids"]
        assert batch.attention_mask == case["attention_mask"]
        assert published.pad_token_id == case["pad_token_id"]


def test_lists_become_text(published):
    def as_text(case):
        return published.from_list_format(case["input"])

    assert not mismatches("from_list_format", "text", as_text, OTHER_ERROR_TYPE)


def test_text_becomes_lists(published):
    def as_list(case):
        return published.to_list_format(case["text"])

    assert not mismatches("to_list_format", "output", as_list, UNCLOSED_OR_BROKEN_IMAGE_IS_TEXT)


def test_boxes_are_found_with_their_phrases(published):
    def boxes(case):
        return published._fetch_all_box_with_ref(case["text"])

    assert not mismatches("fetch_all_box_with_ref", "output", boxes, MALFORMED_BOX_IS_TEXT)


def test_the_latest_image_is_found(published):
    def latest(case):
        return published._fetch_latest_picture(case["response"], case["history"])

    assert not mismatches("fetch_latest_picture", "picture", latest, UNCLOSED_OR_BROKEN_IMAGE_IS_TEXT)


def test_attributes_are_those_of_the_original(published):
    expected = dict(CASES["attributes"])
    assert len(published) == expected.pop("len")
    assert len(published.mergeable_ranks) == expected.pop("n_mergeable")
    assert {name: getattr(published, name) for name in expected} == expected


# ---------------------------------------------------------------- what is mended


@pytest.mark.parametrize("section", ["encode", "encode_image_st"])
def test_an_unclosed_or_broken_image_in_text_is_text(published, section):
    allowed = "all" if section == "encode" else published.IMAGE_ST
    for index, text in UNCLOSED_OR_BROKEN_IMAGE_IS_TEXT[section].items():
        case = CASES[section][index]
        assert case["text"] == text and "raises" in case
        ids = published.encode(text, allowed_special=allowed)
        assert published.decode(ids) == text
        assert ids.count(published.img_start_id) == len(published.image_paths(ids))


def test_an_unclosed_image_does_not_spoil_the_one_before_or_after_it(published):
    block = published.image_block("a")
    assert published.encode("<img><img>a</img>") == published.encode("<img>", allowed_special=()) + block
    assert published.encode("<img>a</img><img>b") == block + published.encode("<img>b", allowed_special=())


def test_a_broken_image_in_ids_is_decoded_token_by_token(published):
    for index, text in UNCLOSED_OR_BROKEN_IMAGE_IS_TEXT["decode"].items():
        case = CASES["decode"][index]
        assert "raises" in case
        assert published.decode(case["ids"], skip_special_tokens=case.get("skip_special_tokens", False)) == text


def test_broken_tags_and_boxes_are_text_for_the_list_format(published):
    calls = {
        "to_list_format": lambda case: published.to_list_format(case["text"]),
        "fetch_latest_picture": lambda case: published._fetch_latest_picture(case["response"], case["history"]),
        "fetch_all_box_with_ref": lambda case: published._fetch_all_box_with_ref(case["text"]),
    }
    for section, call in calls.items():
        for table in (UNCLOSED_OR_BROKEN_IMAGE_IS_TEXT, MALFORMED_BOX_IS_TEXT):
            for index, expected in table.get(section, {}).items():
                assert "raises" in CASES[section][index]
                assert call(CASES[section][index]) == expected


def test_errors_of_another_type_than_the_original(published):
    for index, error in OTHER_ERROR_TYPE["from_list_format"].items():
        case = CASES["from_list_format"][index]
        assert "raises" in case
        with pytest.raises(error, match="expected four numbers"):
            published.from_list_format(case["input"])


@pytest.mark.parametrize("length", [0, 1, 254, 255, 256])
def test_every_path_that_fits_into_the_slots_is_read_back(published, length):
    path = "p" * length
    ids = published(f"<img>{path}</img>").input_ids
    assert len(ids) == 258
    assert published.image_paths(ids) == [path]
    assert published.decode(ids) == f"<img>{path}</img>"


def test_boxes_to_draw_have_the_pixels_labels_and_colors_of_the_original():
    for case in CASES["draw_boxes"]:
        boxes = list_format.boxes_with_ref(case["response"])
        image = list_format.latest_image(case["response"], case["history"])
        assert (image is None or not boxes) == case["returns_none"]
        if not case["returns_none"]:
            pixels = [list(Box(None, *box["box"]).pixels(*case["image_size_wh"])) for box in boxes]
            assert pixels == [call["box"] for call in case["calls"]]
            assert [box.get("ref") for box in boxes] == [call["label"] for call in case["calls"]]
            assert list_format.color_groups(boxes) == [call["color_group"] for call in case["calls"]]


def test_the_published_config_is_read_and_the_rank_file_written_as_published(published, real_vocab_file, tmp_path):
    (tmp_path / "qwen.tiktoken").write_bytes(real_vocab_file.read_bytes())
    config = {"model_max_length": 8192, "tokenizer_class": "QWenTokenizer", "auto_map": {"AutoTokenizer": ["x", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = QWenVLTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.model_max_length, tokenizer.image_slots, tokenizer.padding_side) == (8192, 256, "right")
    tokenizer.save_pretrained(tmp_path / "copy")
    written = (tmp_path / "copy" / "qwen.tiktoken").read_bytes()
    assert hashlib.sha256(written).hexdigest() == PUBLISHED_SHA256


def test_a_tokenizer_travels_to_worker_processes_without_its_ranks(published):
    data = pickle.dumps(published)
    assert len(data) < 50_000
    assert pickle.loads(data)("你好").input_ids == published("你好").input_ids
