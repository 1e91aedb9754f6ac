// Products of few rows with weights in tiles, by matrix instructions.
//
// They are bound by reading the weights. To keep the memory busy, latency * bandwidth bytes must be under way: about
// 0.6 us * 2.0 TB/s = 1.2 MB on an A100 (11 KB per multiprocessor), 0.7 us * 4.8 TB/s = 3.4 MB on an H200 (25 KB). A
// warp reads its next chunk of two tiles, 2 KB, before it computes with this one: 13 warps per multiprocessor suffice.
#pragma once

#include "linear_output.cuh"
#include "weight_tiles.cuh"

namespace paddlemix {

// The kernels by matrix instructions are empty where there are none; device.cuh tells launches.
#if defined(PADDLEMIX_EMULATION) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800)
#define PADDLEMIX_MATRIX_CODE
#endif

constexpr int kRowTile = 8;  // rows of x that one matrix instruction takes

// Warps of a block at most: the registers of more rows than a row tile allow no more.
template <int kRowTiles>
constexpr int kMatrixWarps = kRowTiles == 1 ? 16 : 8;

// A packed weight.
template <typename Format>
struct Tiles {
  const uint4* words;
  Format format;
};

// What the kernels are given. x_packed: the inputs of every word lie in x side by side, aligned and not cut off by
// in_features, and can be read at once. `up` counts for gated products alone.
template <typename T, typename Format>
struct Product {
  const T* x;
  int64_t x_stride;
  Tiles<Format> weight, up;
  Output<T> output;
  int in_features;
  int tiles, chunks;
  bool x_packed;
};

// c += A B for a 16x16 A, a 16x8 B and a 16x8 C spread over a warp: lane 4g + t holds, in words of two, the inputs 2t
// and 2t + 8 of rows g (a0, a2) and g + 8 (a1, a3) of A and of column g of B (b0, b1), and the columns 2t, 2t + 1 of
// rows g and g + 8 of C. Products are exact, sums in float32.
template <typename T>
__device__ __forceinline__ void multiply_accumulate(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                                    uint32_t b0, uint32_t b1) {
#ifdef PADDLEMIX_EMULATION
  // The same with shuffles.
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
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<T, __half>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
#endif
}

// One word of x: inputs [first, first + N) of the row that begins at `row`, zeros beyond in_features. Nothing is done
// with what was loaded, so that a load for later does not wait.
template <int N, bool kPacked, typename T>
__device__ __forceinline__ Word<N * sizeof(T)> word_of_inputs(const T* x, int row, int first, int in_features) {
  Word<N * sizeof(T)> word = {};
  if constexpr (kPacked) {
    if (first < in_features) word = *reinterpret_cast<const Word<N * sizeof(T)>*>(x + (row + first));
  } else {
    word = bits_as<Word<N * sizeof(T)>>(inputs_of<N>(x + row, first, in_features, false));
  }
  return word;
}

// How a warp multiplies a chunk of two tiles with a tile of eight rows of x, by matrix instructions: T must hold every
// stored weight exactly. Lane 4g + t reads the lines t, t + 4 … of the chunk of tile g / 4: the words of the outputs
// 4 (g % 4) … + 3. Two of these are the rows g and g + 8 of one matrix instruction, the other two of a second one; the
// words' pairs are its inputs, and column n is row n of x, so that one to eight rows cost the same. Unpacking int4 into
// float32 for plain multiplications would take 100 instructions per 16 bytes and already bound one row on an H200.
template <typename T, typename Format, bool kXPacked>
struct Warp {
  static constexpr int kPairs = Format::kInputs / 2;
  static constexpr int kLoads = kChunkLines / 4;
  using Inputs = Word<Format::kInputs * sizeof(T)>;

  // What is read of a chunk.
  struct Weights {
    uint4 words[kLoads];
    typename Format::RawScales scales;
  };

