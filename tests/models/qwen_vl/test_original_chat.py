import json
from itertools import cycle

import numpy as np
import paddle
import pytest
from paddlenlp.generation import GenerationConfig
from PIL import Image

from paddlemix.engine.local import LocalEngine
from paddlemix.engine.options import GenerationOptions
from paddlemix.errors import ConfigurationError, ImageError, PromptError
from paddlemix.media import ImagePolicy
from paddlemix.models.qwen_vl.chat_template import DEFAULT_SYSTEM
from paddlemix.models.qwen_vl.generation import AnswerStream
from paddlemix.models.qwen_vl.original_chat import make_context
from paddlemix.models.qwen_vl.runner import QWenVLRunner, local_engine
from tests.random_model import random_model


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "p"  # the slots hold four bytes only
    Image.new("RGB", (40, 30), (200, 30, 30)).save(path, format="PNG")
    return path


def say(model, processor, query, history=None, **options):
    """The new text by hand: the original's prompt, fed whole."""
    tokenizer = processor.tokenizer
    _, ids = make_context(tokenizer, query, history, DEFAULT_SYSTEM)
    new, _ = model.generate([ids], tokenizer=tokenizer, **options)
    new = new.numpy()[0].tolist()
    stops = [
        i for i, token in enumerate(new) if token in (tokenizer.eod_id, tokenizer.im_end_id, tokenizer.im_start_id)
    ]
    return tokenizer.decode(new[: stops[0]] if stops else new).strip()


def test_answers_the_originals_prompt_and_extends_the_history(loaded):
    model, processor = loaded
    response, history = model.chat(processor, "hello")
    assert response == say(model, processor, "hello")
    assert history == [("hello", response)]
    again, longer = model.chat(processor, "and then?", history)
    assert again == say(model, processor, "and then?", history)
    assert longer == [("hello", response), ("and then?", again)]


def test_takes_the_tokenizer_alone(loaded):
    model, processor = loaded
    assert model.chat(processor.tokenizer, "hello") == model.chat(processor, "hello")


def test_leaves_the_callers_lists_alone(loaded):
    model, processor = loaded
    history, stops = [("a", "b")], [[5, 6]]
    model.chat(processor, "hello", history, stop_words_ids=stops)
    assert (history, stops) == ([("a", "b")], [[5, 6]])


def test_history_may_be_left_as_it_was(loaded):
    model, processor = loaded
    assert model.chat(processor, "hello", [("a", "b")], append_history=False)[1] == [("a", "b")]


def test_the_system_text_counts(loaded):
    model, processor = loaded
    assert model.chat(processor, "hello", system="Be brief.")[0] != model.chat(processor, "hello")[0]


def test_the_limit_loses_no_token(loaded):
    model, processor = loaded
    long = model.chat(processor, "hello", max_new_tokens=20)[0]
    for limit in (1, 5, 13):
        short = model.chat(processor, "hello", max_new_tokens=limit)[0]
        assert short == say(model, processor, "hello", max_new_tokens=limit)
        assert len(short) <= len(long)


def test_stop_words_end_the_answer_and_stay_in_it(loaded):
    model, processor = loaded
    tokenizer = processor.tokenizer
    _, ids = make_context(tokenizer, "hello", None, DEFAULT_SYSTEM)
    new, _ = model.generate([ids], tokenizer=tokenizer)
    new = new.numpy()[0].tolist()
    response, _ = model.chat(processor, "hello", stop_words_ids=[new[3:5]])
    assert response == tokenizer.decode(new[:5]).strip()


def test_stop_strings_are_cut_off(loaded):
    model, processor = loaded
    free = model.chat(processor, "hello", max_new_tokens=30)[0]
    stop = free[4:7]
    response, _ = model.chat(processor, "hello", max_new_tokens=30, stop_strings=[stop])
    assert response == free[: free.index(stop)].strip()


def test_streaming_yields_the_growing_answer(loaded):
    model, processor = loaded
    texts = list(model.chat_stream(processor, "hello", max_new_tokens=30))
    assert len(texts) > 3
    assert all(later.startswith(earlier) and later != earlier for earlier, later in zip(texts, texts[1:]))
    assert not any("\ufffd" in text for text in texts)


def test_part_of_a_stop_string_is_never_streamed(loaded):
    model, processor = loaded
    free = list(model.chat_stream(processor, "hello", max_new_tokens=30))[-1]
    stop = free[4:8]
    texts = list(model.chat_stream(processor, "hello", max_new_tokens=30, stop_strings=[stop]))
    assert texts[-1] == free[: free.index(stop)]
    assert all(free[: free.index(stop)].startswith(text) for text in texts)


def test_an_image_is_read_from_its_path(loaded, image, monkeypatch):
    model, processor = loaded
    monkeypatch.chdir(image.parent)
    query = processor.tokenizer.from_list_format([{"image": image.name}, {"text": "what is this"}])
    seen = model.chat(processor, query)[0]
    Image.new("RGB", (40, 30), (20, 200, 30)).save(image, format="PNG")
    assert model.chat(processor, query)[0] != seen
    assert isinstance(model.chat(processor, "and?", [(query, "ok")])[0], str)
    with pytest.raises(ImageError):
        model.chat(processor, query, image_policy=ImagePolicy.server())
    with pytest.raises(ImageError):
        model.chat(processor, "<img>none</img>")


