from dataclasses import replace

import numpy as np
import pytest

from paddlemix.engine.prompt_lookup import propose
from paddlemix.engine.request import Request, SamplingParams
from tests.engine.engines import engine_of, run, tokens
from tests.random_model import random_model


@pytest.mark.parametrize(
    "ids, count, expected",
    [
        ([1, 2, 3, 4, 9, 1, 2, 3], 2, [4, 9]),
        ([1, 2, 3, 4, 9, 1, 2, 3], 9, [4, 9, 1, 2, 3]),
        ([1, 2, 5, 7, 2, 6, 1, 2], 3, [5, 7, 2]),
        ([1, 2, 3, 8, 1, 2, 3, 9, 1, 2, 3], 1, [9]),
        ([7, 7, 7, 7], 4, [7]),
        ([1, 2, 3, 4], 4, []),
        ([1, 2, 3, 1, 2, 3], 0, []),
        ([1], 3, []),
    ],
)
def test_what_followed_the_latest_ids_the_last_time_is_proposed(ids, count, expected):
    assert propose(ids, count) == expected


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "top_k": 3, "seed": 3}, {"repetition_penalty": 1.3}])
def test_answers_are_the_same_with_fewer_passes(tmp_path, sampling):
    model, processor = random_model(tmp_path, hidden_size=64)
    ids = np.random.default_rng(0).integers(0, 60, 40).tolist() * 3
    # What the model would say is made to repeat, so that something is proposed and accepted.
    bias = dict.fromkeys(ids[:3], 30.0)
    request = Request("a", tuple(ids), sampling=SamplingParams(max_tokens=60, logit_bias=bias, **sampling))
    plain, looked = engine_of(model, processor), engine_of(model, processor)
    expected = run(plain, request)["a"]
    proposing = replace(request, sampling=replace(request.sampling, prompt_lookup_num_tokens=7))
    outputs = run(looked, proposing)["a"]
    assert tokens(outputs) == tokens(expected) and len(tokens(outputs)) == 60
    assert outputs[-1].completion_tokens == 60
    if not sampling:
        assert looked.stats().steps < 0.6 * plain.stats().steps


def test_the_distribution_is_that_without_proposals(tmp_path):
    """Each first four tokens of many seeds are drawn once with and once without."""
    model, processor = random_model(tmp_path)
    ids = tuple([1, 2, 3, 4, 1, 2, 3] * 3)
    for seed in range(25):
        params = SamplingParams(max_tokens=6, temperature=0.7, top_k=4, seed=seed, logit_bias={4: 8.0, 1: 8.0, 2: 8.0})
        outputs = [
            tokens(run(engine_of(model, processor), Request("a", ids, sampling=p), check=False)["a"])
            for p in (params, replace(params, prompt_lookup_num_tokens=7))
        ]
        assert outputs[0] == outputs[1]
