"""What a pass through the model has a device do: few operators for each layer, and no value that the host waits for."""

import importlib
from collections import Counter
from unittest import mock

import numpy as np
import paddle
import pytest

from paddlemix.engine.protocols import RowInput
from paddlemix.models.qwen_vl.runner import QWenVLRunner
from paddlemix.ops import backend
from tests.backends import require_library
from tests.operator_calls import host_reads, operator_calls
from tests.random_model import random_model

attention_prefill = importlib.import_module("paddlemix.ops.attention_prefill")

DECODE = [RowInput(np.array([5 + row]), 40 + row, [2 * row, 2 * row + 1], 1.0) for row in range(3)]
PROPOSED = [RowInput(np.arange(4), 33, [0], 1.0, (), 4), RowInput(np.array([7]), 20, [1], 1.0, (), 1)]
PREFILL = [RowInput(np.arange(40), 24, [0, 1], 1.0)]


@pytest.fixture(scope="module", autouse=True)
def without_gradients():
    require_library()
    with backend.using("cpu"), paddle.no_grad():
        yield


@pytest.fixture
def attention_of_paddle(monkeypatch):
    """Prefill as on a GPU, where Paddle's own attention computes and nothing can be read without waiting."""
    fake = mock.MagicMock(wraps=backend)
    fake.device_of = lambda _: "cuda"
    fake.use_kernel = lambda *_: True
    fake.uses_paddle_kernels = lambda _: True
    monkeypatch.setattr(attention_prefill, "backend", fake)
    monkeypatch.setattr(attention_prefill, "can_be_read", lambda _: False)


@pytest.fixture(scope="module")
def runners(tmp_path_factory):
    return [
        QWenVLRunner(random_model(tmp_path_factory.mktemp("model"), num_hidden_layers=layers)[0]) for layers in (1, 3)
    ]


def calls_of_a_layer(runners, rows):
    """The operators that a layer adds to a pass; allocations do not count. Only the logits may be read."""
    counts = []
    for runner in runners:
        cache = runner.new_cache(8, 64)
        runner._steps = None  # bound to the operators that are watched
        with host_reads() as reads, operator_calls() as calls:
            runner.forward(rows, cache)
        runner._steps = None
        assert reads == ["numpy"]
        counts.append(Counter(name for name in calls if not name.startswith("empty")))
    counts[1].subtract(counts[0])
    return {name: count / 2 for name, count in counts[1].items() if count}


@pytest.mark.parametrize("rows", [DECODE, PROPOSED, PREFILL], ids=["decode", "proposed", "prefill"])
def test_a_layer_is_ten_operators(runners, rows):
    attention = "paddlemix_attention_prefill" if rows is PREFILL else "paddlemix_attention_decode"
    calls = calls_of_a_layer(runners, rows)
    assert calls.pop("full kernel launch", 0) == (1 if rows is PROPOSED else 0)  # queries of positions that are none
    assert calls == {
        "paddlemix_add_rms_norm": 2, "matmul kernel launch": 5, "paddlemix_rotary_qkv_cache": 1, attention: 1,
        "paddlemix_swiglu": 1,
    }  # fmt: skip


@pytest.mark.parametrize("batch", [1, 3])
def test_masks_for_paddles_own_attention_are_made_once(runners, attention_of_paddle, batch):
    rows = [RowInput(np.arange(40), 9 * row, [2 * row, 2 * row + 1], 1.0) for row in range(batch)]
    calls = calls_of_a_layer(runners, rows)
    made_once = {"arange", "less", "logical", "any", "clip", "flatten"}
    assert not [name for name in calls if name.split("_")[0].split(" ")[0] in made_once]
    assert calls.get("where kernel launch", 0) == (0 if batch == 1 else 2)  # positions beyond the end of a row
    assert sum(calls.values()) <= (36 if batch == 1 else 40)


@pytest.mark.parametrize("ends", [[40], [40, 17, 33]])
def test_shared_masks_are_those_of_each_layer(runners, attention_of_paddle, monkeypatch, ends):
    rows = [RowInput(np.arange(12), end - 12, [2 * row, 2 * row + 1], 1.0) for row, end in enumerate(ends)]
    runner = runners[1]

    def logits():
        cache = runner.new_cache(8, 64)
        for tensor in [*cache.keys, *cache.values]:  # there is nothing before the rows' starts but memory
            tensor.set_value(paddle.zeros_like(tensor))
        return np.concatenate(runner.forward(rows, cache))

    shared = logits()
    by_paddle = attention_prefill.attention_by_paddle
    monkeypatch.setattr(
        attention_prefill, "attention_by_paddle", lambda *heads, shared, **rest: by_paddle(*heads, **rest)
    )
    np.testing.assert_allclose(shared, logits(), rtol=0, atol=1e-6)