  const Product<T, Format>& p;
  const uint4* words;
  Format format;
  int64_t tile;
  int g, t;

  // The tile is this lane's.
  __device__ __forceinline__ Warp(const Product<T, Format>& product, const Tiles<Format>& weight, int64_t tile,
                                  int lane)
      : p(product),
        words(weight.words + tile * product.chunks * kChunkVectors + lane % 4 * kLineVectors + lane / 4 % 4),
        format(weight.format),
        tile(tile),
        g(lane / 4),
        t(lane % 4) {}

  __device__ __forceinline__ void fetch(Weights& to, int chunk) const {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      to.words[i] = __ldcs(words + static_cast<int64_t>(chunk) * kChunkVectors + i * 4 * kLineVectors);
    }
    to.scales = format.scales_of(tile, chunk, 4 * (g % 4));
  }

  // Where this lane's row of a row tile begins. Rows beyond the last are that one again: a column of a matrix product
  // depends on no other.
  __device__ __forceinline__ int row_of(int row_tile) const {
    return min(row_tile * kRowTile + g, p.output.rows - 1) * static_cast<int>(p.x_stride);
  }

  // The inputs that meet the words [begin, begin + N) of a chunk.
  template <int N>
  __device__ __forceinline__ void fetch_x(Inputs (&x)[N], int chunk, int row, int begin = 0) const {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int line = chunk * kChunkLines + (begin + i) * 4 + t;
      x[i] = word_of_inputs<Format::kInputs, kXPacked>(p.x, row, line * Format::kInputs, p.in_features);
    }
  }

  template <int N>
  __device__ __forceinline__ static void unpack(uint32_t (&a)[4][N * kPairs], const Weights& from, int begin = 0) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) Format::template pairs<T>(word_of(from.words[begin + i], j), &a[j][i * kPairs]);
    }
  }

  template <int N>
  __device__ __forceinline__ static void multiply(float (&total)[8], const uint32_t (&a)[4][N * kPairs],
                                                  const Inputs (&inputs)[N], const typename Format::RawScales& raw) {
    uint32_t x[N * kPairs];
    memcpy(x, inputs, sizeof(x));
#pragma unroll
    for (int i = 0; i < N; ++i) Format::arrange(&x[i * kPairs]);
    float c[2][4] = {};
#pragma unroll
    for (int k = 0; k < N * kPairs; k += 2) {
      multiply_accumulate<T>(c[0], a[0][k], a[1][k], a[0][k + 1], a[1][k + 1], x[k], x[k + 1]);
      multiply_accumulate<T>(c[1], a[2][k], a[3][k], a[2][k + 1], a[3][k + 1], x[k], x[k + 1]);
    }
    const float4 scale = Format::widen(raw);
    const float scales[4] = {scale.x, scale.y, scale.z, scale.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      total[i] = Format::kScaled ? fmaf(c[i / 4][i % 4], scales[i / 2], total[i]) : total[i] + c[i / 4][i % 4];
    }
  }

  // The sums of a row tile to partial [rows][outputs of two tiles].
  __device__ __forceinline__ void store(float (&partial)[kRowTile][2 * kTile], const float (&total)[8]) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      *reinterpret_cast<float4*>(&partial[2 * t + i][4 * g]) =
          make_float4(total[i], total[2 + i], total[4 + i], total[6 + i]);
    }
  }
};

