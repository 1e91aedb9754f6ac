// Products of one to eight rows with weights in tiles.
//
// They are bound by reading the weights. To keep the memory busy, latency * bandwidth bytes must be under way: about
// 0.6 us * 2.0 TB/s = 1.2 MB on an A100 (11 KB per multiprocessor), 0.7 us * 4.8 TB/s = 3.4 MB on an H200 (25 KB). A
// warp reads its next chunk of two tiles, 2 KB, before it computes with this one: 13 warps per multiprocessor
// suffice, and the launch bounds let at least 16 be resident.
#pragma once

#include "weight_tiles.cuh"

namespace paddlemix {

constexpr int kFewRows = PADDLEMIX_CUDA_FEW_ROWS;
constexpr int kMatrixWarps = 16, kLaneWarps = 8;  // the most in a block of each kernel; register use allows no more

// What the kernels are given. x_packed: the inputs of every word lie in x side by side, aligned and not cut off by
// in_features, and can be read at once.
template <typename T, typename Format>
struct Product {
  const T* x;
  int64_t x_stride;
  const uint4* weight;
  Format format;
  const T* bias;
  T* out;
  int rows, in_features, out_features;
  int tiles, chunks;
  bool x_packed;
};

// Inputs [first, first + N) of a row of x (NULL: no such row); zeros beyond in_features.
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

// The warps' shares of the block's outputs, added in the order of the warps (so that the result is always the same),
// with the bias, to out.
template <int outputs, int rows, typename T, typename Format>
__device__ __forceinline__ void write_sums(const Product<T, Format>& p, const float (*partial)[rows][outputs]) {
  __syncthreads();
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  for (int i = static_cast<int>(threadIdx.x); i < p.rows * outputs; i += static_cast<int>(blockDim.x)) {
    const int row = i / outputs;
    const int64_t output = static_cast<int64_t>(blockIdx.x) * outputs + i % outputs;
    if (output >= p.out_features) continue;
    float sum = p.bias == nullptr ? 0.f : to_float(p.bias[output]);
    for (int warp = 0; warp < warps; ++warp) sum += partial[warp][row][i % outputs];
    p.out[row * static_cast<int64_t>(p.out_features) + output] = from_float<T>(sum);
  }
}

// c += A B for a 16x16 A, a 16x8 B and a 16x8 C spread over a warp: lane 4g + t holds, in words of two, the inputs 2t
// and 2t + 8 of rows g (a0, a2) and g + 8 (a1, a3) of A and of column g of B (b0, b1), and the columns 2t, 2t + 1 of
// rows g and g + 8 of C. Products are exact, sums in float32.
template <typename T>
__device__ __forceinline__ void multiply_accumulate(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                                    uint32_t b0, uint32_t b1) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<T, __half>) {
    asm(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  } else {
    asm(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
#else
  // The same with shuffles: for the emulation on the CPU. Older GPUs are given the other kernel.
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const uint64_t low = a0 | static_cast<uint64_t>(a1) << 32, high = a2 | static_cast<uint64_t>(a3) << 32;
  const uint64_t column = b0 | static_cast<uint64_t>(b1) << 32;
  const auto from = [](uint64_t words, int source, float (&values)[4]) {
    unpack(bits_as<Pack<T, 4>>(__shfl_sync(kAllLanes, static_cast<unsigned long long>(words), source)), values);
  };
  for (int t = 0; t < 4; ++t) {
    float rows_low[4], rows_high[4];  // two inputs of row g, two of row g + 8
    from(low, lane / 4 * 4 + t, rows_low);
    from(high, lane / 4 * 4 + t, rows_high);
    for (int i = 0; i < 2; ++i) {
      float inputs[4];
      from(column, (lane % 4 * 2 + i) * 4 + t, inputs);
      for (int k = 0; k < 2; ++k) {
        c[i] += rows_low[k] * inputs[k] + rows_high[k] * inputs[2 + k];
        c[2 + i] += rows_low[2 + k] * inputs[k] + rows_high[2 + k] * inputs[2 + k];
      }
    }
  }
#endif
}

// With matrix instructions: x and the weights as T exactly (a stored integer fits in T). A block takes two tiles, its
// warps every warps-th chunk. Lane 4g + t reads the lines t, t + 4 … of a chunk of tile g / 4: the words of the outputs
// 4 (g % 4) … + 3. Two of these are the rows g and g + 8 of one matrix instruction, the other two of a second one; the
// words' pairs are its inputs, and column n is row n of x, so that one to eight rows cost the same. Unpacking int4 into
// float32 for plain multiplications would take 100 instructions per 16 bytes and already bound one row on an H200.
template <typename T, typename Format, bool kXPacked>
__global__ void __launch_bounds__(kMatrixWarps * kWarp) few_rows_by_matrix(const Product<T, Format> p) {
  constexpr int kPairs = Format::kInputs / 2;
  constexpr int kLoads = kChunkLines / 4;
  constexpr int kSteps = kPairs == 1 ? 2 : 1;  // lines that fill the 16 inputs of an instruction
  alignas(16) __shared__ float partial[kMatrixWarps][kFewRows][2 * kTile];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int g = lane / 4, t = lane % 4;
  const int output = 4 * (g % 4);
  // The last block of an odd number of tiles reads its only one twice.
  const int64_t tile = min(static_cast<int>(blockIdx.x) * 2 + g / 4, p.tiles - 1);
  const uint4* weight = p.weight + tile * p.chunks * kChunkVectors + t * kLineVectors + g % 4;
  const T* row = g < p.rows ? p.x + g * p.x_stride : nullptr;

  uint4 next_words[kLoads] = {};
  Pack<T, Format::kInputs> next_x[kLoads] = {};
  float4 next_scale = {};
  const auto fetch = [&](int chunk) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      next_words[i] = __ldcs(weight + static_cast<int64_t>(chunk) * kChunkVectors + i * 4 * kLineVectors);
    }
    if constexpr (Format::kScaled) next_scale = p.format.scales_of(tile, chunk, output);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int line = chunk * kChunkLines + i * 4 + t;
      next_x[i] = inputs_of<Format::kInputs>(row, line * Format::kInputs, p.in_features, kXPacked);
    }
  };

  float total[2][4] = {};
  if (warp < p.chunks) fetch(warp);
  for (int chunk = warp; chunk < p.chunks; chunk += warps) {
    uint4 words[kLoads];
    uint32_t x[kLoads][kPairs];
    const float4 scale = next_scale;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      words[i] = next_words[i];
      memcpy(x[i], &next_x[i], sizeof(x[i]));
      Format::arrange(x[i]);
    }
    if (chunk + warps < p.chunks) fetch(chunk + warps);

    float c[2][4] = {};
