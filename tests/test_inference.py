"""Devices, generation options and batches of questions."""

from __future__ import annotations

import pytest
from PIL import Image

from paddlemix import inference
from paddlemix.errors import ConfigurationError, ImageError, PromptError
from paddlemix.inference import (
    GENERATION_OPTIONS,
    answer_all,
    check_generation_options,
    load_model,
    resolve_device,
)
from paddlemix.models.qwen_vl import image_processing
from paddlemix.models.qwen_vl.runner import QWenVLRunner
from tests.tiny_model import ANSWER


@pytest.mark.parametrize("device", ["tpu", "gpu:x", "gpu:-1", "GPU", "", 0])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(ConfigurationError, match="device: got .*expected 'cpu', 'gpu' or 'gpu:N'"):
        resolve_device(device)


def test_a_gpu_that_is_not_there_is_refused_and_none_finds_what_there_is():
    assert resolve_device("cpu") == "cpu"
    assert resolve_device(None) == "cpu"  # the tests hide all GPUs
    with pytest.raises(ConfigurationError, match=r"device: got 'gpu', but this Paddle sees 0 GPU"):
        resolve_device("gpu")


def test_every_generation_option_is_one_that_generate_knows():
    values = {bool: True, int: 3, float: 0.5, str: ["x"]}
    given = {name: values[item.type] for name, item in GENERATION_OPTIONS.items()}
    assert check_generation_options(given) == given


def test_options_that_are_not_given_stay_out_and_wrong_ones_are_refused():
    assert check_generation_options({"top_k": None, "seed": None}) == {}
    assert check_generation_options({"seed": -1}) == {}
    with pytest.raises(ConfigurationError, match="num_beams: unknown generation option; known: max_new_tokens"):
        check_generation_options({"num_beams": 2})
    with pytest.raises(ConfigurationError, match="max_new_tokens"):
        check_generation_options({"max_new_tokens": 0})


@pytest.fixture
def passes(monkeypatch):
    """For each pass of the model the positions that the cache holds of each of its rows."""
    held = []
    forward = QWenVLRunner.forward

    def counted(runner, rows, cache):
        held.append([row.start + len(row.ids) for row in rows])
        return forward(runner, rows, cache)

    monkeypatch.setattr(QWenVLRunner, "forward", counted)
    return held


def test_many_questions_are_answered_a_bounded_number_at_once(tiny_model_dir, passes):
    loaded = load_model(tiny_model_dir)
    questions = [(f"number {index}", [Image.new("RGB", (9, 9))] * (index % 2)) for index in range(70)]
    answers = answer_all(loaded, questions, max_new_tokens=32)
    assert [answer.text for answer in answers] == [ANSWER] * 70
    assert [answer.image() is not None for answer in answers] == [False, True] * 35
    assert max(map(len, passes)) == inference.BATCH_ROWS


def test_so_are_the_positions_of_the_cache(tiny_model_dir, passes, monkeypatch):
    loaded = load_model(tiny_model_dir)
    monkeypatch.setattr(inference, "BATCH_POSITIONS", 256)
    questions = [("number " * 6 + str(index), []) for index in range(12)]
    assert [answer.text for answer in answer_all(loaded, questions, max_new_tokens=48)] == [ANSWER] * 12
    assert 1 < max(map(len, passes)) < 6 and max(map(sum, passes)) <= 256
    (answer,) = answer_all(loaded, [("number " * 65, [])], max_new_tokens=48)
    assert answer.text == ANSWER and answer.prompt_tokens > 256


def test_an_image_that_many_ask_about_is_encoded_once(tiny_model_dir, monkeypatch):
    loaded = load_model(tiny_model_dir)
    begin, begun = loaded.model.visual.begin, []
    monkeypatch.setattr(loaded.model.visual, "begin", lambda pixels: begun.append(1) or begin(pixels))
    image = Image.new("RGB", (9, 9))
    answers = answer_all(loaded, [(f"number {index}", [image]) for index in range(5)])
    assert [answer.text for answer in answers] == [ANSWER] * 5 and len(begun) == 1


def test_all_questions_are_checked_before_one_is_answered(tiny_model_dir, monkeypatch, tmp_path):
    loaded = load_model(tiny_model_dir)
    opened = []
    load = image_processing.load_image
    monkeypatch.setattr(image_processing, "load_image", lambda *given: opened.append(given) or load(*given))
    (tmp_path / "bad.png").write_bytes(b"no image")
    good = Image.new("RGB", (9, 9))
    for question, error in (
        (("many", [good] * 33), PromptError),
        (("", []), PromptError),
        (("long " * 1000, []), PromptError),
        (("bad", [str(tmp_path / "bad.png")]), ImageError),
    ):
        with pytest.raises(error):
            answer_all(loaded, [("good", [good]), question])
    assert opened == []


def test_a_wrong_dtype_is_refused_before_anything_is_loaded():
    with pytest.raises(ConfigurationError, match="dtype: got 'int3', expected one of bfloat16, float16, float32"):
        load_model("no/such-model-here", dtype="int3")


def test_batched_answers_end_at_stop_strings_and_at_the_length_limit(tiny_model_dir):
    loaded = load_model(tiny_model_dir)
    questions = [("one", []), ("a second one, longer", [])]
    assert [answer.text for answer in answer_all(loaded, questions)] == [ANSWER, ANSWER]
    assert [answer.text for answer in answer_all(loaded, questions, stop_strings=["</ref>"])] == ["<ref>bus"] * 2
    assert [answer.text for answer in answer_all(loaded, questions, max_new_tokens=1)] == ["<ref>"] * 2
    assert not answer_all(loaded, questions, max_new_tokens=1)[0].boxes
    reasons = [[a.finish_reason for a in answer_all(loaded, questions, max_new_tokens=most)] for most in (1, 48)]
    assert reasons == [["length"] * 2, ["stop"] * 2]