// One to eight rows. A block takes two tiles, its warps every warps-th chunk. The last block of an odd number of tiles
// reads its only one twice. Gated: the two tiles are the same outputs of two weights, gate and up, and
// silu(gate) * up is written.
template <typename T, typename Format, bool kXPacked, bool kGated>
__global__ void __launch_bounds__(kMatrixWarps<1>* kWarp) few_rows_by_matrix(const Product<T, Format> p) {
#ifdef PADDLEMIX_MATRIX_CODE
  using This = Warp<T, Format, kXPacked>;
  alignas(16) __shared__ float partial[kMatrixWarps<1>][kRowTile][2 * kTile];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp, half = lane / (kWarp / 2);
  const int block = static_cast<int>(blockIdx.x);
  const This warp_of(p, kGated && half == 1 ? p.up : p.weight, kGated ? block : min(block * 2 + half, p.tiles - 1),
                     lane);
  const int row = warp_of.row_of(0);

  // Two of these take turns: to copy one into the other would wait for its loads.
  struct Fetched {
    typename This::Weights weights;
    typename This::Inputs x[This::kLoads];
  };
  const auto fetch = [&](Fetched& to, int chunk) {
    warp_of.fetch(to.weights, chunk);
    warp_of.fetch_x(to.x, chunk, row);
  };
  float total[8] = {};
  const auto multiply = [&](const Fetched& now, Fetched& next, int chunk) {
    if (chunk + warps < p.chunks) fetch(next, chunk + warps);
    uint32_t a[4][This::kLoads * This::kPairs];
    This::template unpack<This::kLoads>(a, now.weights);
    This::template multiply<This::kLoads>(total, a, now.x, now.weights.scales);
  };
  Fetched one = {}, other = {};
  if (warp < p.chunks) fetch(one, warp);
  for (int chunk = warp; chunk < p.chunks; chunk += 2 * warps) {
    multiply(one, other, chunk);
    if (chunk + warps < p.chunks) multiply(other, one, chunk + warps);
  }
  warp_of.store(partial[warp], total);
  write_sums<kGated>(p.output, partial);
#endif
}

// Up to 8 * kRowTiles rows that can be read word by word: a part of a chunk is unpacked once and meets each row tile.
// The launch bounds ask for one block per multiprocessor, because for sm_120 the assembler spills to fit in two; not for
// int4, for which it then moves so many loads ahead that it spills as well.
template <typename T, typename Format, int kRowTiles>
__global__ void __launch_bounds__(kMatrixWarps<kRowTiles>* kWarp, Format::kInputs == 8 ? 0 : 1)
    more_rows_by_matrix(const Product<T, Format> p) {
#ifdef PADDLEMIX_MATRIX_CODE
  using This = Warp<T, Format, true>;
  // A chunk of int4 makes 64 registers of pairs: too many beside the sums of several row tiles, but not half of it.
  constexpr int kParts = This::kPairs == 4 ? 2 : 1;
  constexpr int kPart = This::kLoads / kParts;
  alignas(16) __shared__ float partial[kMatrixWarps<kRowTiles>][kRowTile][2 * kTile];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const This warp_of(p, p.weight, min(static_cast<int>(blockIdx.x) * 2 + lane / (kWarp / 2), p.tiles - 1), lane);

  float total[kRowTiles][8] = {};
  typename This::Weights weights = {};
  if (warp < p.chunks) warp_of.fetch(weights, warp);
  for (int chunk = warp; chunk < p.chunks; chunk += warps) {
    const typename Format::RawScales scales = weights.scales;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      uint32_t a[4][kPart * This::kPairs];
      This::template unpack<kPart>(a, weights, part * kPart);
      if (part + 1 == kParts && chunk + warps < p.chunks) warp_of.fetch(weights, chunk + warps);
#pragma unroll
      for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
        typename This::Inputs x[kPart];
        warp_of.fetch_x(x, chunk, warp_of.row_of(row_tile), part * kPart);
        // The compiler would issue the loads of all row tiles at once and spill.
        if (kRowTiles == 8 || row_tile % 2 == 1) __syncwarp();
        This::template multiply<kPart>(total[row_tile], a, x, scales);
      }
    }
  }
#pragma unroll
  for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
    if (row_tile > 0) __syncthreads();  // the readers of the last tile are done
    warp_of.store(partial[warp], total[row_tile]);
    write_sums(p.output, partial, row_tile * kRowTile);
  }
#endif
}

}  // namespace paddlemix
