// Products of few rows with weights in tiles, by plain float32 multiplications: for float32 activations, for 16-bit
// weights of another type than the activations, and for GPUs before sm_80.
#pragma once

#include "linear_matrix.cuh"

namespace paddlemix {

constexpr int kLaneWarps = 8;  // the most in a block; register use allows no more

// Whether launches take this kernel for these types on the architecture that is being compiled for.
template <typename T, typename Format>
constexpr bool kLanesUsed =
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    !Format::template kExact<T>;
#else
    true;
#endif

// A block takes one tile, its warps every warps-th chunk; lane 4l + c reads the lines l and l + 8 of a chunk: the words
// of the outputs 4c … 4c + 3. Rows: 1, 2, 4 or 8, those beyond the output's being zeros.
template <typename T, typename Format, int kRows>
__global__ void __launch_bounds__(kLaneWarps* kWarp, 1) few_rows_by_lanes(const Product<T, Format> p) {
  if constexpr (kLanesUsed<T, Format>) {
    constexpr int kInputs = Format::kInputs;
    constexpr int kLoads = kChunkLines / 8;
    alignas(16) __shared__ float partial[kLaneWarps][kRows][kTile];
    const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
    const int warps = static_cast<int>(blockDim.x) / kWarp;
    const int output = 4 * (lane % 4);
    const int64_t tile = blockIdx.x;
    const uint4* weight = p.weight.words + tile * p.chunks * kChunkVectors + lane;

    float sums[kRows][4] = {};
    uint4 next_words[kLoads] = {};
    const auto fetch = [&](int chunk) {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        next_words[i] = __ldcs(weight + static_cast<int64_t>(chunk) * kChunkVectors + i * kWarp);
      }
    };
    if (warp < p.chunks) fetch(warp);
    for (int chunk = warp; chunk < p.chunks; chunk += warps) {
      uint4 words[kLoads];
#pragma unroll
      for (int i = 0; i < kLoads; ++i) words[i] = next_words[i];
      if (chunk + warps < p.chunks) fetch(chunk + warps);
      const float4 scale = Format::widen(p.weight.format.scales_of(tile, chunk, output));
      const float scales[4] = {scale.x, scale.y, scale.z, scale.w};
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int first = (chunk * kChunkLines + i * 8 + lane / 4) * kInputs;
        float w[4][kInputs];
#pragma unroll
        for (int j = 0; j < 4; ++j) Format::floats(word_of(words[i], j), w[j]);
#pragma unroll
        for (int row = 0; row < kRows; ++row) {
          const T* address = row < p.output.rows ? p.x + row * p.x_stride : nullptr;
          float x[kInputs];
          unpack(inputs_of<kInputs>(address, first, p.in_features, p.x_packed), x);
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            float dot = 0.f;
#pragma unroll
            for (int k = 0; k < kInputs; ++k) dot = fmaf(x[k], w[j][k], dot);
            sums[row][j] = fmaf(dot, scales[j], sums[row][j]);
          }
        }
      }
    }
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float sum = sums[row][j];
#pragma unroll
        for (int distance = 4; distance < kWarp; distance *= 2) sum += __shfl_xor_sync(kAllLanes, sum, distance);
        if (lane < 4) partial[warp][row][output + j] = sum;
      }
    }
    write_sums(p.output, partial);
  }
}

}  // namespace paddlemix
