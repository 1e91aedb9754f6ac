"""Answers of a split model: the first process has the engine, the others follow its steps."""

import json
import shutil

import numpy as np
import paddle
import pytest

from paddlemix.engine.parallel_runner import follow
from paddlemix.errors import ConfigurationError
from paddlemix.inference import LoadedModel
from paddlemix.models.qwen_vl.configuration import QWenVLConfig
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from paddlemix.models.qwen_vl.processing import QwenVLProcessor
from paddlemix.models.qwen_vl.runner import QWenVLRunner
from paddlemix.ops import backend
from paddlemix.parallel.channel import CommandChannel
from paddlemix.parallel.group import SINGLE, TensorParallelGroup
from paddlemix.parallel.processes import check_alike, init_process, is_joined
from paddlemix.zoo import DEFAULT_MODEL_DIR, DEMO_IMAGE
from tests.processes import run_processes


def answers(group=SINGLE, directory=DEFAULT_MODEL_DIR, quantization=None):
    """What a user gets of the model: generated ids and scores, sampled ids, two turns of a chat, an error."""
    model = QWenLMHeadModel.from_directory(directory, quantization=quantization, group=group)
    if group.size > 1:
        channel = CommandChannel(group)
        if group.rank > 0:
            follow(QWenVLRunner(model), channel)
            return None
        model.channel = channel
    found = told(model)
    if group.size > 1:
        channel.close()
    return found


def told(model):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 1500, (2, 20))
    greedy, scores = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=1, pad_token_id=1)
    sampled, _ = model.generate(ids, max_new_tokens=6, do_sample=True, seed=3, eos_token_id=1, pad_token_id=1)
    processor = QwenVLProcessor.from_directory(DEFAULT_MODEL_DIR)
    session = LoadedModel(DEFAULT_MODEL_DIR, model, processor, 0.0).new_session()
    first = session.ask("Where is the bus?", images=[DEMO_IMAGE], do_sample=False, max_new_tokens=12)
    second = session.ask("And the dog?", do_sample=False, max_new_tokens=12)
    return greedy.tolist(), scores.numpy(), sampled.tolist(), first.text, second.text, second.usage.reused_tokens


def in_this_process(directory, quantization):
    init_process("cpu")
    return answers(TensorParallelGroup.of_all(), directory, quantization)


@pytest.mark.parametrize(("processes", "quantization"), [(2, None), (3, None), (2, "bf16")])
def test_answers_are_those_of_one_process(processes, quantization):
    expected = answers(quantization=quantization)
    found = run_processes(processes, in_this_process, DEFAULT_MODEL_DIR, quantization)[0]
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4)
    assert found[0] == expected[0] and found[2:] == expected[2:]


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["int4", "int8"])
def test_low_bit_answers_are_those_of_one_process_in_plain_arithmetic(quantization):
    with backend.using("reference"):  # the kernels round activations to 8 bits
        expected = answers(quantization=quantization)
        found = run_processes(2, in_this_process, DEFAULT_MODEL_DIR, quantization)[0]
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4)
    assert found[0] == expected[0] and found[2:] == expected[2:]


def four_heads(directory):
    """Save a random model with four heads; returns its directory."""
    fields = json.loads((DEFAULT_MODEL_DIR / "config.json").read_text())
    fields.update(hidden_size=256, num_attention_heads=4, num_hidden_layers=2, intermediate_size=512)
    fields["visual"].update(output_dim=256, layers=1)
    paddle.seed(5)
    QWenLMHeadModel(QWenVLConfig(**fields)).save_pretrained(directory)
    shutil.copy(DEFAULT_MODEL_DIR / "generation_config.json", directory)
    return directory


def test_four_processes_answer_with_a_head_each(tmp_path):
    directory = four_heads(tmp_path / "model")
    expected = answers(directory=directory)
    found = run_processes(4, in_this_process, directory, None)[0]
    assert found[0] == expected[0] and found[2:] == expected[2:]


def joins(fingerprints):
    """Whether all processes are alike; the error's text where they are not."""
    init_process("cpu")
    rank = TensorParallelGroup.of_all().rank
    try:
        check_alike(fingerprints[rank])
    except ConfigurationError as error:
        return str(error)
    return is_joined()


def test_processes_that_are_not_alike_are_told():
    said = run_processes(2, joins, [b"this", b"that"])
    assert said[0] == said[1] and "process 1 has another version of paddlemix" in said[0]
    assert run_processes(2, joins, [b"this", b"this"]) == [True, True]
