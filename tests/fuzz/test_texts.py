"""Texts, ids, conversations and histories of any content: no control token out of text, nothing lost, no surprise."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from PIL import Image

from paddlemix.engine.detokenizer import IncrementalDecoder, StopStringMatcher
from paddlemix.models.qwen_vl import grounding, list_format
from paddlemix.models.qwen_vl.chat_template import render_chatml, render_raw, render_training
from paddlemix.models.qwen_vl.codec import normalize_text
from paddlemix.models.qwen_vl.messages import (
    history_to_messages,
    messages_from_json,
    messages_to_history,
    messages_to_json,
    normalize_messages,
    split_images,
)
from paddlemix.models.qwen_vl.original_chat import make_context
from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer
from paddlemix.models.qwen_vl.vocabulary import GROUNDING_TAGS
from tests.fuzz.checking import attempt
from tests.fuzz.counts import FACTOR, record
from tests.tiny_vocabulary import write_rank_file

SLOTS = 4
PIECES = (
    *("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<img>", "</img>", "<imgpad>", "<|im_start|>"),
    *("<|im_end|>", "<|endoftext|>", "<|extra_0|>", "<|extra_204|>", "(1,2)", "(1,2),(3,4)", "(100,200),(300,400)"),
    *("(１，２)", "Picture 1: ", "\n", "\r\n", " ", "a", "公", "é", "\u0301", "\u0315", "\ud800", "\udfff"),
    *("\U0001f600", "\0", "\x1b[2J", "\x7f", "\u202e", "\ufeff", "<", ">", "</", "<box", "(", ")", ",", "-", "."),
    *("9" * 400, "1e5", "inf", "nan", "٣", "１", "²", "½", "/etc/passwd", "http://x", "system", "user", "ﷺ", "a" * 50),
)


def any_text(rng: Random, most: int = 12) -> str:
    if rng.random() < 0.15:
        kinds = (128, 0x3000, 0x110000)
        return "".join(chr(rng.randrange(rng.choice(kinds))) for _ in range(rng.randrange(most)))
    return "".join(rng.choice(PIECES) for _ in range(rng.randrange(most)))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> QWenVLTokenizer:
    return QWenVLTokenizer(write_rank_file(tmp_path_factory.mktemp("vocabulary") / "a.tiktoken"), image_slots=SLOTS)


def incremental(tokenizer: QWenVLTokenizer, ids: list[int], **options: Any) -> str:
    decoder = IncrementalDecoder(tokenizer, **options)
    return "".join([*(decoder.push(token) for token in ids), decoder.finish()])


def test_text_gives_no_control_token_and_comes_back_whole(tokenizer: QWenVLTokenizer) -> None:
    rng, cases = Random(1), 500 * FACTOR

    def use(text: str) -> None:
        expected = normalize_text(text)
        ids = tokenizer.encode(text, allowed_special=())
        assert all(token < tokenizer.eod_id for token in ids)
        assert tokenizer.decode(ids) == expected
        assert incremental(tokenizer, ids, skip_special_tokens=False) == expected
        assert "<img>" in text or tokenizer.decode(tokenizer.encode(text)) == expected
        assert all(part["type"] != "image" or "<img>" in text for part in split_images(text))

    for _ in range(cases):
        text = any_text(rng)
        attempt(f"text {ascii(text)}", lambda text=text: use(text))
    record("texts to ids and back", cases)


DECODING: tuple[dict[str, Any], ...] = (
    {"skip_special_tokens": False, "keep_image_special": False},
    {"skip_special_tokens": True, "keep_image_special": False},
    {"skip_special_tokens": True, "keep_image_special": True},
    {"skip_special_tokens": False, "keep_image_special": False, "errors": "ignore"},
)


def test_ids_decode_one_at_a_time_as_they_do_at_once(tokenizer: QWenVLTokenizer) -> None:
    rng, cases = Random(2), 400 * FACTOR
    image = (tokenizer.img_start_id, tokenizer.img_end_id, tokenizer.img_pad_id)

    def use(ids: list[int], options: dict[str, Any]) -> None:
        assert incremental(tokenizer, ids, **options) == tokenizer.decode(ids, **options)
        assert len(tokenizer.convert_ids_to_tokens(ids)) <= len(ids)
        tokenizer.image_paths(ids)

    for _ in range(cases):
        sources = (lambda: rng.randrange(256), lambda: rng.randrange(tokenizer.vocab_size), lambda: rng.choice(image))
        ids = [rng.choice(sources)() for _ in range(rng.randrange(60))]
        options = rng.choice(DECODING)
        attempt(f"ids {ids}, {options}", lambda ids=ids, options=options: use(ids, options))
    record("ids to text", cases)


def test_boxes_of_any_text_are_within_the_image_and_are_read_back() -> None:
    rng, cases, image = Random(3), 500 * FACTOR, Image.new("RGB", (37, 53))

    def use(text: str, drawn: bool) -> None:
        boxes = grounding.parse(text)
        assert all(0 <= b.x1 <= b.x2 <= 1000 and 0 <= b.y1 <= b.y2 <= 1000 for b in boxes)
        assert not boxes or "<box>" in text or "<quad>" in text
        written = "".join(f"<box>({b.x1},{b.y1}),({b.x2},{b.y2})</box>" for b in boxes)
        again = grounding.parse(written)
        assert [(b.x1, b.y1, b.x2, b.y2) for b in again] == [(b.x1, b.y1, b.x2, b.y2) for b in boxes]
        bare = grounding.strip(text)
        assert not any(tag in bare for tag in GROUNDING_TAGS) or bare != text or not boxes
        if boxes and drawn:
            assert grounding.draw(image, boxes).size == image.size
        list_format.color_groups(list_format.boxes_with_ref(text))
        for element in list_format.to_list_format(text):
            assert len(element) == 1

    for n in range(cases):
        text = any_text(rng, 14)
        if n % 4 == 0:
            numbers = [rng.choice((0, 1, 5, 500, 999, 1000, 1001, -1)) for _ in range(4)]
            text += "<ref>{}</ref><box>({},{}),({},{})</box>".format(any_text(rng, 3), *numbers)
        attempt(f"boxes in {ascii(text)}", lambda text=text, n=n: use(text, n % 8 == 0))
    record("texts with boxes", cases)


def any_messages(rng: Random) -> list[dict[str, Any]]:
    def part() -> dict[str, Any]:
        if rng.random() < 0.6:
            return {"type": "text", "text": any_text(rng, 6)}
        if rng.random() < 0.8:
            return {"type": "image", "image": rng.choice(("p.png", "/etc/passwd", any_text(rng, 4)))}
        return {"type": "image_url", "image_url": {"url": any_text(rng, 3)}}

    def content() -> Any:
        return any_text(rng, 8) if rng.random() < 0.5 else [part() for _ in range(rng.randrange(4))]

    roles = ("user", "assistant", "user", "assistant", "system")
    return [{"role": rng.choice(roles), "content": content()} for _ in range(rng.randrange(1, 5))]


RENDERING: tuple[dict[str, Any], ...] = (
    {}, {"trusted_tags": True}, {"image_labels": False}, {"default_system": None}, {"add_generation_prompt": False},
    {"max_window_size": 0}, {"max_window_size": 20}, {"max_window_size": 100}, {"max_window_images": 1},
)  # fmt: skip


def test_conversations_have_the_control_tokens_of_their_structure_alone(tokenizer: QWenVLTokenizer) -> None:
    rng, cases = Random(4), 400 * FACTOR

    def use(messages: list[dict[str, Any]], options: dict[str, Any]) -> None:
        prompt, normal = render_chatml(tokenizer, messages, **options), normalize_messages(messages)
        images = sum(part["type"] == "image" for message in normal for part in message["content"])
        ids = prompt.input_ids
        count = len(prompt.images)
        assert ids.count(tokenizer.img_start_id) == ids.count(tokenizer.img_end_id) == count <= images
        assert ids.count(tokenizer.img_pad_id) == count * SLOTS and tokenizer.eod_id not in ids
        if not any(name.startswith("max_window") for name in options):
            system = normal[0]["role"] != "system" and options.get("default_system", "x") is not None
            answer = normal[-1]["role"] == "user" and options.get("add_generation_prompt", True)
            assert ids.count(tokenizer.im_start_id) == len(normal) + system + answer and count == images
        training = render_training(tokenizer, messages)
        assert len(training.input_ids) == len(training.labels)
        render_raw(tokenizer, messages)
        assert normalize_messages(messages_from_json(messages_to_json(messages))) == normal

    for n in range(cases):
        messages, options = any_messages(rng), rng.choice(RENDERING)
        attempt(f"conversation {n}, {options}", lambda messages=messages, options=options: use(messages, options))
    record("conversations", cases)


NAMES = ("role", "content", "type", "text", "image", "image_url", "url", "from", "value", "system", "user", "x", 5)
ODD = (None, 5, -1, 1.5, True, math.nan, 10**30, b"x", b"", {}, [], (), set(), object())


def any_value(rng: Random, depth: int = 0) -> Any:
    chance = rng.random()
    if chance < 0.5 or depth > 3:
        return any_text(rng, 6)
    if chance < 0.6:
        return rng.choice(ODD)
    if chance < 0.8:
        return [any_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(NAMES): any_value(rng, depth + 1) for _ in range(rng.randrange(5))}


def test_values_that_are_no_conversation(tokenizer: QWenVLTokenizer) -> None:
    rng, cases = Random(5), 400 * FACTOR
    uses: dict[str, Callable[[Any], object]] = {
        "messages": normalize_messages,
        "rendered": lambda value: render_chatml(tokenizer, value),
        "history of messages": messages_to_history,
        "history": lambda value: history_to_messages(value, "q"),
        "context": lambda value: make_context(tokenizer, "q", value),
        "list format": list_format.from_list_format,
        "latest image": lambda value: list_format.latest_image("a", value),
    }
    for n in range(cases):
        value = [any_value(rng) for _ in range(rng.randrange(3))] if rng.random() < 0.7 else any_value(rng)
        for name, use in uses.items():
            attempt(f"{name} {n}: {ascii(value)[:1000]}", lambda value=value, use=use: use(value))
    record("values that are no conversation", cases * len(uses))


def test_histories_fit_their_window(tokenizer: QWenVLTokenizer) -> None:
    rng, cases = Random(6), 200 * FACTOR

    def use(query: str, history: list, system: str, window: int) -> None:
        _, ids = make_context(tokenizer, query, history, system, max_window_size=window)
        # an image is read out of what the user wrote alone, never out of answers and the system text
        wrote = [query, *(turn for turn, _ in history)]
        assert ids.count(tokenizer.img_start_id) <= sum(text.count("<img>") for text in wrote)
        if window == 6144 and not any("<|" in text for text in wrote):
            answers = sum(answer is not None for _, answer in history)
            assert ids.count(tokenizer.im_start_id) == 1 + len(history) + answers + 2

    for n in range(cases):
        history = [(any_text(rng, 5), rng.choice((any_text(rng, 5), None))) for _ in range(rng.randrange(4))]
        arguments = any_text(rng, 4), history, any_text(rng, 3), rng.choice((1, 50, 6144))
        attempt(f"history {n}: {ascii(arguments)}", lambda arguments=arguments: use(*arguments))
    record("histories", cases)


def test_conversations_out_of_damaged_json() -> None:
    rng, cases = Random(7), 300 * FACTOR
    for n in range(cases):
        text = list(json.dumps(any_messages(rng)))
        for _ in range(rng.randrange(4)):
            text[rng.randrange(len(text))] = rng.choice('{}[]",:\\u0né\0')
        content = "".join(text)
        attempt(f"JSON {n}", lambda content=content: messages_from_json(content))
    written = [
        *("[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000, "9" * 5000, "NaN", "null", "", "\ufeff[]"),
        *('[{"role":["user"],"content":"a"}]', '[{"role":"' + "u" * 100_000 + '","content":"a"}]', "[[]]", '"x"'),
    ]
    for text in written:
        attempt(f"JSON {text[:20]}", lambda text=text: messages_from_json(text))
    record("conversations as JSON", cases + len(written))


def test_stop_strings_end_the_text_where_the_first_begins() -> None:
    rng, cases = Random(8), 500 * FACTOR

    def use(text: str, stops: list[str]) -> None:
        matcher, output, at = StopStringMatcher(stops), "", 0
        while at < len(text):
            count = rng.randrange(1, 4)
            output += matcher.push(text[at : at + count])
            at += count
        output += matcher.finish()
        ends = [text.find(stop) for stop in stops if stop in text]
        assert text.startswith(output)
        assert output == text if not ends else not any(stop in output for stop in stops)

    for n in range(cases):
        words = ("ab", "a", "aba", "<|im_end|>", "\n\n", "公", "<box>")
        stops = [rng.choice(words) for _ in range(rng.randrange(1, 4))]
        text = "".join(rng.choice("abc公\n<box>") for _ in range(rng.randrange(30)))
        attempt(f"stop strings {n}: {text!r} {stops}", lambda text=text, stops=stops: use(text, stops))
    record("stop strings", cases)


LONG = {
    "one letter": "a" * 50_000, "spaces": " " * 50_000, "line ends": "\r\n \t" * 12_000, "digits": "1" * 50_000,
    "ideographs": "公" * 20_000, "emoji": "\U0001f600" * 20_000, "nulls": "\0" * 50_000, "angles": "<" * 50_000,
    "image tags": "<img>" * 10_000, "images": "<img></img>" * 3000, "ref tags": "<ref>" * 10_000,
    "open brackets": "<box>" + "(" * 30_000, "numbers": "<box>" + "1," * 20_000 + "</box>",
    "boxes": "<box>(1,2),(3,4)</box>" * 3000, "turns": "<|im_start|>" * 8000, "labels": "Picture 1: " * 8000,
    "label of digits": "Picture " + "1" * 30_000 + "<img>x</img>", "marks": "a" + "\u0315\u0300" * 20_000,
    "syllables": "\u1100\u1161\u11a8" * 8000, "surrogates": "\ud800" * 30_000, "scripts": "aé公" * 10_000,
}  # fmt: skip


@pytest.mark.parametrize("name", LONG)
def test_long_texts_take_bounded_work(tokenizer: QWenVLTokenizer, name: str) -> None:
    text = LONG[name]
    uses: tuple[Callable[[], object], ...] = (
        lambda: tokenizer.encode(text, allowed_special=()),
        lambda: tokenizer.encode(text),
        lambda: grounding.parse(text),
        lambda: grounding.strip(text),
        lambda: list_format.to_list_format(text),
        lambda: list_format.boxes_with_ref(text),
        lambda: split_images(text),
        lambda: render_chatml(tokenizer, [{"role": "user", "content": text}]),
    )
    for n, use in enumerate(uses):
        attempt(f"{name}, use {n}", use)
    record("long texts", len(uses))


ARGUMENTS: tuple[dict[str, Any], ...] = (
    {"padding": "x"}, {"padding": "max_length", "max_length": 10**12}, {"max_length": 0}, {"padding": []},
    {"padding": "max_length", "max_length": "5"}, {"padding_side": "x", "padding": True}, {"allowed_special": {"x"}},
    {"allowed_special": "x"}, {"allowed_special": 5}, {"disallowed_special": 5}, {"return_tensors": "pt"},
    {"truncation": True, "max_length": -1}, {"padding": {}},
)  # fmt: skip
IDS = ([10**9], [-1], [-(10**9)], [2**63], [True], [0, 10**9])
TEXTS = (None, 5, [], [5], ["a", 5], {}, b"x", "", ["a", None])


def test_other_arguments_of_the_tokenizer(tokenizer: QWenVLTokenizer) -> None:
    def decode(ids: list[int]) -> None:
        with contextlib.suppress(KeyError, OverflowError):  # documented, of ids outside the vocabulary
            tokenizer.decode(ids)

    for options in ARGUMENTS:
        attempt(f"options {options}", lambda options=options: tokenizer("<|im_end|> hello", **options))
    for ids in IDS:
        attempt(f"decode {ids!r}", lambda ids=ids: decode(ids))
    for text in TEXTS:
        attempt(f"call {text!r}", lambda text=text: tokenizer(text))
    record("arguments of the tokenizer", len(ARGUMENTS) + len(IDS) + len(TEXTS))
