"""The message schema and its way from and to other forms."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from paddlemix.errors import ImageError, PromptError
from paddlemix.media import load_image
from paddlemix.models.qwen_vl.messages import (
    conversation_to_messages,
    conversation_turns,
    history_to_messages,
    message_images,
    messages_from_json,
    messages_to_history,
    messages_to_json,
    normalize_messages,
    split_images,
)


def text(value: str) -> dict:
    return {"type": "text", "text": value}


def image(value: object) -> dict:
    return {"type": "image", "image": value}


def test_strings_and_parts_become_lists_of_parts():
    pil_image = object()
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": ["a", text(""), image(pil_image)]},
        {"role": "assistant", "content": (text("b"),)},
    ]
    before = json.dumps(messages, default=id)
    assert normalize_messages(messages) == [
        {"role": "system", "content": [text("s")]},
        {"role": "user", "content": [text("a"), image(pil_image)]},
        {"role": "assistant", "content": [text("b")]},
    ]
    assert json.dumps(messages, default=id) == before
    assert message_images(normalize_messages(messages)) == [pil_image]


@pytest.mark.parametrize("url", ["https://example.com/a.png", {"url": "data:image/png;base64,AA==", "detail": "low"}])
def test_the_openai_form_of_an_image_is_read(url):
    (message,) = normalize_messages([{"role": "user", "content": [{"type": "image_url", "image_url": url}]}])
    assert message["content"] == [image(url if isinstance(url, str) else url["url"])]


@pytest.mark.parametrize(
    "messages, error",
    [
        ("hello", "messages: got str"),
        ({"role": "user"}, "messages: got dict"),
        (None, "messages: got NoneType"),
        ([], "messages: the list is empty"),
        (["hello"], r"messages\[0\]: got str"),
        ([{"content": "x"}], r"messages\[0\].role: got None, expected one of system, user, assistant"),
        ([{"role": "tool", "content": "x"}], r"messages\[0\].role: got 'tool'"),
        ([{"role": "user", "content": "x"}, {"role": "system", "content": "x"}], r"messages\[1\].role: got 'system'"),
        ([{"role": "user"}], r"messages\[0\].content: got NoneType"),
        ([{"role": "user", "content": b"x"}], r"messages\[0\].content: got bytes"),
        ([{"role": "user", "content": [5]}], r"messages\[0\].content\[0\]: got int"),
        ([{"role": "user", "content": [{"text": "x"}]}], r"content\[0\].type: got None"),
        ([{"role": "user", "content": ["a", {"type": "video"}]}], r"content\[1\].type: got 'video', expected 'text'"),
        ([{"role": "user", "content": [{"type": "text"}]}], r"content\[0\].text: got NoneType, expected str"),
        ([{"role": "user", "content": [{"type": "image"}]}], r"content\[0\].image: got nothing"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], r"content\[0\].image_url"),
        (
            [{"role": "assistant", "content": [image("a.png")]}],
            r"messages\[0\].content: an image in a message of role",
        ),
    ],
)
def test_what_is_wrong_is_named(messages, error):
    with pytest.raises(PromptError, match=error) as caught:
        normalize_messages(messages)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- histories


def test_a_history_becomes_messages_with_images():
    history = [("Picture 1: <img>a.png</img>\nPicture 2: <img>b c.png</img>\nwhat?", "<ref>x</ref>"), ("more", None)]
    assert history_to_messages(history, system="s") == [
        {"role": "system", "content": [text("s")]},
        {"role": "user", "content": [image("a.png"), image("b c.png"), text("what?")]},
        {"role": "assistant", "content": [text("<ref>x</ref>")]},
        {"role": "user", "content": [text("more")]},
    ]
    assert history_to_messages([]) == []


def test_labels_are_kept_on_demand():
    assert split_images("Picture 1: <img>a</img>\nq", keep_labels=True) == [
        text("Picture 1: "),
        image("a"),
        text("\nq"),
    ]


@pytest.mark.parametrize(
    "query, parts",
    [
        ("<img>a", [text("<img>a")]),
        ("a</img>", [text("a</img>")]),
        ("<img><img>a</img>", [text("<img>"), image("a")]),
        ("<img>a<ref>b</ref></img>", [text("<img>a<ref>b</ref></img>")]),
        ("<img>a\nb</img>", [image("a\nb")]),
    ],
)
def test_images_are_found_where_the_tokenizer_finds_them(query, parts):
    assert split_images(query) == parts


def test_messages_become_a_history_that_counts_images_over_all_turns():
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [image(Path("a.png")), text("q")]},
        {"role": "assistant", "content": "r"},
        {"role": "user", "content": [image("b.png")]},
    ]
    history = [("Picture 1: <img>a.png</img>\nq", "r"), ("Picture 2: <img>b.png</img>\n", None)]
    assert messages_to_history(messages) == (history, "s")


plain = st.text("ab 1:\n", min_size=1, max_size=8)
turns = st.lists(
    st.tuples(st.lists(st.builds(image, st.sampled_from(["a.png", "b/c.png"])), max_size=2), plain, plain), max_size=4
)


@given(turns, st.none() | plain)
def test_messages_survive_the_way_through_a_history(turns, system):
    messages = [{"role": "system", "content": [text(system)]}] if system else []
    for images, question, answer in turns:
        messages.append({"role": "user", "content": [*images, text(question)]})
        messages.append({"role": "assistant", "content": [text(answer)]})
    if messages:
        history, kept_system = messages_to_history(messages)
        assert history_to_messages(history, kept_system) == messages


@pytest.mark.parametrize(
    "messages, error",
    [
        ([{"role": "user", "content": [image(b"...")]}], r"content\[0\].image: got bytes, expected a path"),
        ([{"role": "user", "content": "<img>/etc/passwd</img>"}], "which a history would take for an image"),
        ([{"role": "user", "content": [image("</img>x")]}], "which a history would take for an image"),
        ([{"role": "assistant", "content": "x"}], "an answer without a question"),
    ],
)
def test_what_a_history_cannot_hold_is_refused(messages, error):
    with pytest.raises(PromptError, match=error):
        messages_to_history(messages)


def test_a_fine_tuning_record_becomes_messages():
    record = [
        {"from": "assistant", "value": "dropped"},
        {"from": "user", "value": "Picture 1: <img>a.png</img>\nq"},
        {"from": "assistant", "value": "<img>stays text</img>"},
    ]
    assert conversation_to_messages(record) == [
        {"role": "user", "content": [text("Picture 1: "), image("a.png"), text("\nq")]},
        {"role": "assistant", "content": [text("<img>stays text</img>")]},
    ]


@pytest.mark.parametrize(
    "record, error",
    [
        ([{"from": "system", "value": "x"}], r"conversations\[0\].from: got 'system'"),
        ([{"from": "user", "value": "x"}, {"from": "assistant"}], r"conversations\[1\].value: got NoneType"),
        (["x"], r"conversations\[0\]: got str"),
    ],
)
def test_a_wrong_fine_tuning_record_is_refused(record, error):
    with pytest.raises(PromptError, match=error):
        conversation_to_messages(record)


# ---------------------------------------------------------------- JSON


def test_paths_and_addresses_stay_in_json():
    sources = ["a.png", Path("b.png"), "https://example.com/c.png", "data:image/png;base64,AA=="]
    messages = [{"role": "user", "content": [*map(image, sources), text("这是什么?")]}]
    loaded = messages_from_json(messages_to_json(messages))
    assert message_images(loaded) == [str(source) for source in sources]
    assert loaded[0]["content"][-1] == text("这是什么?")
    assert messages[0]["content"][1] == image(Path("b.png"))


def noise(shape: tuple) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def png(pil_image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    pil_image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "source",
    [
        Image.fromarray(noise((5, 7, 3))),
        Image.fromarray(noise((5, 7, 4))),
        Image.fromarray(noise((5, 7))),
        noise((5, 7, 3)),
        png(Image.fromarray(noise((5, 7, 3)))),
    ],
    ids=["rgb", "rgba", "gray", "array", "bytes"],
)
def test_images_in_memory_survive_json(source):
    saved = messages_to_json([{"role": "user", "content": [image(source)]}])
    (pil_image,) = message_images(messages_from_json(saved))
    expected, loaded = load_image(source), load_image(pil_image)
    assert loaded.mode == expected.mode
    assert (np.asarray(loaded) == np.asarray(expected)).all()


def test_the_orientation_of_an_image_survives_json():
    pil_image = Image.fromarray(noise((5, 7, 3)))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    pil_image.save(buffer, "JPEG", exif=exif)
    saved = messages_to_json([{"role": "user", "content": [image(buffer.getvalue())]}])
    (loaded,) = message_images(messages_from_json(saved))
    assert load_image(loaded).getexif()[0x0112] == 6


def test_what_is_no_image_is_not_written():
    with pytest.raises(ImageError):
        messages_to_json([{"role": "user", "content": [image(b"nonsense")]}])


@pytest.mark.parametrize("text", ["[{", "[" * 100_000, "[" + "9" * 5000 + "]", "[1, // one\n2]", '{"a":' * 100_000])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(PromptError, match="not JSON"):
        messages_from_json(text)


@pytest.mark.parametrize(
    ("history", "match"),
    [
        ("ab", "history: got str, expected a list of pairs"),
        ({"q": "r"}, "history: got dict, expected a list of pairs"),
        ([["q", "r"], ["q"]], r"history\[1\]: got list, expected a pair"),
        (["qr"], r"history\[0\]: got str, expected a pair"),
        ([("q", 5)], r"history\[0\]: got str and int, expected a str and a str, or None"),
        ([(None, "r")], r"history\[0\]: got NoneType and str, expected"),
    ],
)
def test_a_history_of_anything_else_is_refused(history: object, match: str) -> None:
    with pytest.raises(PromptError, match=match):
        history_to_messages(history)


@pytest.mark.parametrize("conversations", [5, None, "ab", {"from": "user", "value": "a"}])
def test_conversations_that_are_no_list_are_refused(conversations: object) -> None:
    with pytest.raises(PromptError, match="conversations: got .*, expected a list of dicts"):
        conversation_turns(conversations)


def test_a_place_that_the_user_points_at_is_a_part_of_its_own():
    part = {"type": "box", "label": "the bus", "box": (1, 2, 300, 1000)}
    (message,) = normalize_messages([{"role": "user", "content": ["What is ", part, "?"]}])
    assert message["content"][1] == {"type": "box", "label": "the bus", "box": [1, 2, 300, 1000]}
    history, _ = messages_to_history([message])
    assert history == [("What is <ref>the bus</ref><box>(1,2),(300,1000)</box>?", None)]
    for box in ([1, 2, 3], [3, 0, 1, 9], [0, 0, 0, 1001], [0, 0, 0, True], "1234", None):
        with pytest.raises(PromptError, match=r"messages\[0\]\.content\[0\]\.box: expected"):
            normalize_messages([{"role": "user", "content": [{"type": "box", "box": box}]}])
    with pytest.raises(PromptError, match="expected role 'user'"):
        normalize_messages([{"role": "assistant", "content": [part]}])
