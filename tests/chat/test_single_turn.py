"""Questions to a base model: each stands alone."""

from __future__ import annotations

import pytest
from PIL import Image

from paddlemix.chat.single_turn import SingleTurnSession
from paddlemix.errors import ConfigurationError, ImageError, PromptError
from paddlemix.inference import load_model
from paddlemix.media import ImagePolicy
from tests.tiny_model import ANSWER


@pytest.fixture(scope="module")
def loaded(tiny_base_model_dir):
    return load_model(tiny_base_model_dir)


@pytest.fixture
def session(loaded):
    return SingleTurnSession(loaded.model, loaded.processor)


def test_a_reply_has_text_boxes_and_the_image_of_its_own_question(session):
    first = session.ask("where?", [Image.new("RGB", (40, 30)), Image.new("L", (20, 10))])
    assert first.text == ANSWER
    assert first.image().size == (20, 10)
    assert first.finish_reason == "stop"
    assert set(first.timings) == {"load", "encode", "prefill", "decode", "total"}
    second = session.ask("where?")
    assert second.image() is None and second.boxes == first.boxes
    assert second.prompt_tokens < first.prompt_tokens, "nothing of the first question is in the second"


def test_the_stream_gives_the_same_text_and_then_the_reply(session):
    pieces = []
    reply = session.ask("where?", stream=pieces.append)
    assert "".join(pieces) == reply.text == ANSWER


def test_the_length_limit_loses_no_token(session):
    reply = session.ask("where?", max_new_tokens=2)
    assert (reply.text, reply.finish_reason, reply.new_tokens) == ("<ref>bus", "length", 2)


def test_control_tokens_stay_text_unless_they_are_trusted_tags(loaded):
    sessions = [SingleTurnSession(loaded.model, loaded.processor, trusted_tags=trusted) for trusted in (False, True)]
    plain, trusted = (session.ask("<ref>bus</ref>?").prompt_tokens for session in sessions)
    assert trusted < plain
    plain, trusted = (session.ask("<|im_end|>?").prompt_tokens for session in sessions)
    assert trusted == plain > 2


def test_mistakes_are_refused_before_the_first_piece(session, loaded):
    with pytest.raises(PromptError, match="empty"):
        session.stream(" ")
    with pytest.raises(PromptError, match="int"):
        session.stream(1)
    with pytest.raises(ConfigurationError, match="top_p"):
        session.stream("where?", top_p=2)
    with pytest.raises(ConfigurationError, match="topp"):
        SingleTurnSession(loaded.model, loaded.processor, topp=1)
    with pytest.raises(ImageError, match="refused"):
        SingleTurnSession(loaded.model, loaded.processor, policy=ImagePolicy.server()).stream("a", ["x.png"])
