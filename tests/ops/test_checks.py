"""What no operator can compute with is refused by name, on every backend, with a gradient wanted and without."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlemix import ops
from paddlemix.errors import OperatorError
from paddlemix.ops import backend
from paddlemix.ops.checks import PARAMETERS
from paddlemix.ops.linear_w4 import dequantize_w4, pack_w4, quantize_w4
from paddlemix.ops.linear_w8 import dequantize_w8, pack_w8, quantize_w8
from paddlemix.ops.linear_w16 import dequantize_w16, pack_w16
from tests.backends import require_library


def int32(*values):
    return paddle.to_tensor(np.array(values, np.int32))


def calls():
    """Operator: function, required tensors, everything else."""
    x, w = paddle.ones([2, 16]), paddle.ones([16])
    four, eight, sixteen = quantize_w4(paddle.ones([16, 5])), quantize_w8(paddle.ones([16, 5])), paddle.ones([16, 5])
    packed = pack_w16(sixteen, "bfloat16")
    cache = {"query": paddle.ones([1, 2, 3, 8]), "key": paddle.ones([1, 2, 4, 8]), "value": paddle.ones([1, 2, 4, 8])}
    attention = {**cache, "kv_lengths": int32(4)}
    tables = {"cos": paddle.ones([1, 8, 8]), "sin": paddle.ones([1, 8, 8]), "positions": int32([0, 1, 2])}
    rotary = {"qkv": paddle.ones([1, 3, 48]), **tables}
    caches = {"key_cache": paddle.zeros([1, 2, 8, 8]), "value_cache": paddle.zeros([1, 2, 8, 8]), "slots": int32(0)}
    out = {"bias": None, "out_features": 5}
    sizes = {"in_features": 16, "out_features": 5}
    return {
        "rms_norm": (ops.rms_norm, {"x": x, "weight": w}, {"epsilon": 1e-6}),
        "layer_norm": (ops.layer_norm, {"x": x, "weight": w, "bias": w}, {"epsilon": 1e-6}),
        "swiglu": (ops.swiglu, {"gate": x}, {}),
        "gelu_bias": (ops.gelu_bias, {"x": x}, {"bias": w}),
        "rotary_qkv": (ops.rotary_qkv, rotary, {"bias": None, "heads": 2}),
        "rotary_qkv_cache": (ops.rotary_qkv_cache, {**rotary, **caches}, {"bias": None, "heads": 2}),
        "attention_prefill": (ops.attention_prefill, attention, {}),
        "attention_decode": (ops.attention_decode, attention, {}),
        "attention_interleaved": (ops.attention_interleaved, {"qkv": paddle.ones([1, 3, 48])}, {"heads": 2}),
        "linear_w4": (ops.linear_w4, {"x": x, "weight": four[0], "scales": four[1]}, out),
        "linear_w8": (ops.linear_w8, {"x": x, "weight": eight[0], "scales": eight[1]}, out),
        "linear_w16": (ops.linear_w16, {"x": x, "weight": packed}, out),
        "dequantize_w4": (dequantize_w4, {"weight": four[0], "scales": four[1]}, sizes),
        "dequantize_w8": (dequantize_w8, {"weight": eight[0], "scales": eight[1]}, sizes),
        "dequantize_w16": (dequantize_w16, {"weight": packed}, sizes),
        "quantize_w4": (quantize_w4, {"w": sixteen}, {}),
        "quantize_w8": (quantize_w8, {"w": sixteen}, {}),
        "pack_w16": (pack_w16, {"w": sixteen}, {"dtype": "float16"}),
        "pack_w4": (pack_w4, {"q": paddle.ones([16, 5]).astype("int8")}, {}),
        "pack_w8": (pack_w8, {"q": paddle.ones([16, 5]).astype("int8")}, {}),
    }


@pytest.fixture(params=["computing", "training"])
def gradients(request):
    with paddle.set_grad_enabled(request.param == "training"):
        yield request.param == "training"


@pytest.mark.parametrize("name", calls())
def test_none_and_other_things_in_place_of_a_tensor_are_named(any_backend, gradients, name):
    function, required, rest = calls()[name]
    if gradients:
        for tensor in required.values():
            tensor.stop_gradient = tensor.dtype != paddle.float32
    function(**required, **rest)
    for argument in required:
        for other, described in ((None, "None"), ([1.0], "a list"), (np.ones(3, np.float32), "a ndarray")):
            with pytest.raises(OperatorError, match=rf"\w+: {argument} must be a tensor, got {described}$"):
                function(**{**required, argument: other}, **rest)


@pytest.mark.parametrize("name", [name for name, (_, required, _) in calls().items() if len(required) > 1])
def test_a_tensor_without_values_is_refused(any_backend, gradients, name):
    function, required, rest = calls()[name]
    for argument in list(required)[1:]:
        with pytest.raises(OperatorError, match=argument):
            function(**{**required, argument: paddle.Tensor()}, **rest)


@pytest.mark.parametrize("name", PARAMETERS)
def test_registered_operators_refuse_none_and_another_number_of_arguments(gradients, name):
    require_library()
    arguments = [
        {"float": 1.0, "int": 1, "str": "float16"}.get(kind, paddle.ones([2, 2])) for _, kind in PARAMETERS[name]
    ]
    for position, (argument, kind) in enumerate(PARAMETERS[name]):
        if kind != "optional":
            with pytest.raises(OperatorError, match=f"{argument} must be "):
                backend.run(name, *arguments[:position], None, *arguments[position + 1 :])
    with pytest.raises(OperatorError, match=f"expected {len(arguments)} arguments, got {len(arguments) - 1}"):
        backend.run(name, *arguments[:-1])


PAGED = {"query": [2, 1, 1, 4], "key": [3, 1, 2, 4], "value": [3, 1, 2, 4]}


@pytest.mark.parametrize("attend", [ops.attention_prefill, ops.attention_decode])
@pytest.mark.parametrize("block", [-1, 3, 10**6])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_block_that_the_cache_does_not_have_is_refused(gradients, attend, block, dtype):
    tensors = {name: paddle.ones(shape, dtype) for name, shape in PAGED.items()}
    for tensor in tensors.values():
        tensor.stop_gradient = not gradients
    table = int32([0, 1], [2, block])
    for mode in ("auto", "reference"):
        with ops.using(mode):
            with pytest.raises(OperatorError, match=rf"block_table\[1, 1\] is {block}, expected 0 to 2"):
                attend(**tensors, kv_lengths=int32(4, 3), block_table=table)
            unused = attend(**tensors, kv_lengths=int32(4, 2), block_table=table)  # nobody looks at that page
            assert (unused.numpy() == 1).all()


@pytest.mark.parametrize("attend", [ops.attention_prefill, ops.attention_decode])
def test_lengths_beyond_cache_and_mask_are_refused(any_backend, attend):
    tensors = {name: paddle.ones([1, 1, 4, 4]) for name in PAGED}
    for slots in (-1, 5):
        with pytest.raises(OperatorError, match=rf"kv_lengths\[0\] is {slots}, expected 0 to 4"):
            attend(**tensors, kv_lengths=int32(slots))
    with pytest.raises(OperatorError, match="mask covers 3 slots"):
        attend(**tensors, kv_lengths=int32(4), mask=paddle.zeros([1, 4, 3]))


@pytest.mark.parametrize("argument, wrong", [("slots", 7), ("slots", -1), ("block_table", 3), ("block_table", -1)])
def test_nothing_is_written_where_one_row_does_not_fit(any_backend, argument, wrong):
    caches = [paddle.zeros([3, 2, 2, 8]) for _ in range(2)]
    places = {"slots": [0, 0], "block_table": [[0, 1], [2, 0]]}
    places[argument] = [0, wrong] if argument == "slots" else [[0, 1], [wrong, 0]]
    indices = {name: int32(*values) for name, values in places.items()}
    tables = [paddle.ones([1, 8, 8])] * 2
    with pytest.raises(OperatorError, match=f"{argument} has|row 1 writes slots"):
        ops.rotary_qkv_cache(paddle.ones([2, 3, 48]), None, 2, *tables, int32([0, 1, 2], [0, 1, 2]), *caches, **indices)
    assert not any(cache.numpy().any() for cache in caches)


@pytest.mark.parametrize("pack, least, most", [(pack_w4, -8, 7), (pack_w8, -127, 127)])
def test_values_that_a_tile_cannot_hold_are_refused(any_backend, pack, least, most):
    pack(paddle.to_tensor(np.array([[least, most]], np.int8)))
    for value in {least - 1, min(most + 1, 127)} - {most}:
        with pytest.raises(OperatorError, match=f"expected {least} to {most}"):
            pack(paddle.to_tensor(np.array([[0, value]], np.int8)))


@pytest.mark.parametrize("training", [False, True])
def test_distributed_tensors_are_left_to_paddle(any_backend, training):
    import paddle.distributed as dist

    mesh = dist.ProcessMesh([0], dim_names=["x"])
    x, w = (dist.shard_tensor(paddle.ones(shape), mesh, [dist.Replicate()]) for shape in ([2, 4], [4]))
    with paddle.set_grad_enabled(training):
        out = ops.rms_norm(x, w, 0.0)[0]
    assert out.is_dist() and (out._local_value().numpy() == 1).all()


@pytest.mark.parametrize("kernel", [ops.rms_norm, ops.layer_norm, ops.gelu_bias])
def test_a_weight_of_another_shape_or_dtype_is_refused(any_backend, kernel):
    x, right = paddle.ones([2, 16]), paddle.ones([16])
    arguments = {ops.rms_norm: [right, 1e-6], ops.layer_norm: [right, right, 1e-6], ops.gelu_bias: [right]}[kernel]
    for wrong in (paddle.ones([1]), paddle.ones([2, 16]), right.astype("float64")):
        with pytest.raises(OperatorError, match="(weight|bias) (has|is) "):
            kernel(x, wrong, *arguments[1:])
