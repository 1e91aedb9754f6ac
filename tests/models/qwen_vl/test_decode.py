"""Decode steps with everything looked up once are, bit for bit, what the layers compute."""

import numpy as np
import paddle
import pytest

from paddlemix.adapters.config import LoRAConfig
from paddlemix.adapters.injection import inject
from paddlemix.engine.protocols import RowInput
from paddlemix.errors import OperatorError
from paddlemix.models.qwen_vl.decode import bind
from paddlemix.models.qwen_vl.kv_cache import ntk_alphas
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from paddlemix.models.qwen_vl.runner import QWenVLRunner
from paddlemix.ops import backend
from tests.backends import require_library
from tests.random_model import random_model

BLOCK_SIZE, BLOCKS_OF_A_ROW = 32, 8
SIZES = {"seq_length": 64, "max_position_embeddings": BLOCK_SIZE * BLOCKS_OF_A_ROW}


@pytest.fixture(scope="module", autouse=True)
def without_gradients():
    require_library()
    with backend.using("cpu"), paddle.no_grad():
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """NTK factors 1, 3 and 7, and log-n scaling from position 64 on."""
    return random_model(tmp_path_factory.mktemp("model"), **SIZES)[0]


def filled_cache(runner, rows):
    cache = runner.new_cache(rows * BLOCKS_OF_A_ROW, BLOCK_SIZE)
    generator = np.random.default_rng(9)
    for tensor in [*cache.keys, *cache.values]:
        tensor.set_value(paddle.to_tensor(generator.normal(size=tensor.shape).astype(np.float32)).astype(tensor.dtype))
    return cache


def random_rows(generator, count, config, logits=None):
    """Up to 8 rows anywhere in their prompts; each has 1 to ``count`` new positions."""
    rows = []
    for row in range(generator.integers(1, 9)):
        ids = generator.integers(0, 250, generator.integers(1, count + 1))
        start = int(generator.integers(0, config.max_position_embeddings - len(ids)))
        blocks = list(range(row * BLOCKS_OF_A_ROW, (row + 1) * BLOCKS_OF_A_ROW))
        factor = float(generator.choice(ntk_alphas(config)))
        rows.append(RowInput(ids, start, blocks, factor, (), len(ids) if logits is None else logits))
    return rows


def answers(model, passes, bound):
    """Logits of all passes over one cache, and what it holds in the end."""
    runner = QWenVLRunner(model)
    if not bound:
        runner._decode_steps = lambda _: None
    cache = filled_cache(runner, 8)
    logits = [runner.forward(rows, cache) for rows in passes]
    assert (runner._steps is not None) == bound
    return logits, [tensor.astype("float32").numpy() for tensor in [*cache.keys, *cache.values]]


def assert_same(model, passes):
    (logits, cache), (expected, expected_cache) = (answers(model, passes, bound) for bound in (True, False))
    for one, other in zip(logits, expected):
        assert [len(row) for row in one] == [len(row) for row in other]
        for row, expected_row in zip(one, other):
            np.testing.assert_array_equal(row, expected_row)
    for one, other in zip(cache, expected_cache):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("form", ["float32", "bfloat16 cache", "bf16", "int8", "int4", "nf4", "adapter"])
def test_the_numbers_are_those_of_the_layers(model, tmp_path, form):
    if form == "adapter":
        model = random_model(tmp_path, **SIZES)[0]
        inject(model, LoRAConfig(r=4))
        for name, parameter in model.named_parameters():
            if name.endswith("lora_B"):
                parameter.set_value(paddle.ones_like(parameter) * 0.02)
        model.eval()
    elif form != "float32":
        model.save_pretrained(tmp_path)
        options = {"kv_cache_dtype": "bfloat16"} if form == "bfloat16 cache" else {"quantization": form}
        model = QWenLMHeadModel.from_pretrained(tmp_path, **options)
    generator = np.random.default_rng(3)
    passes = [random_rows(generator, 1, model.config) for _ in range(6)]
    passes += [random_rows(generator, 8, model.config) for _ in range(6)]
    passes += [random_rows(generator, 8, model.config, logits) for logits in (0, 1)]
    assert_same(model, passes)


def test_factors_of_all_prompts_within_the_window(model):
    assert ntk_alphas(model.config) == (1.0, 3.0, 7.0)
    config = type(model.config)(**{**model.config.to_dict(), "max_position_embeddings": 64})
    assert ntk_alphas(config) == (1.0,)


def test_a_change_of_the_model_is_noticed(tmp_path):
    model, _ = random_model(tmp_path, **SIZES)
    runner = QWenVLRunner(model)
    cache = filled_cache(runner, 8)
    rows = random_rows(np.random.default_rng(1), 1, model.config)
    before = runner.forward(rows, cache)[0]
    first = runner._steps.decoder
    runner.forward(rows, cache)
    assert runner._steps is not None and runner._steps.decoder is first
    model.transformer.h[1].mlp.w1.weight.set_value(model.transformer.h[1].mlp.w1.weight * 0.5)  # in place
    assert first.is_current()
    halved = runner.forward(rows, cache)[0]
    assert not np.array_equal(halved, before)
    inject(model, LoRAConfig(r=2))  # replaces layers
    model.eval()
    assert not first.is_current()
    np.testing.assert_array_equal(runner.forward(rows, cache)[0], halved)
    assert runner._steps.decoder is not first
    with backend.using("reference"):
        np.testing.assert_allclose(runner.forward(rows, cache)[0], halved, rtol=0, atol=1e-3)
        assert runner._steps is None


def test_layers_that_something_is_hooked_to_are_called(model):
    called = []
    hook = model.transformer.h[0].mlp.w1.register_forward_post_hook(lambda *_: called.append(1))
    try:
        assert bind(model) is None
        runner = QWenVLRunner(model)
        runner.forward(random_rows(np.random.default_rng(1), 1, model.config), filled_cache(runner, 8))
        assert called == [1]
    finally:
        hook.remove()
    assert bind(model) is not None


def test_blocks_that_the_cache_does_not_have_are_refused(model):
    runner = QWenVLRunner(model)
    row = RowInput(np.array([1]), 40, [0, 999], 1.0)
    with pytest.raises(OperatorError, match="block_table has 999"):
        runner.forward([row], filled_cache(runner, 1))
