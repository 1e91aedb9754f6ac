import numpy as np
import paddle
import pytest

from paddlemix.errors import ConfigurationError
from paddlemix.models.qwen_vl.configuration import QWenVLConfig
from paddlemix.models.qwen_vl.kv_cache import CACHE_BLOCK, KVCache, answer_bytes, cache_dtype, ntk_alpha
from tests.golden_model import (
    CACHES,
    LANGUAGE_CASES,
    LOGITS,
    NTK_ALPHA,
    golden_arrays,
    golden_config,
    golden_model,
    prompt,
)

pytestmark = pytest.mark.usefixtures("any_backend")


@pytest.fixture(autouse=True)
def no_gradients():
    with paddle.no_grad():
        yield


@pytest.mark.parametrize("layer", [0, 2])
def test_keys_and_values_equal_the_original(layer):
    cache = golden_model()(**prompt("text_short"), use_cache=True).past_key_values
    arrays = golden_arrays("language")
    for tensors, name in ((cache.keys, "past_key"), (cache.values, "past_value")):
        stored = tensors[layer][0, :, : cache.length].transpose([1, 0, 2]).numpy()
        np.testing.assert_allclose(stored, arrays[f"text_short.{name}.{layer}"], rtol=0, atol=CACHES)


@pytest.mark.parametrize("case", LANGUAGE_CASES)
def test_decode_steps_equal_the_original(case):
    """Also where decoding crosses a length at which the factors of a fresh prompt would change."""
    arrays, model, inputs = golden_arrays("language"), golden_model(), prompt(case)
    output = model(**inputs, use_cache=True, logits_to_keep=1)
    cache = output.past_key_values
    assert cache.ntk_alpha == NTK_ALPHA[case]
    tokens = arrays[f"{case}.greedy_tokens"].astype(np.int64)
    wanted = {int(step): i for i, step in enumerate(arrays[f"{case}.step_index"])}
    for step in range(max(wanted) + 1):
        logits = model(
            paddle.to_tensor(tokens[:, step : step + 1]), attention_mask=inputs["attention_mask"], past_key_values=cache
        ).logits[:, 0]
        if step in wanted:
            expected = arrays[f"{case}.step_logits"][:, wanted[step]]
            np.testing.assert_allclose(logits.numpy(), expected, rtol=0, atol=LOGITS)


@pytest.mark.parametrize("case", ["text_short", "long_a3", "batch_text"])
@pytest.mark.parametrize("parts", [(5,), (1, 2, 30), (10, 11)])
def test_feeding_in_parts_equals_feeding_at_once(case, parts):
    model, inputs = golden_model(), prompt(case)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    whole = model(ids, attention_mask=mask).logits.numpy()
    cache = model.new_cache(ids.shape[0], ids.shape[1])
    borders = [0, *parts, ids.shape[1]]
    logits = [
        model(ids[:, start:end], attention_mask=mask, past_key_values=cache).logits.numpy()
        for start, end in zip(borders, borders[1:])
    ]
    seen = np.ones(ids.shape, bool) if mask is None else mask.numpy().astype(bool)
    np.testing.assert_allclose(np.concatenate(logits, axis=1)[seen], whole[seen], rtol=0, atol=LOGITS)


def test_cached_equals_uncached():
    """With a fixed NTK factor, since a longer prompt would have another one."""
    model, ids = golden_model(), prompt("text_short")["input_ids"]
    cache = model.new_cache(1, ids.shape[1])
    steps = [model(ids[:, i : i + 1], past_key_values=cache).logits[0, 0].numpy() for i in range(ids.shape[1])]
    np.testing.assert_allclose(np.stack(steps), model(ids).logits[0].numpy(), rtol=0, atol=LOGITS)


def test_another_continuation_can_be_fed_after_truncation():
    model, ids = golden_model(), prompt("text_short")["input_ids"]
    cache = model.new_cache(1, ids.shape[1])
    model(ids, past_key_values=cache)
    cache.truncate(20)
    again = model(ids[:, 20:], past_key_values=cache).logits.numpy()
    np.testing.assert_allclose(again, model(ids).logits[:, 20:].numpy(), rtol=0, atol=LOGITS)


