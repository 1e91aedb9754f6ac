"""Devices, generation options and batches of questions."""

from __future__ import annotations

import pytest

from paddlemix.errors import ConfigurationError
from paddlemix.inference import GENERATION_OPTIONS, answer_all, check_generation_options, load_model, resolve_device
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
    given = {name: values[kind] for name, (kind, _) in GENERATION_OPTIONS.items()}
    assert check_generation_options({**given, "seed": 1}) == {**given, "seed": 1}


def test_options_that_are_not_given_stay_out_and_wrong_ones_are_refused():
    assert check_generation_options({"top_k": None, "seed": None}) == {}
    assert check_generation_options({"seed": -1}) == {}
    with pytest.raises(ConfigurationError, match="num_beams: unknown generation option; known: max_new_tokens"):
        check_generation_options({"num_beams": 2})
    with pytest.raises(ConfigurationError, match="max_new_tokens"):
        check_generation_options({"max_new_tokens": 0})


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
