"""The emulated device itself: its 16-bit floats are exact, and it tells of the mistakes it can see."""

import ctypes
import shutil

import numpy as np
import pytest

from tests.ops.cuda.emulation import BFLOAT16, FLOAT16, SANITIZE, Launchers, emulation_only, load_build_module

pytestmark = emulation_only

SOURCE = """
#include "common.cuh"
using namespace paddlemix;

template <typename T>
__global__ void round_trip(const T* x, T* y, float* widened, const float* wide, T* rounded, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  widened[i] = to_float(x[i]);
  y[i] = from_float<T>(widened[i]);
  rounded[i] = from_float<T>(wide[i]);
}
extern "C" int paddlemix_cuda_round_trip(int dtype, const void* x, void* y, float* widened, const float* wide,
                                         void* rounded, int64_t count, void* stream) {
  return dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    PADDLEMIX_LAUNCH(round_trip<T>, ceil_div<int64_t>(count, 256), 256, 0, stream, static_cast<const T*>(x),
                     static_cast<T*>(y), widened, wide, static_cast<T*>(rounded), static_cast<int>(count));
  });
}

__global__ void sums(const float* x, float* y) { y[threadIdx.x] = block_sum(x[threadIdx.x]) + block_sum(1.f); }
extern "C" int paddlemix_cuda_sums(int dtype, const float* x, float* y, int64_t threads, void* stream) {
  return dispatch(dtype, [&](auto) { PADDLEMIX_LAUNCH(sums, 1, static_cast<int>(threads), 0, stream, x, y); });
}

// Each thread reads what its neighbor in the next warp wrote, without waiting for it.
__global__ void race(float* y) {
  PADDLEMIX_DYNAMIC_SHARED(float, values);
  values[threadIdx.x] = 1.f;
  y[threadIdx.x] = values[(threadIdx.x + 32) % 64];
}
extern "C" int paddlemix_cuda_race(int dtype, float* y, void* stream) {
  return dispatch(dtype, [&](auto) { PADDLEMIX_LAUNCH(race, 1, 64, 64 * sizeof(float), stream, y); });
}

__global__ void divergent_barrier() {
  if (threadIdx.x < 32) __syncthreads();
}
extern "C" int paddlemix_cuda_divergent_barrier(int dtype, void* stream) {
  return dispatch(dtype, [&](auto) { PADDLEMIX_LAUNCH(divergent_barrier, 1, 64, 0, stream); });
}

__global__ void nothing() {}
extern "C" int paddlemix_cuda_nothing(int dtype, int64_t rows, int64_t threads, void* stream) {
  return dispatch(dtype, [&](auto) {
    PADDLEMIX_LAUNCH(nothing, dim3(1, static_cast<unsigned>(rows)), static_cast<int>(threads), 0, stream);
  });
}
"""


@pytest.fixture(scope="module")
def launchers(tmp_path_factory) -> Launchers:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    source = tmp_path_factory.mktemp("emulation") / "probe.cu"
    source.write_text(SOURCE)
    return Launchers(ctypes.CDLL(str(load_build_module().compile_kernel(source, SANITIZE))))


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=lambda dtype: dtype.name)
def test_every_16_bit_float_is_exact_and_rounding_is_to_nearest_even(launchers, arrays, random, dtype):
    every = np.arange(65536, dtype=np.uint16).view(dtype.storage)
    # Random bits over the dtype's whole range, its ends, and numbers halfway between two neighbors.
    wide = (random.integers(0, 2**32, 65536, dtype=np.uint32)).view(np.float32)
    small = random.normal(size=32768).astype(np.float32) * np.exp2(random.integers(-26, 17, 32768)).astype(np.float32)
    wide[:32768] = small
    wide[:8] = [65519, 65520, 65536, 2**-25, 2**-24 * 1.5, 2**-25 * 1.0001, np.inf, -0.0]
    finite = np.sort(dtype.decode(every)[np.isfinite(dtype.decode(every))])
    halves = ((finite[1:] + finite[:-1]) / 2).astype(np.float32)
    wide[8:16392] = random.choice(halves, 16384)

    back, rounded = arrays.empty(65536, dtype.storage), arrays.empty(65536, dtype.storage)
    widened = arrays.empty(65536, np.float32)
    launchers.launch("round_trip", dtype.code, arrays.place(every), back, widened, arrays.place(wide), rounded, 65536)
    with np.errstate(invalid="ignore"):  # signalling NaN
        np.testing.assert_array_equal(widened.astype(np.float64), dtype.decode(every))
    np.testing.assert_array_equal(dtype.decode(back), dtype.decode(every))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(dtype.decode(rounded), dtype.decode(dtype.encode(wide)))


@pytest.mark.parametrize("threads", [32, 64, 1024])
@pytest.mark.parametrize("descending", [False, True])
def test_block_sum_reaches_every_thread(launchers, arrays, threads, descending):
    launchers.set_descending(descending)
    result = arrays.empty(threads, np.float32)
    launchers.launch("sums", 0, arrays.place(np.arange(threads, dtype=np.float32)), result, threads)
    np.testing.assert_array_equal(result, threads * (threads - 1) / 2 + threads)


def test_missing_barrier_shows_as_not_a_number(launchers, arrays):
    launchers.set_descending(False)
    result = arrays.empty(64, np.float32)
    launchers.launch("race", 0, result)
    assert np.isnan(result[:32]).all()


def test_barrier_that_some_threads_never_reach_is_an_error(launchers):
    with pytest.raises(AssertionError, match="719"):
        launchers.launch("divergent_barrier", 0)
    launchers.launch("nothing", 0, 1, 64)


@pytest.mark.parametrize(("rows", "threads"), [(65536, 32), (0, 32), (1, 1025)])
def test_impossible_launch_is_an_error(launchers, rows, threads):
    with pytest.raises(AssertionError, match="CUDA error 9"):
        launchers.launch("nothing", 0, rows, threads)
