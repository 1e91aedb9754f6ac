from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlemix import ops
from paddlemix.errors import OperatorError
from tests.backends import each_instruction_set
from tests.ops.exactness import assert_as_exact, check_gradients

BASE = 10000.0


def turn(x, angle):
    """The definition: dimensions ``i`` and ``i + d/2`` are one complex number, turned by an angle of its own."""
    half = x.shape[-1] // 2
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], axis=-1)


def exact(qkv, bias, heads, positions, logn=None, bases=None):
    """query, key, value ``[batch, heads, length, head_dim]`` in float64; bases: of each row."""
    qkv = np.asarray(qkv, np.float64) + (0 if bias is None else np.asarray(bias, np.float64))
    batch, length, width = qkv.shape
    head_dim = width // 3 // heads
    query, key, value = qkv.reshape(batch, length, 3, heads, head_dim).transpose(2, 0, 3, 1, 4)
    frequencies = [(base or BASE) ** (-np.arange(head_dim // 2) / (head_dim // 2)) for base in bases or [BASE] * batch]
    angle = positions[:, None, :, None] * np.array(frequencies)[:, None, None]
    query, key = turn(query, angle), turn(key, angle)
    return (query if logn is None else query * logn[positions][:, None, :, None]), key, value


class Case:
    """Inputs of one call, as NumPy arrays and as tensors."""

    def __init__(self, batch, length, heads, head_dim, table_length=64, bases=(BASE,), dtype="float32", seed=0):
        generator = np.random.default_rng(seed)
        width = heads * head_dim
        self.heads, self.head_dim = heads, head_dim
        self.qkv = generator.normal(size=(batch, length, 3 * width)).astype(dtype)
        self.bias = generator.normal(size=3 * width).astype(dtype)
        self.positions = generator.integers(0, table_length, size=(batch, length)).astype(np.int32)
        self.logn = generator.uniform(1, 2, size=table_length).astype(np.float32)
        self.table_index = generator.integers(0, len(bases), size=batch).astype(np.int32)
        self.bases = [bases[i] for i in self.table_index]
        tables = [ops.rotary_tables(table_length, head_dim, base) for base in bases]
        self.cos, self.sin = (paddle.to_tensor(np.stack(part)) for part in zip(*tables))

    def arguments(self, **changes):
        """The positional arguments of ``rotary_qkv``."""
        values = {name: changes.get(name, getattr(self, name)) for name in ("qkv", "bias", "positions")}
        qkv, bias, positions = (
            paddle.to_tensor(value) if isinstance(value, np.ndarray) else value for value in values.values()
        )
        return qkv, bias, self.heads, changes.get("cos", self.cos), changes.get("sin", self.sin), positions

    def options(self):
        return {"logn": paddle.to_tensor(self.logn), "table_index": paddle.to_tensor(self.table_index)}

    def exact(self):
        return exact(self.qkv, self.bias, self.heads, self.positions, self.logn, self.bases)


def assert_close(actual, expected, atol=2e-5):
    for tensor, array in zip(actual, expected):
        np.testing.assert_allclose(tensor.numpy(), array, rtol=0, atol=atol)


def test_turns_halves_of_queries_and_keys_together(any_backend):
    case = Case(2, 5, 3, 16)
    actual = ops.rotary_qkv(*case.arguments(bias=None))
    assert [part.shape for part in actual] == [[2, 3, 5, 16]] * 3
    assert_close(actual, exact(case.qkv, None, 3, case.positions))


def test_adds_the_bias_scales_queries_by_position_and_takes_each_rows_table(any_backend):
    case = Case(4, 6, 2, 8, bases=(BASE, 31000.0, 500.0))
    assert len(set(case.bases)) > 1
    assert_close(ops.rotary_qkv(*case.arguments(), **case.options()), case.exact())


def test_position_zero_changes_nothing(any_backend):
    case = Case(1, 1, 1, 8)
    query, key, value = ops.rotary_qkv(*case.arguments(bias=None, positions=np.zeros([1, 1], np.int32)))
    packed = np.concatenate([part.numpy().ravel() for part in (query, key, value)])
    np.testing.assert_array_equal(packed, case.qkv.ravel())


def test_scores_depend_on_the_distance_alone(any_backend):
    case = Case(1, 2, 1, 32, table_length=600)

    def score(i, j):
        positions = np.array([[i, j]], np.int32)
        query, key, _ = ops.rotary_qkv(*case.arguments(positions=positions))
        return float((query[0, 0, 0] * key[0, 0, 1]).sum())

    assert abs(score(3, 1) - score(503, 501)) < 1e-3
    assert abs(score(3, 1) - score(3, 2)) > 1e-2


@pytest.mark.parametrize("batch, length", [(1, 1), (3, 1), (2, 123)])
@pytest.mark.parametrize("heads, head_dim", [(1, 2), (5, 6), (4, 104), (3, 128)])
def test_kernel_gives_the_bits_of_paddle(fused, batch, length, heads, head_dim):
    case = Case(batch, length, heads, head_dim, bases=(BASE, 31000.0))
    with ops.using("reference"):
        reference = ops.rotary_qkv(*case.arguments(), **case.options())
    expected = case.exact()
    for _ in each_instruction_set():
        fast = ops.rotary_qkv(*case.arguments(), **case.options())
        for one, other, wanted in zip(fast, reference, expected):
            np.testing.assert_array_equal(one.numpy(), other.numpy())
            assert_as_exact(one, other, wanted)


def test_views_are_read_as_they_are(any_backend):
    case = Case(3, 8, 2, 16)
    wide = paddle.to_tensor(np.concatenate([case.qkv, case.qkv], axis=-1))
    actual = ops.rotary_qkv(*case.arguments(qkv=wide[:, ::2, 96:], positions=case.positions[:, ::2].copy()))
    assert_close(actual, exact(case.qkv[:, ::2], case.bias, 2, case.positions[:, ::2]))


@pytest.mark.parametrize("batch, length", [(0, 3), (2, 0)])
def test_nothing_in_nothing_out(any_backend, batch, length):
    case = Case(batch, length, 2, 8)
    assert [part.shape for part in ops.rotary_qkv(*case.arguments())] == [[batch, 2, length, 8]] * 3


def test_what_is_not_finite_spoils_only_its_own_head(any_backend):
    case = Case(2, 3, 2, 8)
    case.qkv[1, 2, 3] = np.nan  # the query of head 0
    actual = ops.rotary_qkv(*case.arguments())
    assert np.isnan(actual[0].numpy()[1, 0, 2]).any()
    case.qkv[1, 2, 3] = 0
    expected = exact(case.qkv, case.bias, 2, case.positions)
    spoilt = actual[0].numpy()
    spoilt[1, 0, 2] = expected[0][1, 0, 2]
    assert_close([paddle.to_tensor(spoilt), *actual[1:]], expected)


@pytest.mark.parametrize("frozen", [(), (0,), (1,)])
def test_gradients_match_finite_differences(any_backend, frozen):
    case = Case(2, 2, 2, 4, bases=(BASE, 300.0), dtype="float64")
    _, _, heads, *tables = case.arguments()

    def all_outputs(qkv, bias):
        query, key, value = ops.rotary_qkv(qkv, bias, heads, *tables, **case.options())
        return paddle.concat([query, key * key, value], axis=-1)

    check_gradients(all_outputs, [case.qkv, case.bias], frozen)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_gradients_of_one_output_leave_the_others_at_zero(any_backend, part):
    case = Case(1, 3, 2, 4)
    qkv = paddle.to_tensor(case.qkv, stop_gradient=False)
    ops.rotary_qkv(*case.arguments(qkv=qkv))[part].sum().backward()
    touched = np.abs(qkv.grad.numpy()).reshape(3, 3, 8).sum((0, 2)) > 0
    assert touched.tolist() == [i == part for i in range(3)]


def make_caches(shape, dtype="float32"):
    return [paddle.full(shape, 7.0, dtype=dtype) for _ in range(2)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_writes_keys_and_values_at_each_rows_slot_and_nothing_else(any_backend, dtype):
    case = Case(2, 3, 2, 8)
    keys, values = make_caches([2, 2, 10, 8], dtype)
    address = keys.data_ptr()
    slots = paddle.to_tensor([0, 6], dtype="int32")
    query = ops.rotary_qkv_cache(*case.arguments(), keys, values, slots, **case.options())
    expected = case.exact()
    assert_close([query], expected[:1])
    for cache, wanted in zip((keys, values), expected[1:]):
        target = np.full([2, 2, 10, 8], 7.0)
        target[0, :, 0:3], target[1, :, 6:9] = wanted[0], wanted[1]
        # The exact value itself may round the other way: one unit of bfloat16.
        tolerance = {"rtol": 0, "atol": 2e-5} if dtype == "float32" else {"rtol": 2**-8 + 1e-5, "atol": 1e-5}
        np.testing.assert_allclose(cache.astype("float32").numpy(), target, **tolerance)
    assert keys.data_ptr() == address


def test_bfloat16_caches_hold_the_rounded_bits(instruction_set):
    case = Case(1, 5, 3, 104)
    case.qkv[0, 0, :4] = np.nan, np.inf, -np.inf, 3e38
    case.qkv[0, 1, 3 * 104 :] *= 1e-40  # subnormal keys and values
    _, key, value = ops.rotary_qkv(*case.arguments(bias=None))
    keys, values = make_caches([1, 3, 5, 104], "bfloat16")
    ops.rotary_qkv_cache(*case.arguments(bias=None), keys, values, paddle.zeros([1], dtype="int32"))
    for cache, written in ((keys, key), (values, value)):
        np.testing.assert_array_equal(
            cache.astype("float32").numpy(), written.astype("bfloat16").astype("float32").numpy()
        )


def test_lengths_leave_padding_out(any_backend):
    case = Case(3, 4, 1, 8)
    case.positions[1, 1:] = case.positions[2] = 9999  # of padding, hence not looked at
    keys, values = make_caches([3, 1, 4, 8])
    query = ops.rotary_qkv_cache(
        *case.arguments(), keys, values, paddle.to_tensor([0, 3, 99], dtype="int32"),
        lengths=paddle.to_tensor([4, 1, 0], dtype="int32"),
    )  # fmt: skip
    real = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
    expected_query, expected_key, _ = exact(case.qkv, case.bias, 1, np.where(real, case.positions, 0))
    np.testing.assert_allclose(query.numpy(), np.where(real[:, None, :, None], expected_query, 0), rtol=0, atol=2e-5)
    target = np.full([3, 1, 4, 8], 7.0)
    target[0], target[1, :, 3] = expected_key[0], expected_key[1, :, 0]
    np.testing.assert_allclose(keys.numpy(), target, rtol=0, atol=2e-5)


def test_a_block_table_says_where_slots_lie(any_backend):
    case = Case(2, 5, 2, 8)
    keys, values = make_caches([6, 2, 4, 8])
    table = np.array([[5, 0, -1], [2, 4, 1]], np.int32)  # -1: not used, hence not looked at
    starts = [2, 7]
    ops.rotary_qkv_cache(
        *case.arguments(), keys, values, paddle.to_tensor(starts, dtype="int32"), block_table=paddle.to_tensor(table)
    )
    for cache, written in zip((keys, values), exact(case.qkv, case.bias, 2, case.positions)[1:]):
        target = np.full([6, 2, 4, 8], 7.0)
        for row, start in enumerate(starts):
            for t in range(5):
                block, offset = divmod(start + t, 4)
                target[table[row, block], :, offset] = written[row, :, t]
        np.testing.assert_allclose(cache.numpy(), target, rtol=0, atol=2e-5)


def test_parameters_that_want_gradients_do_not_hinder_the_cache(any_backend):
    case = Case(1, 2, 2, 8)
    qkv, bias = (paddle.to_tensor(array, stop_gradient=False) for array in (case.qkv, case.bias))
    keys, values = make_caches([1, 2, 4, 8])
    query = ops.rotary_qkv_cache(*case.arguments(qkv=qkv, bias=bias), keys, values, paddle.zeros([1], dtype="int32"))
    assert query.stop_gradient and keys.stop_gradient and values.stop_gradient
    assert_close([query, keys[:, :, :2]], exact(case.qkv, case.bias, 2, case.positions)[:2])


INT = "int32"
WRONG_INPUTS = [
    ({"qkv": np.zeros([2, 3 * 16], np.float32)}, "qkv must be"),
    ({"qkv": np.zeros([2, 3, 3 * 15], np.float32)}, "the last axis of qkv"),
    ({"bias": np.zeros([16], np.float32)}, "bias has shape"),
    ({"bias": np.zeros([48], np.float64)}, "bias has another dtype"),
    ({"cos": paddle.zeros([1, 64, 6])}, "cos must be"),
    ({"sin": paddle.zeros([1, 63, 8])}, "sin has shape"),
    ({"sin": paddle.zeros([1, 64, 8], dtype="float64")}, "sin must be float32"),
    ({"positions": np.zeros([3, 2], np.int32)}, "positions has shape"),
    ({"positions": np.zeros([2, 3], np.int64)}, "positions must be int32"),
]


@pytest.mark.parametrize("changes, message", WRONG_INPUTS)
def test_wrong_shapes_and_dtypes_are_refused(fused, changes, message):
    with pytest.raises(OperatorError, match=f"rotary_qkv: {message}"):
        ops.rotary_qkv(*Case(2, 3, 2, 8).arguments(**changes))


@pytest.mark.parametrize("position", [-1, 64])
def test_positions_outside_of_the_tables_are_refused(any_backend, position):
    case = Case(2, 3, 2, 8)
    case.positions[1, 2] = position
    with pytest.raises(OperatorError, match=f"positions has {position}, expected 0 to 63"):
        ops.rotary_qkv(*case.arguments())


@pytest.mark.parametrize("index", [-1, 1])
def test_tables_that_are_not_there_are_refused(any_backend, index):
    case = Case(2, 3, 2, 8)
    with pytest.raises(OperatorError, match=f"table_index has {index}, expected 0 to 0"):
        ops.rotary_qkv(*case.arguments(), table_index=paddle.to_tensor([0, index], dtype=INT))


@pytest.mark.parametrize("slot", [-1, 8])
def test_slots_outside_of_the_cache_are_refused_and_nothing_is_written(any_backend, slot):
    keys, values = make_caches([2, 2, 10, 8])
    with pytest.raises(OperatorError, match=f"row 1 writes slots {slot} to {slot + 2}, the cache holds 10"):
        slots = paddle.to_tensor([0, slot], dtype=INT)
        ops.rotary_qkv_cache(*Case(2, 3, 2, 8).arguments(), keys, values, slots)
    assert (keys.numpy() == 7).all() and (values.numpy() == 7).all()


@pytest.mark.parametrize("block", [-1, 6])
def test_blocks_that_are_not_there_are_refused(any_backend, block):
    keys, values = make_caches([6, 2, 4, 8])
    table = paddle.to_tensor([[0, 1], [2, block]], dtype=INT)
    with pytest.raises(OperatorError, match=f"block_table has {block}, expected 0 to 5"):
        slots = paddle.to_tensor([0, 3], dtype=INT)
        ops.rotary_qkv_cache(*Case(2, 3, 2, 8).arguments(), keys, values, slots, block_table=table)


@pytest.mark.parametrize(
    "shape, dtype, message",
    [
        ([2, 2, 10], "float32", "key_cache must be"),
        ([2, 3, 10, 8], "float32", "key_cache must be"),
        ([3, 2, 10, 8], "float32", "key_cache has 3 rows, expected 2"),
        ([2, 2, 10, 8], "float64", "key_cache must have the dtype of qkv, or be bfloat16"),
    ],
)
def test_caches_that_do_not_fit_are_refused(fused, shape, dtype, message):
    keys, values = make_caches(shape, dtype)
    with pytest.raises(OperatorError, match=f"rotary_qkv: {message}"):
        ops.rotary_qkv_cache(*Case(2, 3, 2, 8).arguments(), keys, values, paddle.zeros([2], dtype=INT))


def test_caches_that_are_no_plain_arrays_are_refused(fused):
    keys, values = make_caches([2, 10, 2, 8])
    with pytest.raises(OperatorError, match="caches must be contiguous"):
        slots = paddle.zeros([2], dtype=INT)
        ops.rotary_qkv_cache(
            *Case(2, 3, 2, 8).arguments(), keys.transpose([0, 2, 1, 3]), values.transpose([0, 2, 1, 3]), slots
        )


def test_index_tensors_of_the_cache_are_checked(fused):
    case = Case(2, 3, 2, 8)
    good = paddle.zeros([2], dtype=INT)
    for slots, options, message in (
        (paddle.zeros([3], dtype=INT), {}, "slots has shape"),
        (paddle.zeros([2], dtype="int64"), {}, "slots must be int32"),
        (good, {"lengths": paddle.zeros([1], dtype=INT)}, "lengths has shape"),
        (good, {"block_table": good}, "block_table must be"),
        (good, {"logn": paddle.ones([3])}, "logn has shape"),
        (good, {"table_index": paddle.zeros([1], dtype=INT)}, "table_index has shape"),
    ):
        with pytest.raises(OperatorError, match=f"rotary_qkv: {message}"):
            ops.rotary_qkv_cache(*case.arguments(), *make_caches([2, 2, 10, 8]), slots, **options)
