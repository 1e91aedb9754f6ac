// The last step of the products of few rows: the warps' partial sums are added, with the bias, and written.
#pragma once

#include "common.cuh"

namespace paddlemix {

// out [rows, out_features] = sums + bias (NULL: none), rounded to T.
template <typename T>
struct Output {
  const T* bias;
  T* out;
  int rows, out_features;
};

// Whether the offsets of x's elements are ints, which the kernels by matrix instructions take.
inline bool rows_fit(int64_t rows, int64_t x_stride) { return rows * x_stride < (int64_t{1} << 31); }

__device__ __forceinline__ float silu(float x) { return x / (1.f + expf(-x)); }

// Inputs [first, first + N) of a row of x (NULL: no such row); zeros beyond in_features. packed: they can be read at
// once.
template <int N, typename T>
__device__ __forceinline__ Pack<T, N> inputs_of(const T* row, int first, int in_features, bool packed) {
  Pack<T, N> inputs;
#pragma unroll
  for (int i = 0; i < N; ++i) inputs.values[i] = from_float<T>(0.f);
  if (row == nullptr) return inputs;
  if (packed) {
    if (first < in_features) inputs = load_pack<N>(row + first);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (first + i < in_features) inputs.values[i] = row[first + i];
    }
  }
  return inputs;
}

// partial [warps of the block][rows][outputs of the block], of the rows from first_row on. The warps' shares are added in
// the order of the warps, so that the result is always the same. kGated: the block's first half of outputs is the gate of
// the second, and silu(gate) * up is written.
template <bool kGated = false, int kRows, int kOutputs, typename T>
__device__ __forceinline__ void write_sums(const Output<T>& to, const float (*partial)[kRows][kOutputs],
                                           int first_row = 0) {
  constexpr int kWritten = kGated ? kOutputs / 2 : kOutputs;
  __syncthreads();
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int rows = min(to.rows - first_row, kRows);
  const auto sum_of = [&](float sum, int row, int output) {
#pragma unroll 4
    for (int warp = 0; warp < warps; ++warp) sum += partial[warp][row][output];
    return sum;
  };
  for (int i = static_cast<int>(threadIdx.x); i < rows * kWritten; i += static_cast<int>(blockDim.x)) {
    const int row = i / kWritten;
    const int64_t output = static_cast<int64_t>(blockIdx.x) * kWritten + i % kWritten;
    if (output >= to.out_features) continue;
    float value = sum_of(to.bias == nullptr ? 0.f : to_float(to.bias[output]), row, i % kWritten);
    if constexpr (kGated) value = silu(value) * sum_of(0.f, row, kWritten + i % kWritten);
    to.out[(first_row + row) * static_cast<int64_t>(to.out_features) + output] = from_float<T>(value);
  }
}

}  // namespace paddlemix
