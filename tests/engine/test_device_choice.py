import numpy as np
import paddle
import pytest

from paddlemix.engine.device_choice import DeviceChoice, choose_tokens
from paddlemix.engine.request import SamplingParams
from paddlemix.engine.sampler import RowSampler
from tests.operator_calls import host_reads, operator_calls


def column(values):
    return paddle.to_tensor(np.array(values, np.float32)[:, None])


def choice_of(params):
    greedy = [float(p.temperature == 0) for p in params]
    return DeviceChoice(
        column([p.temperature or 1.0 for p in params]), column([p.top_p for p in params]), column(greedy)
    )


ROWS = [
    SamplingParams(temperature=temperature, top_p=top_p)
    for temperature, top_p in [(1.0, 0.3), (0.7, 0.9), (1.0, 1.0), (2.0, 0.01), (0.0, 1.0)]
]


@pytest.mark.parametrize("spread, step", [(0.3, 0), (3.0, 0), (12.0, 0), (3.0, 0.25), (0.0, 0)])
def test_a_number_gives_the_token_that_the_rows_sampler_chooses(spread, step):
    """``step``: bfloat16 has many equal logits."""
    generator = np.random.default_rng(4)
    samplers = [RowSampler(params, (), 700) for params in ROWS]
    different = 0
    for _ in range(12):
        logits = (generator.normal(size=[len(ROWS), 700]) * spread).astype(np.float32)
        logits = np.round(logits / step).astype(np.float32) * np.float32(step) if step else logits
        uniforms = generator.random(len(ROWS)).astype(np.float32)
        tokens, log_probs = choose_tokens(paddle.to_tensor(logits), choice_of(ROWS), column(uniforms))
        for row, sampler in enumerate(samplers):
            greedy = ROWS[row].temperature == 0
            expected = int(logits[row].argmax()) if greedy else sampler._draw(logits[row], uniforms[row])
            # Among equals rounding decides how many are kept, one more or less.
            different += abs(int(tokens[row]) - expected) > (0 if spread else 1)
        wide = logits.astype(np.float64)
        expected = np.take_along_axis(wide, tokens.numpy(), 1) - np.log(np.exp(wide).sum(1, keepdims=True))
        np.testing.assert_allclose(log_probs.numpy(), expected, rtol=0, atol=1e-4)
    assert different <= 1  # a number at the very edge between two tokens


def test_the_ends_of_the_distribution():
    logits = paddle.to_tensor(np.tile(np.log(np.array([[0.1, 0.5, 0.4]], np.float32)), [4, 1]))
    choice = choice_of([SamplingParams(temperature=1.0, top_p=p) for p in (1.0, 1.0, 0.6, 0.6)])
    almost = np.nextafter(np.float32(1), np.float32(0))
    tokens, _ = choose_tokens(logits, choice, column([0.0, almost, 0.0, almost]))
    assert tokens.numpy().ravel().tolist() == [1, 0, 1, 2]


def test_logits_that_are_no_numbers_show_in_the_log_probability():
    logits = paddle.to_tensor(np.array([[0.0, np.nan], [0.0, np.inf], [0.0, 1.0]], np.float32))
    _, log_probs = choose_tokens(logits, None, None)
    assert np.isnan(log_probs.numpy()).ravel().tolist() == [True, True, False]


def test_the_operators_are_the_same_whatever_the_logits_are():
    lists = []
    for spread in (0.0, 30.0):
        logits = paddle.to_tensor((np.random.default_rng(0).normal(size=[5, 90]) * spread).astype(np.float32))
        choice, uniforms = choice_of(ROWS), column([0.5] * 5)
        with host_reads() as reads, operator_calls() as calls:
            choose_tokens(logits, choice, uniforms)
        assert reads == [] and not [name for name in calls if "sort" in name or "top" in name]
        lists.append(calls)
    assert lists[0] == lists[1]
