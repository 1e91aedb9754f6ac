"""A step of a run can be captured: it is always the same work, at the same addresses, and asks the host nothing."""

import numpy as np
import paddle
import pytest

from paddlemix.engine.protocols import RowChoice, RowInput
from paddlemix.engine.request import SamplingParams
from paddlemix.engine.sampler import RowSampler
from paddlemix.models.qwen_vl import decode, decode_steps
from paddlemix.models.qwen_vl.runner import QWenVLRunner
from paddlemix.ops import backend
from tests.backends import require_library
from tests.operator_calls import host_reads, operator_calls
from tests.random_model import random_model

STEPS, BLOCK_SIZE = 300, 64
GREEDY, SAMPLED = RowChoice(0.0, 1.0), RowChoice(0.9, 0.8, np.random.default_rng(3).random(STEPS).astype(np.float32))


@pytest.fixture(scope="module", autouse=True)
def without_gradients():
    require_library()
    with backend.using("cpu"), paddle.no_grad():
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("model"), seq_length=256, max_position_embeddings=1024)[0]


def first_rows(count):
    """Rows in different places, one of them across the trained length, with different NTK factors."""
    starts, factors = (250, 3, 600), (1.0, 3.0, 7.0)
    return [
        RowInput(np.array([9 + row]), starts[row], list(range(16 * row, 16 * row + 16)), factors[row])
        for row in range(count)
    ]


def filled_cache(runner):
    cache = runner.new_cache(48, BLOCK_SIZE)
    generator = np.random.default_rng(0)
    for tensor in [*cache.keys, *cache.values]:
        tensor.set_value(paddle.to_tensor(generator.normal(size=tensor.shape).astype(np.float32)))
    return cache


def addresses(run):
    inputs = run._inputs
    tensors = [inputs.ids, *inputs.advancing, *vars(run._choice).values()]
    tensors += [buffer.tensor for buffer in (run._uniforms, run._stop_ids, run._going, run._count)]
    tensors += [value for value in vars(inputs.metadata).values() if isinstance(value, paddle.Tensor)]
    tensors += [value for value in vars(inputs.metadata.rotation).values() if value is not None]
    tensors += [*run._cache.keys, *run._cache.values]
    return [tensor.data_ptr() for tensor in tensors]


def by_the_host(runner, cache, rows, choices, steps):
    """The tokens of the same rows, one pass after the other, greedy or by the sampler's arithmetic."""
    samplers = [
        RowSampler(SamplingParams(temperature=choice.temperature, top_p=choice.top_p), (), runner.vocab_size)
        for choice in choices
    ]
    tokens = []
    for step in range(steps):
        logits = [row[0][: runner.vocab_size] for row in runner.forward(rows, cache)]
        tokens.append(
            [
                sampler._draw(row, choice.uniforms[step]) if choice.temperature else int(row.argmax())
                for sampler, row, choice in zip(samplers, logits, choices)
            ]
        )
        rows = [
            RowInput(np.array([token]), row.start + 1, row.blocks, row.position_factor)
            for row, token in zip(rows, tokens[-1])
        ]
    return tokens


@pytest.mark.parametrize(
    "choices, steps", [([GREEDY], 300), ([GREEDY, SAMPLED, GREEDY], 60)], ids=["greedy", "sampled"]
)
def test_steps_are_one_list_of_operators_at_the_same_addresses(model, choices, steps, monkeypatch):
    runner, rows = QWenVLRunner(model, model.config.vocab_size - 3), first_rows(len(choices))
    cache = filled_cache(runner)
    run = runner.start_run(rows, choices, cache, STEPS)
    for index, row in enumerate(rows):  # the blocks of all steps, more than a run takes at once
        run._inputs._block_table.host[index, : len(row.blocks)] = row.blocks
    before = addresses(run)
    with host_reads() as reads, operator_calls() as calls, monkeypatch.context() as nothing_from_the_host:
        nothing_from_the_host.setattr(paddle, "to_tensor", lambda *_, **__: pytest.fail("a value of the host"))
        results = [run._step() for _ in range(steps)]
    assert reads == []
    size = len(calls) // steps
    lists = [calls[start : start + size] for start in range(0, len(calls), size)]
    assert len(lists) == steps and all(calls == lists[0] for calls in lists)
    assert addresses(run) == before
    tokens = [result.numpy()[:, 0].astype(int).tolist() for result in results]
    assert tokens == by_the_host(QWenVLRunner(model, runner.vocab_size), filled_cache(runner), rows, choices, steps)
    assert len({token for step in tokens for token in step}) > 20