#pragma unroll
    for (int i = 0; i < kLoads; i += kSteps) {
      uint32_t a[4][kSteps * kPairs];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          Format::template pairs<T>(word_of(words[i + step], j), &a[j][step * kPairs]);
        }
      }
#pragma unroll
      for (int k = 0; k < kSteps * kPairs; k += 2) {
        const uint32_t b0 = x[i + k / kPairs][k % kPairs], b1 = x[i + (k + 1) / kPairs][(k + 1) % kPairs];
        multiply_accumulate<T>(c[0], a[0][k], a[1][k], a[0][k + 1], a[1][k + 1], b0, b1);
        multiply_accumulate<T>(c[1], a[2][k], a[3][k], a[2][k + 1], a[3][k + 1], b0, b1);
      }
    }
    const float scales[4] = {scale.x, scale.y, scale.z, scale.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float& sum = total[i / 4][i % 4];
      sum = Format::kScaled ? fmaf(c[i / 4][i % 4], scales[i / 2], sum) : sum + c[i / 4][i % 4];
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    *reinterpret_cast<float4*>(&partial[warp][2 * t + i][4 * g]) =
        make_float4(total[0][i], total[0][2 + i], total[1][i], total[1][2 + i]);
  }
  write_sums<2 * kTile, kFewRows>(p, partial);
}

