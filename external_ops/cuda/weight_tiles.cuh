// Weights in tiles (paddlemix_cpu.h, "linear layers"): their formats, and their way back to a matrix.
//
// Every format shares one image: a tile is 16 outputs; a line of 64 bytes holds a 32-bit word per output, a word 2,
// 4 or 8 consecutive inputs of it. 16 lines are a chunk of 1 KB, and the padding of in_features makes every tile
// whole chunks. A thread reads 16 bytes at once: 4 outputs of one line.
#pragma once

#include "common.cuh"

namespace paddlemix {

constexpr int kTile = 16;        // outputs of a tile
constexpr int kLineVectors = 4;  // 16-byte vectors of a line
constexpr int kChunkLines = 16;
constexpr int kChunkVectors = kChunkLines * kLineVectors;

__device__ __forceinline__ uint32_t word_of(const uint4& vector, int index) {
  return index == 0 ? vector.x : index == 1 ? vector.y : index == 2 ? vector.z : vector.w;
}

// a - b for the two numbers of type T in each word. Exact for the numbers below.
template <typename T>
__device__ __forceinline__ uint32_t subtract_pair(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  using Two = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;
  return bits_as<uint32_t>(__hsub2(bits_as<Two>(a), bits_as<Two>(b)));
#else
  float x[2], y[2];
  unpack(bits_as<Pack<T, 2>>(a), x);
  unpack(bits_as<Pack<T, 2>>(b), y);
  const float difference[2] = {x[0] - y[0], x[1] - y[1]};
  return bits_as<uint32_t>(pack<T>(difference));
#endif
}

// (kNot ? ~a : a) & b | c by one instruction; the compiler takes two for two constants.
template <bool kNot = false>
__device__ __forceinline__ uint32_t and_or(uint32_t a, uint32_t b, uint32_t c) {
#ifndef PADDLEMIX_EMULATION
  uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(result) : "r"(a), "r"(b), "r"(c), "n"(kNot ? 0xae : 0xea));
  return result;
#else
  return ((kNot ? ~a : a) & b) | c;
#endif
}

// ------------------------------------------------------------------------------------------------------- the formats
//
//   kInputs    inputs in a word
//   kPadding   in_features are padded to a multiple of it
//   kExact<T>  whether T holds every stored number, so that matrix instructions over T can be used
//   floats     a word as kInputs floats, without the scale
//   pairs      a word as kInputs / 2 pairs of T, without the scale, in the order into which arrange() brings x's pairs
//   RawScales  four scales as they are stored: kernels fetch them a chunk ahead, and to convert them at once would wait
//   scales_of  those of a tile's outputs `output` … `output` + 3 for the inputs of a chunk
//   widen      the same as floats
//   kWarps     resident warps per multiprocessor that the registers of few_rows_by_matrix allow

// Stored: __half or __nv_bfloat16.
template <typename Stored>
struct W16 {
  static constexpr int kInputs = 2;
  static constexpr int kPadding = 32;
  static constexpr bool kScaled = false;
  static constexpr int kWarps = 24;
  struct RawScales {};
  template <typename T>
  static constexpr bool kExact = std::is_same_v<T, Stored>;

  __device__ __forceinline__ static void floats(uint32_t word, float (&w)[2]) {
    unpack(bits_as<Pack<Stored, 2>>(word), w);
  }
  template <typename T>
  __device__ __forceinline__ static void pairs(uint32_t word, uint32_t* pairs) {
    pairs[0] = word;
  }
  __device__ __forceinline__ static void arrange(uint32_t*) {}
  __device__ __forceinline__ RawScales scales_of(int64_t, int, int) const { return {}; }
  __device__ __forceinline__ static float4 widen(RawScales) { return make_float4(1.f, 1.f, 1.f, 1.f); }
};

struct W8 {
  static constexpr int kInputs = 4;
  static constexpr int kPadding = 128;
  static constexpr bool kScaled = true;
  static constexpr int kWarps = 20;
  using RawScales = float4;
  template <typename T>
  static constexpr bool kExact = !std::is_same_v<T, float>;
  const float* scales;  // [tiles, groups, 16]
  int64_t groups;

