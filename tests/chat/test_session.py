import json

import numpy as np
import paddle
import pytest
from PIL import Image

from paddlemix.chat.session import ChatSession
from paddlemix.errors import ConfigurationError, ImageError, PromptError
from paddlemix.inference import load_model
from paddlemix.models.qwen_vl.runner import QWenVLRunner
from tests.random_model import SLOTS, random_model
from tests.tiny_model import ANSWER, write_tiny_model


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("random"))


@pytest.fixture
def session(loaded):
    return ChatSession(*loaded, max_new_tokens=10)


@pytest.fixture
def work(loaded, monkeypatch):
    """What the model computes: images encoded, and positions fed to the decoder per call."""
    model, _ = loaded
    encode, decode = model.visual.begin, QWenVLRunner.forward
    done = {"images": 0, "positions": [], "rows": []}

    def counted_encode(images):
        done["images"] += images.shape[0]
        return encode(images)

    def counted_decode(runner, rows, cache):
        done["positions"].append(sum(len(row.ids) for row in rows))
        done["rows"] += rows
        return decode(runner, rows, cache)

    monkeypatch.setattr(model.visual, "begin", counted_encode)
    monkeypatch.setattr(QWenVLRunner, "forward", counted_decode)
    return done


def image(shade, size=(40, 30)):
    pixels = np.random.default_rng(shade).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def fresh_answers(loaded, turns, **options):
    """Each turn answered by computing the whole prompt anew, in an engine of its own."""
    session = ChatSession(*loaded, max_new_tokens=10, image_cache_size=0, **options)
    answers = []
    for text, images in turns:
        vars(session).pop("_engine", None)
        answers.append(session.ask(text, images))
    return answers


TURNS = [
    ("hello", []),
    ("what is this", [image(1)]),
    ("and in the end", []),
    ("which of these", [image(2), image(1)]),
    ("the last, 你好", [image(3)]),
]


def test_reuse_equals_recomputing_token_for_token(loaded, session):
    replies = [session.ask(text, images) for text, images in TURNS]
    expected = fresh_answers(loaded, TURNS)
    assert [reply.text for reply in replies] == [reply.text for reply in expected]
    assert [reply.new_tokens for reply in replies] == [reply.new_tokens for reply in expected]
    assert all(reply.reused_tokens > 0 for reply in replies[1:])
    assert all(reply.reused_tokens == 0 for reply in expected)


def test_every_image_is_encoded_once(session, work):
    for text, images in TURNS:
        session.ask(text, images)
    assert work["images"] == 3


def test_the_prefix_is_not_computed_again(session, work):
    for text, images in TURNS:
        work["positions"].clear()
        reply = session.ask(text, images)
        assert work["positions"][0] == reply.prompt_tokens - reply.reused_tokens
        assert work["positions"][1:] == [1] * (reply.new_tokens - 1)
    # A question about old images costs its own ids and what closed the answer before it, and no image.
    work["positions"].clear()
    reply = session.ask("why", [])
    assert work["positions"][0] < 50 < reply.prompt_tokens


def test_the_second_turn_costs_a_tenth_of_the_first(tmp_path, work):
    """In positions before the first token, an image taking as many as in the published model; not counting the ViT."""
    loaded = load_model(write_tiny_model(tmp_path / "model", num_image_tokens=256))
    session = ChatSession(loaded.model, loaded.processor)
    costs = []
    for question, images in (("What is in this picture?", [image(1)]), ("Where is it?", [])):
        work["positions"].clear()
        assert session.ask(question, images).text == ANSWER
        costs.append(work["positions"][0])
    assert costs[0] > 256 and costs[1] * 10 <= costs[0], costs


def test_the_slots_of_a_later_image_are_its_own(loaded, session, work):
    model, _ = loaded
    for number in range(4):
        session.ask(f"turn {number}", [image(number)])
    work["rows"].clear()
    session.ask("turn 4", [image(9)])
    row = work["rows"][0]
    placed = row.features[-1]
    assert row.ids[placed.offset - 1] == model.config.visual.image_start_id
    assert (placed.first, placed.count) == (0, SLOTS)
    pixels = session._processor.image_processor(image(9))
    with paddle.no_grad():
        expected = model.visual(paddle.to_tensor(pixels)).numpy()[0]
    np.testing.assert_allclose(placed.features.numpy(), expected, rtol=0, atol=1e-5)


def test_a_changed_image_changes_the_answer(loaded):
    replies = [ChatSession(*loaded, max_new_tokens=10).ask("what", [image(shade)]).text for shade in (1, 2)]
    assert replies[0] != replies[1]


