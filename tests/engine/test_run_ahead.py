"""Rows whose tokens a device chooses, one step ahead of the host, are what they are where the host chooses."""

import numpy as np
import paddle
import pytest

from paddlemix.engine.request import FinishReason, Request, SamplingParams
from paddlemix.errors import NumericalError
from paddlemix.models.qwen_vl.decode_steps import DecodeRun
from tests.backends import require_library
from tests.engine.engines import engine_of, finish, random_request, run, tokens
from tests.random_model import random_model


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    require_library()
    return random_model(tmp_path_factory.mktemp("small"), seq_length=48, max_position_embeddings=256)


def ahead_of(model, processor, **sizes):
    engine = engine_of(model, processor, **sizes)
    engine._runner.runs_ahead = True  # as on a GPU
    return engine


@pytest.fixture
def launches(monkeypatch):
    """How many steps were launched, and how many of them were one ahead."""
    counts = {"launched": 0, "ahead": 0}
    launch = DecodeRun.launch

    def counting(self):
        counts["launched"] += 1
        counts["ahead"] += self.launched > 0
        launch(self)

    monkeypatch.setattr(DecodeRun, "launch", counting)
    return counts


def requests_of(count, processor):
    """Greedy ones, those that a device can sample, and some for which the host has to choose."""
    generator = np.random.default_rng(8)
    kinds = [{}, {"temperature": 0.9, "top_p": 0.8}, {}, {"temperature": 1.0, "top_p": 0.3}, {"logprobs": 0}]
    return [
        random_request(
            f"r{i}", generator, processor, seed=i, max_tokens=int(generator.integers(1, 80)),
            **({"repetition_penalty": 1.2} if i % 9 == 8 else kinds[i % len(kinds)]),
        )
        for i in range(count)
    ]  # fmt: skip


def joined(engine, requests):
    """What they answer, when they come one after the other while others run."""
    outputs = {}
    waiting = list(requests)
    with paddle.no_grad():
        while waiting or engine.has_work():
            if waiting and engine.stats().steps % 5 == 0:
                engine.add(waiting.pop())
            for output in engine.step():
                outputs.setdefault(output.request_id, []).append(output)
            engine.check()
    return outputs


def test_answers_are_the_same_whoever_chooses(small, launches):
    requests = requests_of(25, small[1])
    expected = joined(engine_of(*small, blocks=16, block_size=32), requests)
    assert launches["launched"] == 0
    engine = ahead_of(*small, blocks=16, block_size=32)
    actual = joined(engine, requests)
    assert launches["ahead"] > 50 and engine.stats().preemptions > 0
    for name, outputs in expected.items():
        assert tokens(actual[name]) == tokens(outputs)
        assert actual[name][-1].finish_reason == outputs[-1].finish_reason
        for one, other in zip(actual[name], outputs):
            np.testing.assert_allclose(
                [token.logprob for token in one.logprobs], [token.logprob for token in other.logprobs], atol=1e-4
            )


def test_a_row_alone_is_one_step_ahead_of_the_host_within_a_block(small, launches):
    request = Request("a", tuple(range(10, 31)), (), SamplingParams(max_tokens=40))
    outputs = run(ahead_of(*small, block_size=32), request)["a"]
    assert len(tokens(outputs)) == 40 and outputs[-1].finish_reason is FinishReason.LENGTH
    # 39 tokens come from decode steps in two runs, since a block ends at position 32; one step nobody looks at.
    assert launches == {"launched": 40, "ahead": 38}


def test_cached_blocks_are_right_after_running_ahead(small):
    request = Request("a", tuple(range(10, 110)), (), SamplingParams(max_tokens=60))  # of one NTK factor with the next
    engine = ahead_of(*small, block_size=32)
    first = tokens(run(engine, request)["a"])
    again = Request("b", (*request.prompt_ids, *first, 7), (), SamplingParams(max_tokens=20))
    second = run(engine, again)["b"]
    assert second[-1].cached_tokens == 159
    assert tokens(second) == tokens(run(engine_of(*small), again)["b"])


def test_logits_that_are_no_numbers_end_their_row(small):
    model, _ = small
    engine = ahead_of(*small)
    engine.add(Request("a", (1, 2, 3), (), SamplingParams(max_tokens=9)))
    with paddle.no_grad():
        engine.step()
        weight = model.transformer.ln_f.weight
        before = weight.clone()
        weight.set_value(weight * float("nan"))
        try:
            outputs = finish(engine)["a"]
        finally:
            weight.set_value(before)
    assert isinstance(outputs[-1].error, NumericalError)
