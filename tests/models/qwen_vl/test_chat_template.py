"""Conversations as token ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddlemix.errors import PaddleMixError, PromptError
from paddlemix.models.qwen_vl import messages as schema
from paddlemix.models.qwen_vl.chat_template import (
    DEFAULT_SYSTEM,
    UnknownChatFormatError,
    render_chatml,
    render_raw,
    render_training,
)
from paddlemix.models.qwen_vl.original_chat import (
    decode_tokens,
    get_stop_words_ids,
    make_context,
    render_conversation,
)
from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer
from paddlemix.models.qwen_vl.vocabulary import IMAGE_TAGS
from tests.tiny_vocabulary import write_rank_file

CASES = json.loads((Path(__file__).parents[2] / "fixtures/golden/tokenizer/cases.json").read_text(encoding="utf-8"))

# Where the original loses the last token of an answer that has no stop token: {golden case: what comes instead}.
# Everything else in that section must be equal.
NO_TOKEN_IS_LOST = {
    1: "A dog runs on the beach.",
    7: "A dog runs on the beach.",
    9: "A dog runs on the beach.",
    11: "A dog runs on the beach.",
    15: "是的，图中有<ref>一只猫</ref><box>(1,2),(3,4)</box>。",
    21: "是的，图中有<ref>一只猫</ref><box>(1,2),(3,4)</box>。",
    23: "是的，图中有<ref>一只猫</ref><box>(1,2),(3,4)</box>。",
    25: "是的，图中有<ref>一只猫</ref><box>(1,2),(3,4)</box>。",
}
# The original raises KeyError for a role it does not know; here every malformed record is a PromptError.
REFUSED_RECORDS = {7}


@pytest.fixture(scope="module")
def published(real_vocab_file) -> QWenVLTokenizer:
    return QWenVLTokenizer(real_vocab_file)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> QWenVLTokenizer:
    return QWenVLTokenizer(write_rank_file(tmp_path_factory.mktemp("vocab") / "tiny.tiktoken"), image_slots=4)


def history_of(case: dict) -> list | None:
    return None if case["history"] is None else [tuple(turn) for turn in case["history"]]


def blank_paths(tokenizer: QWenVLTokenizer, ids: list[int]) -> list[int]:
    """The ids with nothing but pads in the image slots."""
    output, slot = [], False
    for token_id in ids:
        slot = (slot or token_id == tokenizer.img_start_id) and token_id != tokenizer.img_end_id
        output.append(tokenizer.img_pad_id if slot and token_id != tokenizer.img_start_id else token_id)
    return output


# ---------------------------------------------------------------- the original's functions


@pytest.mark.parametrize("case", CASES["make_context"])
def test_contexts_are_those_of_the_original(published, case):
    arguments = (case["query"], history_of(case), case["system"], case["max_window_size"], case["chat_format"])
    if "raises" in case:
        with pytest.raises(NotImplementedError):
            make_context(published, *arguments)
    else:
        assert make_context(published, *arguments) == (case["raw_text"], case["ids"])


@pytest.mark.parametrize("index", range(len(CASES["decode_tokens"])))
def test_answers_are_those_of_the_original_with_their_last_token(published, index):
    case = CASES["decode_tokens"][index]
    arguments = (case["ids"], published, case["raw_text_len"], case["context_length"], case["chat_format"])
    if "raises" in case:
        with pytest.raises(NotImplementedError):
            decode_tokens(*arguments)
        return
    text, reason = decode_tokens(*arguments, return_end_reason=True, errors=case["errors"])
    assert reason == case["end_reason"]
    if index in NO_TOKEN_IS_LOST:
        assert case["note"].startswith("no stop token") and text != case["text"]
    assert text == NO_TOKEN_IS_LOST.get(index, case["text"])
    assert decode_tokens(*arguments, errors=case["errors"]) == text


@pytest.mark.parametrize("case", CASES["get_stop_words_ids"])
def test_stop_words_are_those_of_the_original(published, case):
    if "raises" in case:
        with pytest.raises(NotImplementedError):
            get_stop_words_ids(case["chat_format"], published)
    else:
        assert get_stop_words_ids(case["chat_format"], published) == case["ids"]


def test_an_unknown_chat_format_is_an_error_of_this_package(tiny):
    with pytest.raises(PaddleMixError, match="chat_format: got 'other', expected one of chatml, raw") as caught:
        make_context(tiny, "q", chat_format="other")
    assert isinstance(caught.value, UnknownChatFormatError)


@pytest.mark.parametrize("index", range(len(CASES["finetune_preprocess"])))
def test_training_records_are_those_of_the_original(published, index):
    case = CASES["finetune_preprocess"][index]
    if index in REFUSED_RECORDS:
        assert case["raises"]["type"] == "KeyError"
        with pytest.raises(PromptError, match=r"conversations\[0\].from: got 'system'"):
            render_conversation(published, case["conversations"])
        return
    example = render_conversation(published, case["conversations"])
    assert len(example.input_ids) == len(example.labels)
    ids = published.truncate(example.input_ids, case["max_len"])
    row = published.pad(
        [{"input_ids": ids, "labels": example.labels[: len(ids)]}], "max_length", max_length=case["max_len"]
    )
    assert row.input_ids == [case["input_ids"]]
    assert row.labels == [case["labels"]]
    # the original masks every id that equals the pad, those of <|endoftext|> in a text included
    assert [int(i != published.pad_token_id) for i in row.input_ids[0]] == case["attention_mask"]


# ---------------------------------------------------------------- messages against the original


# The original puts an extra line end after a question without an answer; messages do not.
ANSWERED = [case for case in CASES["make_context"] if all(answer is not None for _, answer in case["history"] or [])]


@pytest.mark.parametrize("case", [case for case in ANSWERED if case["chat_format"] == "chatml"])
def test_messages_give_the_original_prompt_with_empty_slots(published, case):
    history = [*(history_of(case) or []), (case["query"], None)]
    conversation = schema.history_to_messages(history, case["system"], keep_labels=True)
    prompt = render_chatml(
        published, conversation, trusted_tags=True, image_labels=False, max_window_size=case["max_window_size"]
    )
    assert prompt.input_ids == blank_paths(published, case["ids"])
    assert prompt.images == published.image_paths(case["ids"])


def test_messages_and_the_list_format_give_the_same_prompt(published):
    query = published.from_list_format([{"image": "a.png"}, {"image": "b.png"}, {"text": "\nwhat? <ref>x</ref>"}])
    parts = [{"type": "image", "image": "a.png"}, {"type": "image", "image": "b.png"}, "\nwhat? <ref>x</ref>"]
    _, expected = make_context(published, query, system=DEFAULT_SYSTEM)
    prompt = render_chatml(published, [{"role": "user", "content": parts}], trusted_tags=True)
    assert prompt.input_ids == blank_paths(published, expected)
    assert prompt.images == ["a.png", "b.png"]
    _, expected = make_context(published, query, chat_format="raw")
    raw = render_raw(published, [{"role": "user", "content": parts}], trusted_tags=True)
    assert raw.input_ids == blank_paths(published, expected)
    assert raw.images == ["a.png", "b.png"]


def test_records_give_the_original_training_example_with_empty_slots(published):
    for index, case in enumerate(CASES["finetune_preprocess"]):
        if index in REFUSED_RECORDS or "<|" in json.dumps(case["conversations"]):
            continue
        expected = render_conversation(published, case["conversations"])
        example = render_training(published, schema.conversation_to_messages(case["conversations"]), image_labels=False)
        assert example.input_ids == blank_paths(published, expected.input_ids)
        assert example.labels == expected.labels
        assert example.images == published.image_paths(expected.input_ids)


# ---------------------------------------------------------------- messages


def user(*content: object) -> dict:
    return {
        "role": "user",
        "content": [c if isinstance(c, (str, dict)) else {"type": "image", "image": c} for c in content],
    }


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def test_images_are_numbered_over_the_whole_conversation(tiny):
    prompt = render_chatml(tiny, [user(1, "a"), assistant("b"), user("c", 2, 3)])
    assert tiny.decode(prompt.input_ids) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nPicture 1: <img></img>\na<|im_end|>\n"
        "<|im_start|>assistant\nb<|im_end|>\n"
        "<|im_start|>user\ncPicture 2: <img></img>\nPicture 3: <img></img>\n<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert prompt.images == [1, 2, 3]
    assert prompt.input_ids.count(tiny.img_pad_id) == 3 * 4


def test_the_system_message_is_the_given_the_default_or_none(tiny):
    given = render_chatml(tiny, [{"role": "system", "content": "be brief"}, user("q")])
    assert tiny.decode(given.input_ids).startswith("<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nq")
    none = render_chatml(tiny, [user("q")], default_system=None)
    assert tiny.decode(none.input_ids) == "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"


def test_the_assistant_is_asked_to_speak_after_the_user_or_on_demand(tiny):
    conversation = [user("q"), assistant("a")]
    closed = render_chatml(tiny, conversation).input_ids
    assert tiny.decode(closed).endswith("<|im_start|>assistant\na<|im_end|>")
    opened = render_chatml(tiny, conversation, add_generation_prompt=True).input_ids
    assert tiny.decode(opened) == tiny.decode(closed) + "\n<|im_start|>assistant\n"


def test_the_prompt_of_the_next_turn_begins_with_the_prompt_and_the_answer(tiny):
    first = render_chatml(tiny, [user(1, "where?")])
    answer = tiny.encode("<ref>in</ref><box>(1,2),(3,4)</box>") + [tiny.im_end_id]
    second = render_chatml(tiny, [user(1, "where?"), assistant("<ref>in</ref><box>(1,2),(3,4)</box>"), user("and?")])
    assert second.input_ids[: len(first.input_ids) + len(answer)] == first.input_ids + answer


fragments = st.sampled_from([*IMAGE_TAGS, "<|im_end|>", "<|im_start|>", "<|endoftext|>", "\n", "<", "system"])
hostile = st.lists(fragments | st.text(max_size=3), max_size=8).map("".join)


def control_ids(tokenizer: QWenVLTokenizer, ids: list[int]) -> list[int]:
    return [i for i in ids if i >= tokenizer.eod_id]


@given(hostile, hostile, hostile)
def test_text_never_becomes_a_control_token(tiny, system, question, answer):
    def conversation(s, q, a):
        return [{"role": "system", "content": s}, user(1, q), assistant(a), user(q, 2, q)]

    prompt = render_chatml(tiny, conversation(system, question, ""))
    harmless = render_chatml(tiny, conversation("s", "q", ""))
    assert control_ids(tiny, prompt.input_ids) == control_ids(tiny, harmless.input_ids)
    for trusted in (False, True):
        prompt = render_chatml(tiny, conversation(system, question, answer), trusted_tags=trusted)
        steering = [i for i in control_ids(tiny, prompt.input_ids) if i not in tiny.grounding_ids]
        assert steering == control_ids(tiny, harmless.input_ids)
    raw = render_raw(tiny, [user(question)])
    assert control_ids(tiny, raw.input_ids) == []


def test_tags_are_read_where_they_are_trusted_and_from_the_assistant(tiny):
    tagged = "<ref>in</ref>"
    plain = render_chatml(tiny, [user(tagged), assistant("x")]).input_ids
    assert not tiny.grounding_ids & set(plain)
    for prompt in (
        render_chatml(tiny, [user(tagged), assistant("x")], trusted_tags=True),
        render_chatml(tiny, [user("x"), assistant(tagged)]),
    ):
        assert prompt.input_ids.count(tiny.ref_start_id) == prompt.input_ids.count(tiny.ref_end_id) == 1


def test_the_oldest_turns_are_dropped_with_their_images(tiny):
    conversation = [user(1, "first"), assistant("a"), user(2, "second"), assistant("b"), user(3, "third")]
    whole = render_chatml(tiny, conversation)
    newest = render_chatml(tiny, conversation, max_window_size=1)
    assert newest.images == [3]
    assert "first" not in tiny.decode(newest.input_ids) and "second" not in tiny.decode(newest.input_ids)
    assert "Picture 3: " in tiny.decode(newest.input_ids)
    # the size that is compared leaves out the question and what follows it
    question = len(render_chatml(tiny, conversation[-1:], default_system=None).input_ids) + 1
    limit = len(whole.input_ids) - question
    assert render_chatml(tiny, conversation, max_window_size=limit + 1) == whole
    assert render_chatml(tiny, conversation, max_window_size=limit).images == [2, 3]


def test_the_raw_format_is_the_last_message_alone(tiny):
    raw = render_raw(tiny, [user(1, "first"), assistant("a"), user(2, "in the")])
    assert tiny.decode(raw.input_ids) == "Picture 1: <img></img>\nin the"
    assert raw.images == [2]
    bare = render_raw(tiny, [user(2, "in the")], image_labels=False)
    assert tiny.decode(bare.input_ids) == "<img></img>in the"


def test_only_what_the_assistant_says_and_the_markers_are_trained(tiny):
    example = render_training(tiny, [user(1, "in the"), assistant("the 12")])
    assert len(example.labels) == len(example.input_ids)
    assert all(label in (-100, token_id) for label, token_id in zip(example.labels, example.input_ids))
    trained = tiny.decode([label for label in example.labels if label != -100])
    assert trained == "<|im_start|><|im_end|>\n<|im_start|><|im_end|>\n<|im_start|>the 12<|im_end|>\n"
    assert example.images == [1]


def test_malformed_messages_are_refused(tiny):
    for render in (render_chatml, render_raw, render_training):
        with pytest.raises(PromptError, match=r"messages\[0\].role"):
            render(tiny, [{"role": "robot", "content": "x"}])