def test_truncation_cannot_lengthen():
    cache = KVCache(golden_config(), 1, 8, 8)
    with pytest.raises(ConfigurationError, match="truncate"):
        cache.truncate(1)


def test_rows_can_be_chosen_and_repeated():
    model, inputs = golden_model(), prompt("batch_text")
    output = model(**inputs, use_cache=True)
    token = paddle.to_tensor([[7], [8], [9]])
    separate = model(token, attention_mask=inputs["attention_mask"], past_key_values=output.past_key_values).logits
    cache = output.past_key_values
    cache.truncate(inputs["input_ids"].shape[1])
    rows = paddle.to_tensor([2, 0, 2])
    cache.select_rows(rows)
    mask = paddle.index_select(inputs["attention_mask"], rows)
    chosen = model(paddle.index_select(token, rows), attention_mask=mask, past_key_values=cache).logits
    np.testing.assert_allclose(chosen.numpy(), separate.numpy()[[2, 0, 2]], rtol=0, atol=LOGITS)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_of_either_dtype_can_be_chosen_and_grow(dtype):
    cache = KVCache(golden_config(), 2, 4, 4, dtype)
    cache.keys[1].set_value(paddle.rand(cache.keys[1].shape).astype(dtype))
    before = cache.keys[1].astype("float32").numpy()
    cache.select_rows(paddle.to_tensor([1, 0, 1]))
    cache.reserve(5)
    assert str(cache.keys[1].dtype) == f"paddle.{dtype}"
    np.testing.assert_array_equal(cache.keys[1][:, :, :4].astype("float32").numpy(), before[[1, 0, 1]])


def test_another_dtype_than_the_models_is_refused_on_a_gpu(monkeypatch):
    config = golden_config()
    monkeypatch.setattr(config, "kv_cache_dtype", "float32")
    assert cache_dtype(config, "bfloat16") == "float32"
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    with pytest.raises(ConfigurationError, match="kv_cache_dtype: on a GPU it is the model's, bfloat16; got 'float32'"):
        cache_dtype(config, "bfloat16")


def test_grows_in_steps_and_keeps_what_it_holds():
    cache = KVCache(golden_config(), 2, 4, 4)
    key = paddle.rand([2, 4, 4, 64])
    for tensors in (cache.keys, cache.values):
        for tensor in tensors:
            tensor.set_value(key)
    cache.advance(4)
    cache.reserve(5)
    assert cache.capacity == 4 + CACHE_BLOCK
    np.testing.assert_array_equal(cache.keys[1][:, :, :4].numpy(), key.numpy())
    cache.reserve(6)
    assert cache.capacity == 4 + CACHE_BLOCK


def test_holds_no_more_than_was_asked_for():
    assert golden_model().new_cache(2, 10, 30).capacity == 30
    assert golden_model().new_cache(2, 10).capacity == 10


@pytest.mark.parametrize(
    ("length", "alpha"), [(1, 1), (128, 1), (129, 3), (256, 3), (257, 7), (512, 7), (513, 15), (1025, 31)]
)
def test_ntk_factor_grows_with_each_doubling(length, alpha):
    assert ntk_alpha(length, golden_config()) == alpha


def test_conversations_do_not_disturb_each_other():
    """The original keeps the factor in the model, where the last prompt overwrites it for all."""
    model, short, long = golden_model(), prompt("text_short")["input_ids"], prompt("long_a3")["input_ids"]
    cache = model(short, use_cache=True).past_key_values
    expected = model(paddle.to_tensor([[5]]), past_key_values=cache).logits.numpy()
    cache.truncate(short.shape[1])
    model(long, use_cache=True)
    actual = model(paddle.to_tensor([[5]]), past_key_values=cache).logits.numpy()
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_sizes_must_be_positive(sizes):
    with pytest.raises(ConfigurationError, match="positive"):
        KVCache(golden_config(), *sizes)


def test_what_an_answer_of_the_published_model_takes():
    config = QWenVLConfig(visual={"image_start_id": 151857})
    half, single = answer_bytes(config, "bfloat16", "bfloat16"), answer_bytes(config, "float32", "float32")
    assert 0.27e9 < half < 0.4e9 and 0.53e9 < single < 0.8e9  # of which the cache is 0.27 and 0.54
    assert answer_bytes(config, "float32", "bfloat16") < single
