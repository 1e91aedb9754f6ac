from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from paddlemix.checkpoint import dtypes
from paddlemix.errors import ConfigurationError

FLOATS = arrays(np.float32, st.integers(1, 30), elements=st.floats(width=32))


def bits(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=ml_dtypes.bfloat16).view(np.uint16)


@given(FLOATS)
def test_bfloat16_is_rounded_to_nearest_even(values: np.ndarray) -> None:
    ours = dtypes.cast(values, "float32", "bfloat16")
    number = ~np.isnan(values)
    np.testing.assert_array_equal(ours[number], bits(values)[number])
    assert np.isnan(dtypes.to_float32(ours, "bfloat16")[~number]).all()


def test_every_bfloat16_survives_float32_and_back() -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    back = dtypes.from_float32(dtypes.to_float32(every, "bfloat16"), "bfloat16")
    nan = np.isnan(dtypes.to_float32(every, "bfloat16"))
    np.testing.assert_array_equal(back[~nan], every[~nan])
    assert np.isnan(dtypes.to_float32(back[nan], "bfloat16")).all()


@pytest.mark.parametrize("dtype", dtypes.FLOATING)
def test_non_finite_values_are_counted(dtype: str) -> None:
    values = np.array([0.0, 1.5, np.nan, -np.inf, np.inf, 60000.0], np.float32)
    stored = bits(values) if dtype == "bfloat16" else values.astype(dtype)
    assert dtypes.count_non_finite(stored, dtype) == 3


def test_values_too_large_for_float16_become_infinite() -> None:
    result = dtypes.cast(bits(np.array([1e5, 1.0], np.float32)), "bfloat16", "float16")
    np.testing.assert_array_equal(result, np.array([np.inf, 1.0], np.float16))


def test_integers_are_left_alone() -> None:
    values = np.array([1, 2], np.int32)
    assert dtypes.cast(values, "int32", "bfloat16") is values


def test_unknown_target_is_named() -> None:
    with pytest.raises(ConfigurationError, match="dtype: got 'int4', expected one of bfloat16, float16, float32"):
        dtypes.check_target("int4")