@pytest.fixture(params=["shared", "copied"])
def memory(request, monkeypatch):
    """Buffers in the memory of the host, as on a CPU, or copied to a device, as on a GPU."""

    class Copied(decode.Buffer):
        def __init__(self, shape, dtype):
            super().__init__(shape, dtype)
            self._shared, self.tensor = False, paddle.to_tensor(self.host)

    if request.param == "copied":
        monkeypatch.setattr(decode, "Buffer", Copied)
        monkeypatch.setattr(decode_steps, "Buffer", Copied)


def test_the_host_is_one_step_behind(model, memory):
    runner, rows = QWenVLRunner(model), first_rows(2)
    expected = by_the_host(runner, filled_cache(runner), rows, [GREEDY] * 2, 5)
    run = runner.start_run(rows, [GREEDY] * 2, filled_cache(runner), STEPS)
    before = addresses(run)
    run.launch()
    fetched = []
    for _ in range(4):
        run.launch()
        assert run.launched == 2
        tokens, log_probs = run.fetch()
        fetched.append(tokens.tolist())
        assert (log_probs < 0).all()
    fetched.append(run.fetch()[0].tolist())
    assert fetched == expected and run.launched == 0
    again = runner.start_run(rows, [GREEDY] * 2, run._cache, STEPS)
    assert again is run and addresses(run) == before
    again.launch()
    assert again.fetch()[0].tolist() == expected[0]


def test_a_row_that_has_stopped_stays_where_it_is(model):
    runner, rows = QWenVLRunner(model), first_rows(2)
    expected = by_the_host(runner, filled_cache(runner), rows, [GREEDY] * 2, 12)
    stop = next(tokens[0] for tokens in expected[3:] if tokens[0] not in [before[0] for before in expected[:3]])
    steps = [tokens[0] for tokens in expected].index(stop) + 1
    stopping = RowChoice(0.0, 1.0, stop_ids=(7, stop))
    run = runner.start_run(rows, [stopping, GREEDY], filled_cache(runner), STEPS)
    positions, tokens = [], []
    for _ in range(12):
        run.launch()
        tokens.append(run.fetch()[0].tolist())
        positions.append(run._inputs.metadata.cache_positions.numpy().tolist())
    assert tokens[:steps] == expected[:steps]
    assert [token for _, token in tokens] == [token for _, token in expected]  # the other row goes on
    start, other = rows[0].start, rows[1].start
    assert positions == [[start + min(step, steps - 1), other + step] for step in range(1, 13)]


def test_what_the_device_has_moved_is_brought_back(model, memory):
    """The same rows twice: the second time only what the device itself wrote differs from what was sent."""
    runner, rows = QWenVLRunner(model), first_rows(3)
    cache = filled_cache(runner)
    first = runner.forward(rows, cache)
    runner.start_run(rows, [GREEDY] * 3, cache, STEPS).launch()
    for one, other in zip(first, runner.forward(rows, cache)):
        np.testing.assert_array_equal(one, other)
    moved = [RowInput(row.ids, row.start, row.blocks[::-1], 1.0) for row in rows]
    for one, other in zip(runner.forward(moved, cache), QWenVLRunner(model).forward(moved, cache)):
        np.testing.assert_array_equal(one, other)
