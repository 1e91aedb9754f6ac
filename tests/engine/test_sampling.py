import numpy as np
import paddle
import pytest

from paddlemix.engine.sampler import row_generators
from paddlemix.engine.sampling import greedy, sample, token_log_probs

PROBABILITIES = np.array([0.1, 0.4, 0.05, 0.3, 0.15])


def logits(rows=1):
    return paddle.to_tensor(np.log(PROBABILITIES)[None].repeat(rows, 0), dtype="float32")


def frequencies(n=4000, **options):
    uniforms = np.random.default_rng(0).random(n)
    tokens = sample(logits(n), uniforms, **options).numpy()
    return np.bincount(tokens, minlength=5) / n


def expected(kept, temperature=1.0):
    weights = np.where(np.isin(np.arange(5), kept), PROBABILITIES ** (1 / temperature), 0)
    return weights / weights.sum()


@pytest.mark.parametrize(
    ("options", "kept", "temperature"),
    [
        ({}, [0, 1, 2, 3, 4], 1.0),
        ({"temperature": 0.5}, [0, 1, 2, 3, 4], 0.5),
        ({"temperature": 2.0}, [0, 1, 2, 3, 4], 2.0),
        ({"top_k": 2}, [1, 3], 1.0),
        ({"top_k": 99}, [0, 1, 2, 3, 4], 1.0),
        ({"top_p": 0.39}, [1], 1.0),
        ({"top_p": 0.41}, [1, 3], 1.0),
        ({"top_p": 0.8}, [1, 3, 4], 1.0),
        ({"top_p": 0.0}, [1], 1.0),
        ({"top_k": 3, "top_p": 0.8}, [1, 3], 1.0),
    ],
)
def test_draws_from_the_wanted_distribution(options, kept, temperature):
    drawn = frequencies(**options)
    assert set(np.flatnonzero(drawn)) == set(kept)
    np.testing.assert_allclose(drawn, expected(kept, temperature), atol=0.03)


def test_uniform_numbers_at_the_ends_are_valid():
    ends = np.array([0.0, np.nextafter(1.0, 0.0)])
    assert sample(logits(2), ends).numpy().tolist() == [1, 2]  # the likeliest, the least likely
    assert sample(logits(2), ends, top_p=0.5).numpy().tolist() == [1, 3]
    assert sample(logits(2), ends, top_k=1).numpy().tolist() == [1, 1]


def test_greedy_takes_the_likeliest():
    assert greedy(logits(3)).numpy().tolist() == [1, 1, 1]


def test_log_probabilities_are_normalized():
    tokens = paddle.to_tensor([0, 3])
    np.testing.assert_allclose(token_log_probs(logits(2) + 5, tokens).numpy(), np.log([0.1, 0.3]), rtol=1e-5)


def test_a_rows_numbers_depend_on_seed_and_row_alone():
    few, many = row_generators(5, 2), row_generators(5, 4)
    assert [g.random() for g in few] == [g.random() for g in many[:2]]
    assert row_generators(5, 1)[0].random() != row_generators(6, 1)[0].random()
    assert row_generators(None, 1)[0].random() != row_generators(None, 1)[0].random()