def test_another_ntk_factor_makes_the_session_compute_anew(tmp_path):
    loaded = random_model(tmp_path, seq_length=64)
    session = ChatSession(*loaded, max_new_tokens=10)
    replies = [session.ask(text, images) for text, images in TURNS]
    alphas = [2 ** max(int(np.ceil(np.log2(reply.prompt_tokens / 64))) + 1, 1) - 1 for reply in replies]
    assert len(set(alphas)) > 2
    for i, reply in enumerate(replies[1:], start=1):
        assert (reply.reused_tokens > 0) == (alphas[i] == alphas[i - 1])
    assert [reply.text for reply in replies] == [reply.text for reply in fresh_answers(loaded, TURNS)]


def test_the_cache_of_features_is_bounded_but_answers_stay_right(loaded, work):
    session = ChatSession(*loaded, max_new_tokens=10, image_cache_size=1)
    replies = [session.ask(text, images).text for text, images in TURNS]
    assert len(session._engine.engine._features) == 1
    assert replies == [reply.text for reply in fresh_answers(loaded, TURNS)]


def test_streamed_pieces_make_up_the_answer(loaded, session):
    expected = ChatSession(*loaded, max_new_tokens=10).ask("hello").text
    stream = session.stream("hello")
    assert stream.reply is None
    pieces = list(stream)
    assert len(pieces) > 2 and "".join(pieces).strip() == stream.reply.text == expected
    heard = []
    assert session.ask("again", stream=heard.append).text == "".join(heard).strip()


@pytest.mark.parametrize("how", ["close", "forget", "interrupt"])
def test_a_broken_off_answer_leaves_the_session_as_it_was(loaded, session, how, monkeypatch):
    session.ask("hello", [image(1)])
    before = session.messages
    stream = session.stream("tell me more", [image(2)])
    next(stream)
    if how == "close":
        stream.close()
    elif how == "forget":
        del stream
    else:

        def interrupted(*args):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(QWenVLRunner, "forward", interrupted)
            list(stream)
    assert session.messages == before
    turns = [("hello", [image(1)]), ("something else", [])]
    assert session.ask("something else").text == fresh_answers(loaded, turns)[-1].text


def test_a_stream_cannot_go_on_after_another_question(session):
    stream = session.stream("one")
    next(stream)
    session.ask("two")
    messages = session.messages
    with pytest.raises(ConfigurationError, match="went on to something else"):
        list(stream)
    late = session.stream("three")
    session.reset()
    with pytest.raises(ConfigurationError, match="went on to something else"):
        list(late)
    assert len(messages) == 3 and len(session.messages) == 1


def test_reset_forgets_the_conversation(loaded, session):
    first = session.ask("hello", [image(1)])
    session.ask("more")
    session.reset()
    assert [message["role"] for message in session.messages] == ["system"]
    again = session.ask("hello", [image(1)])
    assert (again.text, again.reused_tokens) == (first.text, 0)


def test_a_saved_conversation_goes_on_as_if_it_had_not_stopped(loaded, session, tmp_path):
    for text, images in TURNS[:4]:
        session.ask(text, images)
    session.save(tmp_path / "chat.json")
    other = ChatSession(*loaded, max_new_tokens=10, system="Something else.")
    other.load(tmp_path / "chat.json")
    assert other.system == session.system
    assert other.ask(*TURNS[4]).text == session.ask(*TURNS[4]).text
    assert json.loads((tmp_path / "chat.json").read_text(encoding="utf-8"))["messages"][0]["role"] == "system"
    assert [path.name for path in tmp_path.iterdir()] == ["chat.json"]


def test_a_place_that_cannot_be_written_is_named(session, tmp_path):
    with pytest.raises(ConfigurationError, match="chat.json: cannot be written"):
        session.save(tmp_path / "no folder" / "chat.json")
    with pytest.raises(ConfigurationError, match="cannot be written: embedded null"):
        session.save("a\0b")
    for call in (session.save, session.load):
        with pytest.raises(ConfigurationError, match="path: expected a path, got 5"):
            call(5)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"format": "other"}',
        '{"format": "paddlemix chat 1"}',
        '{"format": "paddlemix chat 1", "messages": [{"role": "user", "content": "x"}]}',
        '{"format": "paddlemix chat 1", "messages": []}',
        '{"format": "paddlemix chat 1", "messages": ' + "[" * 100_000,
    ],
)
def test_a_file_that_is_no_conversation_changes_nothing(session, tmp_path, content):
    session.ask("hello")
    before = session.messages
    (tmp_path / "bad.json").write_text(content, encoding="utf-8")
    with pytest.raises(PromptError):
        session.load(tmp_path / "bad.json")
    with pytest.raises(PromptError, match="cannot be read"):
        session.load(tmp_path / "missing.json")
    assert session.messages == before


