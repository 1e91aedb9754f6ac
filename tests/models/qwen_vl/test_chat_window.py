"""Which turns a model is shown; and that the bundled model stays sensible in long conversations."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from examples.bundled_model.scenes.scene import generate_scene
from examples.bundled_model.scenes.tasks import coordinates
from paddlemix.cli.terminal import TerminalChat
from paddlemix.errors import ConfigurationError
from paddlemix.inference import load_model
from paddlemix.models.qwen_vl import grounding
from paddlemix.models.qwen_vl.chat_template import ChatWindow, kept_turns, render_chatml
from paddlemix.models.qwen_vl.generation import chat_settings
from paddlemix.models.qwen_vl.original_chat import make_context
from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer
from paddlemix.zoo import DEFAULT_MODEL_DIR

SIZES = [10, 20, 30, 40]


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of chats are not kept in the home of whoever runs the tests."""
    monkeypatch.setenv("PADDLEMIX_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
    ("window", "images", "question_images", "keep", "kept"),
    [
        (ChatWindow(1000), [0, 0, 0, 0], 0, True, [0, 1, 2, 3]),
        (ChatWindow(76), [0, 0, 0, 0], 0, True, [2, 3]),  # 5 + 40 + 30 < 76
        (ChatWindow(75), [0, 0, 0, 0], 0, True, [3]),
        (ChatWindow(75), [1, 0, 0, 0], 0, False, [3]),
        (ChatWindow(75), [1, 0, 0, 0], 0, True, [0, 3]),  # 5 + 10 + 40 < 75: the image stays
        (ChatWindow(1), [0, 1, 0, 0], 0, True, [1]),
        (ChatWindow(1), [0, 1, 0, 0], 1, True, []),  # the question has an image of its own
        (ChatWindow(1000, 1), [0, 1, 0, 0], 1, True, []),
        (ChatWindow(1000, 1), [1, 0, 1, 0], 0, True, [2, 3]),
        (ChatWindow(1000, 2), [1, 0, 1, 0], 0, True, [0, 1, 2, 3]),
        (ChatWindow(1000, 2), [1, 0, 1, 0], 1, True, [2, 3]),
        (ChatWindow(1000, 1), [2, 0, 0, 0], 0, True, [0]),
        (ChatWindow(1000, 1), [0, 0, 0, 0], 1, True, [0, 1, 2, 3]),
        (ChatWindow(1000, 0), [0, 0, 0, 1], 0, True, [3]),
    ],
)
def test_the_newest_turns_that_fit_stay(window, images, question_images, keep, kept):
    assert kept_turns(window, 5, SIZES, images, question_images, keep) == kept


def test_both_ways_to_a_prompt_keep_the_same_turns():
    tokenizer = QWenVLTokenizer.from_pretrained(DEFAULT_MODEL_DIR, image_slots=36)
    history = [("<img>a</img>where?", "there"), ("and?", "here"), ("and now?", "gone")]
    messages = [{"role": "system", "content": "s"}]
    for number, (query, answer) in enumerate(history):
        parts = [{"type": "image", "image": "a"}, {"type": "text", "text": "where?"}] if number == 0 else query
        messages += [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
    messages.append({"role": "user", "content": "what?"})
    whole, _ = make_context(tokenizer, "what?", history, "s")
    for size in range(1, 120):
        options = {"max_window_size": size, "keep_last_image": True}
        text, ids = make_context(tokenizer, "what?", history, "s", **options)
        prompt = render_chatml(tokenizer, messages, image_labels=False, **options)
        assert len(prompt.input_ids) == len(ids) and "<img>a</img>" in text
        assert prompt.dropped_turns == whole.count("assistant") - text.count("assistant")


@pytest.fixture(scope="module")
def bundled():
    return load_model()


def test_the_bundled_model_says_how_far_it_was_trained(bundled):
    assert chat_settings(bundled.model) == ChatWindow(130, 1)


def test_a_window_that_cannot_be_is_refused(bundled, monkeypatch):
    monkeypatch.setattr(bundled.model.generation_config, "max_window_images", "two", raising=False)
    with pytest.raises(ConfigurationError, match="max_window_images: expected an integer"):
        bundled.new_session()


def overlap(box, truth) -> float:
    """Intersection over union."""
    corners = (box.x1, box.y1, box.x2, box.y2)
    sides = [min(corners[i + 2], truth[i + 2]) - max(corners[i], truth[i]) for i in (0, 1)]
    both = max(0, sides[0]) * max(0, sides[1])
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (corners, truth)]
    return both / (sum(areas) - both)


def scene_with_a_bus(number: int):
    """An image that no training had, and where its bus is."""
    scene = generate_scene(2**40 + number, num_objects=3, kinds=["bus"], sign=False)
    (bus,) = (placed for placed in scene.unique() if placed.kind == scene_kind("bus"))
    return scene.pil(), coordinates(bus.box)


def scene_kind(name: str) -> int:
    from examples.bundled_model.scenes.lexicon import ALL_KINDS

    return next(index for index, kind in enumerate(ALL_KINDS) if kind.en == name)


def test_twelve_turns_about_one_image_stay_right(bundled):
    image, truth = scene_with_a_bus(2)
    session = bundled.new_session()
    replies = [session.ask("Where is the bus?", [image] if turn == 0 else []) for turn in range(12)]
    assert [len(reply.boxes) for reply in replies] == [1] * 12
    assert min(overlap(reply.boxes[0], truth) for reply in replies) > 0.5
    assert [reply.dropped_turns for reply in replies][:3] == [0, 0, 0]
    assert replies[-1].dropped_turns > 0
    assert replies[-1].reused_tokens > 60, "the turn with the image is not computed again"


def test_twelve_turns_with_an_image_each_stay_right(bundled):
    session = bundled.new_session()
    scenes = [scene_with_a_bus(number) for number in range(12)]
    replies = [session.ask("Where is the bus?", [image]) for image, _ in scenes]
    assert [len(reply.boxes) for reply in replies] == [1] * 12
    right = [overlap(reply.boxes[0], truth) > 0.5 for reply, (_, truth) in zip(replies, scenes)]
    alone = [bundled.new_session().ask("Where is the bus?", [image]) for image, _ in scenes]
    assert sum(right) >= sum(overlap(reply.boxes[0], truth) > 0.5 for reply, (_, truth) in zip(alone, scenes)) - 1
    assert sum(right) >= 9


def test_the_chat_tells_once_that_old_turns_are_left_out(bundled, tmp_path):
    chat = TerminalChat(bundled.new_session(), tmp_path, out=io.StringIO())
    scene_with_a_bus(2)[0].save(tmp_path / "bus.png")
    note = "note: the model's window is full"
    chat.run_script([f"/image {tmp_path / 'bus.png'}", *["Where is the bus?"] * 6])
    assert chat._out.getvalue().count(note) == 1
    chat.run_script(["/reset", f"/image {tmp_path / 'bus.png'}", *["Where is the bus?"] * 6])
    assert chat._out.getvalue().count(note) == 2


def test_the_originals_chat_keeps_the_image_too(bundled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image, truth = scene_with_a_bus(2)
    image.save("bus.png")
    history: list[tuple[str, str]] = []
    query = bundled.processor.tokenizer.from_list_format([{"image": "bus.png"}, {"text": "Where is the bus?"}])
    for _ in range(8):
        answer, history = bundled.model.chat(bundled.processor, query, history)
        query = "Where is the bus?"
        (box,) = grounding.parse(answer)
        assert overlap(box, truth) > 0.5
