"""Fixtures of the CUDA kernels' tests on the CPU; emulation.py says how they run and what that proves."""

import shutil

import numpy as np
import pytest

from tests.ops.cuda.emulation import BFLOAT16, FLOAT16, FLOAT32, Arrays, DType, Launchers, load_library


@pytest.fixture
def arrays():
    made = Arrays()
    yield made
    made.check_margins()
    made.free()


@pytest.fixture
def emulated(request):
    """``emulated(name)``: the launchers of external_ops/cuda/name.cu.

    Blocks and threads run from the last to the first in the tests of float16, else from the first to the last, so that
    each test with dtypes sees both orders.
    """
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    descending = "dtype" in request.fixturenames and request.getfixturevalue("dtype") is FLOAT16

    def load(name: str) -> Launchers:
        launchers = Launchers(load_library(name))
        launchers.set_descending(descending)
        return launchers

    return load


@pytest.fixture(params=[FLOAT32, FLOAT16, BFLOAT16], ids=lambda dtype: dtype.name)
def dtype(request) -> DType:
    return request.param


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(20240607)