def test_no_image_is_read_out_of_answers_and_the_system_text(loaded, image, monkeypatch):
    model, processor = loaded
    monkeypatch.chdir(image.parent)
    absent = "<img>none</img>"  # an ImageError where it is opened
    history = [(f"<img>{image.name}</img>what", f"see {absent} <ref>a</ref>"), ("more", absent)]
    options = {"system": f"look at {absent}", "max_new_tokens": 2}
    assert isinstance(model.chat(processor, "and?", history, **options)[0], str)
    assert list(model.chat_stream(processor, "and?", history, **options))
    with pytest.raises(ImageError, match="none"):
        model.chat(processor, f"{absent} and?", [])
    with pytest.raises(ImageError, match="none"):
        model.chat(processor, "and?", [(absent, "yes")])


def test_the_tags_of_places_in_answers_are_the_ids_they_were(loaded):
    _, processor = loaded
    tokenizer = processor.tokenizer
    _, ids = make_context(
        tokenizer, "and?", [("where", "<ref>a</ref><box>(1,2),(3,4)</box><img>x</img>")], "<img>x</img>"
    )
    assert tokenizer.encode("<ref>")[0] in ids and tokenizer.encode("<box>")[0] in ids
    assert tokenizer.img_start_id not in ids and tokenizer.img_end_id not in ids


def test_streaming_reports_mistakes_in_the_call(loaded):
    model, processor = loaded
    with pytest.raises(ImageError):
        model.chat_stream(processor, "<img>none</img>")
    with pytest.raises(ConfigurationError, match="top_p"):
        model.chat_stream(processor, "hello", top_p=2)


def test_a_stream_can_be_closed_before_its_end(loaded):
    model, processor = loaded
    stream = model.chat_stream(processor, "hello")
    assert next(stream)
    stream.close()
    assert list(stream) == []


@pytest.mark.parametrize("query", ["<img>", "<ref>half", "</box>", "<box>(1,2", "<img>a</img"])
def test_unclosed_tags_are_text(loaded, query):
    model, processor = loaded
    assert isinstance(model.chat(processor, query, max_new_tokens=2)[0], str)


@pytest.mark.parametrize("answer", ["<img>half", "so <ref>half", "<box>(1,2", "a</ref>b", "<img>a</img>"])
def test_broken_tags_in_an_answer_raise_nothing(loaded, monkeypatch, answer):
    model, processor = loaded
    tokens = processor.tokenizer.encode(answer.replace("</img>", ""))
    tokens += [processor.tokenizer.img_end_id] if "</img>" in answer else []
    next_tokens = cycle(tokens)

    def says_next(runner, rows, cache):
        return [np.eye(1, runner.embedded, next(next_tokens), dtype=np.float32)]

    monkeypatch.setattr(QWenVLRunner, "forward", says_next)
    texts = list(model.chat_stream(processor, "hello", max_new_tokens=len(tokens)))
    response, _ = model.chat(processor, "hello", max_new_tokens=len(tokens))
    if "img" not in answer:
        assert texts[-1] == response == answer
    assert "half" not in answer or texts[-1].endswith("half")


def test_the_raw_format_is_refused_with_what_to_do(loaded):
    model, processor = loaded
    config = GenerationConfig(chat_format="raw", max_new_tokens=3)
    with pytest.raises(ConfigurationError, match="chat_format.*'raw'.*use generate"):
        model.chat(processor, "hello", generation_config=config)
    with pytest.raises(ConfigurationError, match="chat_format"):
        model.chat_stream(processor, "hello", generation_config=config)


def test_old_turns_are_dropped_at_the_window(loaded):
    model, processor = loaded
    history = [("old" * 30, "yes" * 30), ("new", "no")]
    config = GenerationConfig(max_window_size=80, max_new_tokens=12)
    assert (
        model.chat(processor, "hello", history, generation_config=config)[0]
        == model.chat(processor, "hello", history[1:], generation_config=config)[0]
        != model.chat(processor, "hello", history)[0]
    )


def test_a_chat_has_one_answer(loaded):
    model, processor = loaded
    with pytest.raises(ConfigurationError, match="num_return_sequences"):
        model.chat(processor, "hello", do_sample=True, num_return_sequences=2)


def test_history_is_plain_data(loaded):
    model, processor = loaded
    _, history = model.chat(processor, "hello")
    assert [tuple(turn) for turn in json.loads(json.dumps(history))] == history


def test_a_stream_knows_why_it_ended(loaded):
    model, processor = loaded
    tokenizer = processor.tokenizer
    _, ids = make_context(tokenizer, "hello", None, DEFAULT_SYSTEM)
    engine = LocalEngine(local_engine(model, tokenizer), paddle.no_grad)
    answer = AnswerStream(engine, tokenizer, ids, GenerationOptions(max_new_tokens=3))
    text = "".join(answer)
    assert (answer.finish_reason, len(answer.tokens)) == ("length", 3)
    stopped = AnswerStream(engine, tokenizer, ids, GenerationOptions(max_new_tokens=3, stop_strings=(text[:1],)))
    assert "".join(stopped) == "" and stopped.finish_reason == "stop"


def test_a_prompt_longer_than_the_window_is_refused(loaded):
    model, processor = loaded
    with pytest.raises(PromptError, match="window of 2048"):
        model.chat(processor, "x" * 3000)


def test_a_history_that_is_no_list_is_refused(loaded):
    model, processor = loaded
    with pytest.raises(PromptError, match="history: got int, expected a list of pairs"):
        model.chat(processor, "hello", 5)


@pytest.mark.parametrize("history", [["hello"], [("a", "b"), 3], [("a", "b", "c")]])
def test_a_history_that_is_no_list_of_pairs_is_refused(loaded, history):
    model, processor = loaded
    with pytest.raises(PromptError, match=rf"history.{len(history) - 1}.: got .*a pair of query and response"):
        model.chat(processor, "hello", history)