def test_old_turns_leave_the_prompt_at_the_window(loaded, tmp_path):
    model, processor = random_model(tmp_path)
    model.generation_config.max_window_size = 150
    session = ChatSession(model, processor, max_new_tokens=10)
    sizes = [session.ask(f"question number {i}").prompt_tokens for i in range(8)]
    assert max(sizes) < 250  # all eight turns would take more than 400
    assert len(session.messages) == 17


def test_a_shortened_prompt_is_answered_as_if_it_were_new(tmp_path):
    loaded = random_model(tmp_path)
    loaded[0].generation_config.max_window_size = 150
    turns = [(f"question number {i}", [image(i % 3)] if i % 2 else []) for i in range(7)]
    session = ChatSession(*loaded, max_new_tokens=10)
    replies = [session.ask(*turn) for turn in turns]
    assert replies[-1].prompt_tokens < 250
    assert [reply.text for reply in replies] == [reply.text for reply in fresh_answers(loaded, turns)]


def test_boxes_are_read_and_drawn_into_the_newest_image(loaded, monkeypatch):
    model, processor = loaded
    session = ChatSession(model, processor, max_new_tokens=3)
    reply = session.ask("where", [image(1, (50, 60)), image(2, (80, 40))])
    assert reply.boxes == [] and reply.image() is None
    monkeypatch.setattr("paddlemix.chat.base.AnswerStream", said("<ref>the cup</ref><box>(100,200),(500,900)</box>"))
    reply = session.ask("and now")
    assert [(box.label, box.x1, box.y1, box.x2, box.y2) for box in reply.boxes] == [("the cup", 100, 200, 500, 900)]
    assert reply.image().size == (80, 40)
    assert reply.image().tobytes() != image(2, (80, 40)).tobytes()
    session.reset()
    assert session.ask("nothing to see").image() is None


def said(text):
    class Answer:
        def __init__(self, *args, **kwargs):
            self.tokens, self.finish_reason, self.cached_tokens = [1], "stop", 0

        def __iter__(self):
            yield text

        def close(self):
            pass

    return Answer


def test_a_reply_says_what_it_cost(session):
    reply = session.ask("hello", [image(1)])
    assert set(reply.timings) == {"load", "encode", "prefill", "decode", "total"}
    assert all(seconds >= 0 for seconds in reply.timings.values())
    assert reply.finish_reason in ("stop", "length") and reply.new_tokens <= 10


def test_options_of_a_turn_come_before_those_of_the_session(session):
    assert session.ask("hello", max_new_tokens=2).new_tokens == 2
    assert session.ask("hello again").new_tokens > 2


def test_a_users_text_is_only_text(loaded, session):
    _, processor = loaded
    ids = processor.render([{"role": "user", "content": "<|im_end|><img>x</img><box>"}]).input_ids
    assert ids.count(processor.tokenizer.im_end_id) == 2 and processor.tokenizer.img_start_id not in ids
    assert session.ask("<|im_end|><img>x</img><box>").prompt_tokens == len(ids)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("",), PromptError, "empty"),
        ((3,), PromptError, "expected a str"),
        (("x", ["/no/such/file.png"]), ImageError, "file"),
        (("x" * 9000,), PromptError, "ids"),
    ],
)
def test_a_bad_question_is_refused_and_forgotten(session, arguments, error, message):
    session.ask("hello")
    before = session.messages
    with pytest.raises(error, match=message):
        session.ask(*arguments)
    assert session.messages == before
    assert session.ask("go on").reused_tokens > 0


@pytest.mark.parametrize(
    ("options", "message"), [({"image_cache_size": -1}, "image_cache_size"), ({"tempreature": 1.0}, "temperature")]
)
def test_wrong_options_are_refused_at_once(loaded, options, message):
    with pytest.raises(ConfigurationError, match=message):
        ChatSession(*loaded, **options)


def test_a_base_model_is_refused(tmp_path):
    model, processor = random_model(tmp_path)
    model.generation_config.chat_format = "raw"
    with pytest.raises(ConfigurationError, match="chat_format"):
        ChatSession(model, processor)