// With plain float32 multiplications, for all types and GPUs. A block takes one tile, its warps every warps-th chunk;
// lane 4l + c reads the lines l and l + 8 of a chunk: the words of the outputs 4c … 4c + 3. Rows: 1, 2, 4 or 8, those
// beyond p.rows being zeros.
template <typename T, typename Format, int kRows>
__global__ void __launch_bounds__(kLaneWarps * kWarp) few_rows_by_lanes(const Product<T, Format> p) {
  constexpr int kInputs = Format::kInputs;
  constexpr int kLoads = kChunkLines / 8;
  alignas(16) __shared__ float partial[kLaneWarps][kRows][kTile];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int output = 4 * (lane % 4);
  const int64_t tile = blockIdx.x;
  const uint4* weight = p.weight + tile * p.chunks * kChunkVectors + lane;

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
    const float4 scale = p.format.scales_of(tile, chunk, output);
    const float scales[4] = {scale.x, scale.y, scale.z, scale.w};
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int first = (chunk * kChunkLines + i * 8 + lane / 4) * kInputs;
      float w[4][kInputs];
#pragma unroll
      for (int j = 0; j < 4; ++j) Format::floats(word_of(words[i], j), w[j]);
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        const T* address = row < p.rows ? p.x + row * p.x_stride : nullptr;
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
  write_sums<kTile, kRows>(p, partial);
}

// The warps of a block: as many as let all blocks be resident at once (16 warps per multiprocessor, see above), within
// `most`, at least 4, and none without a chunk.
inline int warps_of(int blocks, int chunks, int most, int multiprocessors) {
  int warps = most;
  while (warps > 4 && blocks * static_cast<int64_t>(warps) > multiprocessors * 16) warps /= 2;
  while (warps > 1 && warps / 2 >= chunks) warps /= 2;
  return warps;
}

template <typename T, typename Format>
void launch_few_rows(const Product<T, Format>& p, void* stream) {
  int device = 0, multiprocessors = 0, capability = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(&capability, cudaDevAttrComputeCapabilityMajor, device);
  if constexpr (Format::template kExact<T>) {
    if (capability >= 8) {
      const int blocks = ceil_div(p.tiles, 2);
      const int warps = warps_of(blocks, p.chunks, kMatrixWarps, multiprocessors);
      if (p.x_packed) {
        PADDLEMIX_LAUNCH((few_rows_by_matrix<T, Format, true>), blocks, warps * kWarp, 0, stream, p);
      } else {
        PADDLEMIX_LAUNCH((few_rows_by_matrix<T, Format, false>), blocks, warps * kWarp, 0, stream, p);
      }
      return;
    }
  }
  const int blocks = p.tiles;
  const int warps = warps_of(blocks, p.chunks, kLaneWarps, multiprocessors);
  if (p.rows == 1) {
    PADDLEMIX_LAUNCH((few_rows_by_lanes<T, Format, 1>), blocks, warps * kWarp, 0, stream, p);
  } else if (p.rows == 2) {
    PADDLEMIX_LAUNCH((few_rows_by_lanes<T, Format, 2>), blocks, warps * kWarp, 0, stream, p);
  } else if (p.rows <= 4) {
    PADDLEMIX_LAUNCH((few_rows_by_lanes<T, Format, 4>), blocks, warps * kWarp, 0, stream, p);
  } else {
    PADDLEMIX_LAUNCH((few_rows_by_lanes<T, Format, 8>), blocks, warps * kWarp, 0, stream, p);
  }
}

template <typename Format>
int linear_few_rows(int dtype, const void* x, int64_t x_stride, const void* weight, Format format, const void* bias,
                    void* out, int64_t rows, int64_t in_features, int64_t out_features,
                    void* stream) {
  if (rows == 0 || out_features == 0) return 0;
  if (rows > kFewRows || !aligned16({weight}, {})) return static_cast<int>(cudaErrorInvalidValue);
  return dispatch(dtype, [&](auto element) {
    using T = decltype(element);
    constexpr int kInputs = Format::kInputs;
    const bool x_packed = reinterpret_cast<uintptr_t>(x) % (kInputs * sizeof(T)) == 0 && x_stride % kInputs == 0 &&
                          in_features % kInputs == 0;
    const Product<T, Format> product = {static_cast<const T*>(x),
                                        x_stride,
                                        static_cast<const uint4*>(weight),
                                        format,
                                        static_cast<const T*>(bias),
                                        static_cast<T*>(out),
                                        static_cast<int>(rows),
                                        static_cast<int>(in_features),
                                        static_cast<int>(out_features),
                                        static_cast<int>(ceil_div<int64_t>(out_features, kTile)),
                                        chunks_of<Format>(in_features),
                                        x_packed};
    launch_few_rows(product, stream);
  });
}

}  // namespace paddlemix
