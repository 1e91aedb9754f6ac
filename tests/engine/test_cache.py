"""An engine whose cache grows answers as one that had all of it."""

import numpy as np
import paddle
import pytest

from paddlemix.engine.request import Request, SamplingParams
from paddlemix.errors import PromptError
from tests.engine.engines import engine_of, random_request, run, tokens
from tests.random_model import random_model


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("small"), seq_length=48, max_position_embeddings=256)


def prompt_of(name, length, max_tokens):
    ids = (np.arange(length) * 7 % 250).tolist()
    return Request(name, tuple(ids), sampling=SamplingParams(max_tokens=max_tokens))


def test_it_begins_with_one_block_and_has_what_is_wanted(small):
    engine = engine_of(*small, preallocate=False, block_size=32)
    assert engine._cache.pool.size == 1 and engine.capacity == 64 * 32
    run(engine, prompt_of("a", 40, 20), prompt_of("b", 30, 3))
    assert engine._cache.pool.size == 2 + 2
    run(engine, prompt_of("c", 20, 5))
    assert engine._cache.pool.size == 4


def test_what_it_holds_survives_growing(small):
    engine = engine_of(*small, preallocate=False, block_size=32)
    whole = engine_of(*small, block_size=32)
    first = prompt_of("a", 50, 20)
    said = run(engine, first)["a"]
    longer = Request("b", (*first.prompt_ids, *tokens(said), *range(20)), sampling=SamplingParams(max_tokens=60))
    second = run(engine, longer)["b"]
    assert second[-1].cached_tokens == 69
    assert tokens(second) == tokens(run(whole, longer)["b"])


@pytest.mark.parametrize("runs_ahead", [False, True])
def test_it_grows_while_rows_run(small, runs_ahead):
    model, processor = small
    engine = engine_of(model, processor, preallocate=False, block_size=32)
    engine._runner.runs_ahead = runs_ahead  # as on a GPU
    generator = np.random.default_rng(4)
    options = {"stop_token_ids": ()}
    requests = [random_request(f"r{i}", generator, processor, max_tokens=12 + 20 * i, **options) for i in range(5)]
    outputs = {}
    waiting = requests.copy()
    sizes = set()
    with paddle.no_grad():
        while waiting or engine.has_work():
            if waiting and engine.stats().steps % 5 == 0:
                engine.add(waiting.pop(0))
            for output in engine.step():
                outputs.setdefault(output.request_id, []).append(output)
            sizes.add(engine._cache.pool.size)
            engine.check()
    assert len(sizes) > 3
    whole = engine_of(model, processor, block_size=32)
    for request in requests:
        assert tokens(outputs[request.id]) == tokens(run(whole, request)[request.id])


def test_beyond_its_limit_rows_wait(small):
    engine = engine_of(*small, blocks=3, preallocate=False, block_size=32)
    outputs = run(engine, *(prompt_of(name, 40, 20) for name in "abc"))
    assert engine._cache.pool.size == 3 and all(its[-1].completion_tokens == 20 for its in outputs.values())
    with pytest.raises(PromptError, match="cache of 96"):
        engine.add(prompt_of("long", 100, 3))