  // 0x4b0000uu is the float 2^23 + u.
  __device__ __forceinline__ static void floats(uint32_t word, float (&w)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) w[i] = __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440u + i)) - 8388736.f;
  }
  // 0x64uu is the half 1024 + u. A bfloat16 has no room for 8 bits behind its leading one: the low 7 make 128 + (u &
  // 127), of which 256 (0x4380) is taken where the top bit is clear and 128 (0x4300) where it is set.
  template <typename T>
  __device__ __forceinline__ static void pairs(uint32_t word, uint32_t* pairs) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if constexpr (std::is_same_v<T, __half>) {
        const uint32_t bits = __byte_perm(word, 0x64646464u, i == 0 ? 0x4140u : 0x4342u);
        pairs[i] = subtract_pair<T>(bits, 0x64806480u);
      } else {
        const uint32_t bits = __byte_perm(word, 0u, i == 0 ? 0x4140u : 0x4342u);
        constexpr uint32_t kMagic = 0x43004300u;
        pairs[i] = subtract_pair<T>(and_or(bits, 0x007f007fu, kMagic), and_or<true>(bits, 0x00800080u, kMagic));
      }
    }
  }
  __device__ __forceinline__ static void arrange(uint32_t*) {}
  __device__ __forceinline__ RawScales scales_of(int64_t tile, int chunk, int output) const {
    const int64_t group = groups == 1 ? 0 : chunk / 2;  // a chunk is 64 inputs, half a group
    return *reinterpret_cast<const float4*>(scales + (tile * groups + group) * kTile + output);
  }
  __device__ __forceinline__ static float4 widen(RawScales scales) { return scales; }
};

struct W4 {
  static constexpr int kInputs = 8;
  static constexpr int kPadding = 128;
  static constexpr bool kScaled = true;
  static constexpr int kWarps = 16;
  using RawScales = uint2;
  template <typename T>
  static constexpr bool kExact = !std::is_same_v<T, float>;
  const __half* scales;  // [tiles, groups, 16]; a chunk is 128 inputs, one group
  int64_t groups;

  __device__ __forceinline__ static void floats(uint32_t word, float (&w)[8]) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int shift = i < 4 ? 8 * i : 8 * (i - 4) + 4;
      w[i] = __uint_as_float(((word >> shift) & 15u) | 0x4b000000u) - 8388616.f;
    }
  }
  // 0x640q is the half 1024 + q, 0x430q the bfloat16 128 + q. Shifts by 0, 4, 8 and 12 bring the inputs (0, 2), (4, 6),
  // (1, 3) and (5, 7) into the low nibbles of the two halves.
  template <typename T>
  __device__ __forceinline__ static void pairs(uint32_t word, uint32_t* pairs) {
    constexpr uint32_t kMagic = std::is_same_v<T, __half> ? 0x64006400u : 0x43004300u;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      pairs[i] = subtract_pair<T>(and_or(word >> (4 * i), 0x000f000fu, kMagic), kMagic | 0x00080008u);
    }
  }
  __device__ __forceinline__ static void arrange(uint32_t* x) {
    const uint32_t x01 = x[0], x23 = x[1], x45 = x[2], x67 = x[3];
    x[0] = __byte_perm(x01, x23, 0x5410u);
    x[1] = __byte_perm(x45, x67, 0x5410u);
    x[2] = __byte_perm(x01, x23, 0x7632u);
    x[3] = __byte_perm(x45, x67, 0x7632u);
  }
  __device__ __forceinline__ RawScales scales_of(int64_t tile, int chunk, int output) const {
    return *reinterpret_cast<const uint2*>(scales + (tile * groups + chunk) * kTile + output);
  }
  __device__ __forceinline__ static float4 widen(RawScales raw) {
    float scale[4];
    unpack(bits_as<Pack<__half, 4>>(raw), scale);
    return make_float4(scale[0], scale[1], scale[2], scale[3]);
  }
};

// Chunks of a tile.
template <typename Format>
int chunks_of(int64_t in_features) {
  return static_cast<int>(round_up<int64_t>(in_features, Format::kPadding) / (kChunkLines * Format::kInputs));
}

// -------------------------------------------------------------------------------------------------- back to a matrix

// Tiles that a block unpacks: rows of 64 outputs, whole cache lines even of 16-bit numbers.
constexpr int kMatrixTiles = 4;
constexpr int kMatrixThreads = kMatrixTiles * kChunkVectors;

// out [in_features, out_features] = the weights. A block takes one chunk of four tiles; each thread reads 16 bytes,
// that is 4 outputs of kInputs inputs, and the block turns them into rows of 64 outputs in shared memory. There the
// four tiles' parts of a row are permuted by its line, so that the threads of several lines write to different banks.
template <typename T, typename Format>
__global__ void __launch_bounds__(kMatrixThreads)
    unpack_chunk(const uint4* weight, const Format format, T* out, int in_features, int out_features, int tiles,
                 int chunks, bool out_aligned) {
  constexpr int kInputs = Format::kInputs;
  constexpr int kColumns = kMatrixTiles * kTile;
  alignas(16) __shared__ T rows[kChunkLines * kInputs][kColumns];
  const int thread = static_cast<int>(threadIdx.x);
  const int chunk = static_cast<int>(blockIdx.y);
  const int64_t tile = static_cast<int64_t>(blockIdx.x) * kMatrixTiles + thread / kChunkVectors;
  if (tile < tiles) {
    const int line = thread % kChunkVectors / kLineVectors, output = 4 * (thread % kLineVectors);
    const uint4 words = __ldcs(weight + (tile * chunks + chunk) * kChunkVectors + thread % kChunkVectors);
    const float4 scale = Format::widen(format.scales_of(tile, chunk, output));
    const float scales[4] = {scale.x, scale.y, scale.z, scale.w};
    float w[4][kInputs];
#pragma unroll
    for (int j = 0; j < 4; ++j) Format::floats(word_of(words, j), w[j]);
    const int column = (thread / kChunkVectors ^ line % kMatrixTiles) * kTile + output;
#pragma unroll
    for (int k = 0; k < kInputs; ++k) {
      const float values[4] = {w[0][k] * scales[0], w[1][k] * scales[1], w[2][k] * scales[2], w[3][k] * scales[3]};
      *reinterpret_cast<Pack<T, 4>*>(&rows[line * kInputs + k][column]) = pack<T>(values);
    }
  }
  __syncthreads();

  constexpr int kWidth = kVector<T>;
  constexpr int kParts = kColumns / kWidth;
  for (int i = thread; i < kChunkLines * kInputs * kParts; i += kMatrixThreads) {
    const int row = i / kParts, column = i % kParts * kWidth;
    const int64_t input = static_cast<int64_t>(chunk) * kChunkLines * kInputs + row;
    const int64_t output = static_cast<int64_t>(blockIdx.x) * kColumns + column;
    if (input >= in_features) break;
    const T* from = &rows[row][(column / kTile ^ row / kInputs % kMatrixTiles) * kTile + column % kTile];
    T* to = out + input * out_features + output;
    if (out_aligned && output < out_features) {
      store_pack(to, load_pack<kWidth>(from));
    } else {
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
        if (output + j < out_features) to[j] = from[j];
      }
    }
  }
}

template <typename Format>
int dequantize(int dtype, const void* weight, Format format, void* out, int64_t in_features, int64_t out_features,
               void* stream) {
  if (in_features == 0 || out_features == 0) return 0;
  if (!aligned16({weight}, {})) return static_cast<int>(cudaErrorInvalidValue);
  return dispatch(dtype, [&](auto element) {
    using T = decltype(element);
    const int tiles = static_cast<int>(ceil_div<int64_t>(out_features, kTile));
    const int chunks = chunks_of<Format>(in_features);
    const dim3 blocks(ceil_div(tiles, kMatrixTiles), chunks);
    const bool out_aligned = aligned16({out}, {out_features * static_cast<int64_t>(sizeof(T))});
    PADDLEMIX_LAUNCH((unpack_chunk<T, Format>), blocks, kMatrixThreads, 0, stream, static_cast<const uint4*>(weight),
                     format, static_cast<T*>(out), static_cast<int>(in_features), static_cast<int>(out_features), tiles,
                     chunks, out_aligned);
  });
}

}  // namespace paddlemix
