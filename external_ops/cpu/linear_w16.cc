// y = x W + b with W in bf16 or fp16; x and y are float32. The products are as exact as float32 ones, or, over bf16
// weights and for many rows where the processor multiplies bf16, x is rounded to bf16 first
// (paddlemix_cpu_set_matmul_precision) and the sums are float32.
//
// Layout (paddlemix_cpu.h): one line of 64 bytes holds two inputs of 16 outputs. As pairs of 16 bits in 32-bit lanes, a
// shift and a mask make two vectors of float32 out of a bf16 line; as it is, the line is an operand of a bf16 product and
// a row of a weight tile of AMX.
//
// One row: every weight is read once and used once, so the floor is bytes over bandwidth: a decoder layer (4096, 11008)
// has 405 MB. Two to eight rows use each vector of weights for all rows; the time stays near that of one.
//
// Many rows: without AMX, panels of 256 inputs by 32 outputs are unpacked to float32 once and multiplied in registers
// (12 rows by two vectors); the floor is that of float32 fused multiply-adds. With AMX and bf16 weights, x is rounded to
// one bf16 number, or cut into three whose sum it is exactly; their tile products add up in float32. Two terms are not
// enough: their error is ten times that of a float32 product. The unit takes inputs and products below 2^-126 as zero,
// which can be seen only in sums that are themselves below 1e-30. Where an infinity meets a term that is zero, the tile
// product is NaN although the float32 one may be infinite: blocks whose result is not finite are computed anew in
// float32.
//
// Sums are set aside every 256 to 1024 inputs, which keeps the rounding error below that of one long sum.
//
// What did not help: AMX below nine rows (a tenth slower than multiply-adds); asking for weights ahead of tile loads
// (the loads of the next steps are on their way already); other sizes of the AMX blocks; non-temporal prefetches (a
// third of the bandwidth). fp16 weights as two bf16 tiles would take five tile products; they keep to multiply-adds.
#include <algorithm>
#include <cstdlib>
#include <new>

#include "runtime.h"

namespace paddlemix {
namespace {

constexpr int64_t kLine = 32;  // weights of a line: two inputs by 16 outputs
constexpr int64_t kInputPadding = 32;
constexpr int64_t kSumBlock = 512;  // inputs summed in a row before the sum is set aside
constexpr int64_t kManyRows = 16;   // from here on unpacking the weights first pays
// Bounds what many rows take of scratch(): as many inputs as fit are prepared at once, since threads wait for each
// other between that and the product.
constexpr int64_t kMostRows = 1024, kScratchBytes = int64_t{24} << 20;

struct Layer {
  const float* x;
  int64_t x_stride;
  const uint16_t* weight;
  const float* bias;
  float* out;
  int64_t rows, in_features, out_features;

  int64_t tiles() const { return ceil_div(out_features, kOutputTile); }
  int64_t tile_size() const { return round_up(in_features, kInputPadding) * kOutputTile; }
  const uint16_t* tile(int64_t index) const { return weight + index * tile_size(); }
  int64_t columns(int64_t tile) const { return std::min(kOutputTile, out_features - tile * kOutputTile); }

  // Writes the sums of a row and tile whose inputs [begin, end) they cover: the first block stores, the others add, the
  // last brings the bias.
  void accumulate(int64_t row, int64_t tile, const float* sum, int64_t begin, int64_t end) const {
    float* to = out + row * out_features + tile * kOutputTile;
    const int64_t count = columns(tile);
    if (begin > 0) {
      for (int64_t c = 0; c < count; ++c) to[c] += sum[c];
    } else {
      for (int64_t c = 0; c < count; ++c) to[c] = sum[c];
    }
    if (bias && end >= in_features) {
      for (int64_t c = 0; c < count; ++c) to[c] += bias[tile * kOutputTile + c];
    }
  }
  // Asks for the outputs that the next sums go to. They are far apart, no processor guesses them.
  void expect(int64_t row, int64_t row_count, int64_t tile, int64_t tile_count) const {
    for (int64_t r = row; r < std::min(row + row_count, rows); ++r) {
      for (int64_t t = tile; t < tile + tile_count; ++t) {
        __builtin_prefetch(out + r * out_features + t * kOutputTile, 1);
      }
    }
  }
  void finish(int64_t row, int64_t tile, const float* sum) const { accumulate(row, tile, sum, 0, in_features); }
};

// Memory of the calling thread, kept for the next call: fresh pages cost more than what is computed in them.
void* scratch(size_t bytes) {
  struct Buffer {
    void* data = nullptr;
    size_t size = 0;
    ~Buffer() { std::free(data); }
  };
  static thread_local Buffer buffer;
  if (buffer.size < bytes) {
    std::free(buffer.data);
    buffer.size = 0;
    buffer.data = std::aligned_alloc(64, round_up(bytes, 64));
    if (!buffer.data) throw std::bad_alloc();
    buffer.size = bytes;
  }
  return buffer.data;
}

template <int kDtype>
float to_float(uint16_t bits) {
  return kDtype == PADDLEMIX_BFLOAT16 ? bf16_to_float(bits) : fp16_to_float(bits);
}

template <int kDtype>
uint16_t from_float(float value) {
  return kDtype == PADDLEMIX_BFLOAT16 ? float_to_bf16(value) : float_to_fp16(value);
}

namespace portable {

template <int kDtype>
void few_rows(const Layer& layer, int64_t row_begin, int64_t row_end, int64_t tile_begin, int64_t tile_end) {
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    for (int64_t row = row_begin; row < row_end; ++row) {
      const float* x = layer.x + row * layer.x_stride;
      float total[kOutputTile] = {};
      for (int64_t begin = 0; begin < layer.in_features; begin += kSumBlock) {
        const int64_t end = std::min(begin + kSumBlock, layer.in_features);
        float sum[kOutputTile] = {};
        for (int64_t k = begin; k < end; ++k) {
          const uint16_t* weight = layer.tile(tile) + (k / 2) * kLine + k % 2;
          for (int64_t j = 0; j < kOutputTile; ++j) sum[j] += x[k] * to_float<kDtype>(weight[2 * j]);
        }
        for (int64_t j = 0; j < kOutputTile; ++j) total[j] += sum[j];
      }
      layer.finish(row, tile, total);
    }
  }
}

}  // namespace portable

#if PADDLEMIX_X86

namespace avx2 {
#define W16_TARGET PADDLEMIX_TARGET_AVX2
using Vec = __m256;
constexpr int kWidth = 8, kFewRows = 4, kSums = 8, kPanelRows = 6;
W16_TARGET static inline Vec zero() { return _mm256_setzero_ps(); }
W16_TARGET static inline Vec broadcast(float a) { return _mm256_set1_ps(a); }
W16_TARGET static inline Vec load(const float* a) { return _mm256_loadu_ps(a); }
W16_TARGET static inline void store(float* to, Vec a) { _mm256_storeu_ps(to, a); }
W16_TARGET static inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
W16_TARGET static inline Vec multiply_add(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
template <int kDtype>
W16_TARGET static inline void unpack(const uint16_t* line, int part, Vec* even, Vec* odd) {
  const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line + part * 2 * kWidth));
  if (kDtype == PADDLEMIX_BFLOAT16) {
    *even = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
    *odd = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  } else {
    const __m256 low = _mm256_cvtph_ps(_mm256_castsi256_si128(pairs));
    const __m256 high = _mm256_cvtph_ps(_mm256_extracti128_si256(pairs, 1));
    const __m256d evens = _mm256_castps_pd(_mm256_shuffle_ps(low, high, 0x88));
    const __m256d odds = _mm256_castps_pd(_mm256_shuffle_ps(low, high, 0xdd));
    *even = _mm256_castpd_ps(_mm256_permute4x64_pd(evens, 0xd8));
    *odd = _mm256_castpd_ps(_mm256_permute4x64_pd(odds, 0xd8));
  }
}
#include "linear_w16_fma.h"
#undef W16_TARGET
}  // namespace avx2

namespace avx512 {
#define W16_TARGET PADDLEMIX_TARGET_AVX512
using Vec = __m512;
constexpr int kWidth = 16, kFewRows = 8, kSums = 16, kPanelRows = 12;
W16_TARGET static inline Vec zero() { return _mm512_setzero_ps(); }
W16_TARGET static inline Vec broadcast(float a) { return _mm512_set1_ps(a); }
W16_TARGET static inline Vec load(const float* a) { return _mm512_loadu_ps(a); }
W16_TARGET static inline void store(float* to, Vec a) { _mm512_storeu_ps(to, a); }
W16_TARGET static inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
W16_TARGET static inline Vec multiply_add(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
template <int kDtype>
W16_TARGET static inline void unpack(const uint16_t* line, int, Vec* even, Vec* odd) {
  const __m512i pairs = _mm512_loadu_si512(line);
  if (kDtype == PADDLEMIX_BFLOAT16) {
    *even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    *odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  } else {
    const __m512i narrow = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512 low = _mm512_cvtph_ps(_mm512_castsi512_si256(pairs));
    const __m512 high = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(pairs, 1));
    *even = _mm512_permutex2var_ps(low, narrow, high);
    *odd = _mm512_permutex2var_ps(low, _mm512_or_si512(narrow, _mm512_set1_epi32(1)), high);
  }
}
#include "linear_w16_fma.h"
#undef W16_TARGET
}  // namespace avx512

#if PADDLEMIX_HAS_AMX
namespace avx512_bf16 {
#include "linear_w16_bf16.h"
}  // namespace avx512_bf16
namespace amx {
#include "linear_w16_amx.h"
}  // namespace amx
#endif
#endif

template <int kDtype>
void few_rows(const Layer& layer) {
  auto run = portable::few_rows<kDtype>;
#if PADDLEMIX_X86
  const int isa = paddlemix_cpu_isa();
  run = isa >= PADDLEMIX_AVX512 ? avx512::few_rows<kDtype> : isa >= PADDLEMIX_AVX2 ? avx2::few_rows<kDtype> : run;
#endif
  parallel_for(layer.tiles(), 1, [&](int64_t begin, int64_t end) { run(layer, 0, layer.rows, begin, end); });
}

// The function for at most kMostRows of `rows` rows.
template <int kDtype>
auto choose(int64_t rows) {
#if PADDLEMIX_X86
  const int isa = paddlemix_cpu_isa();
#if PADDLEMIX_HAS_AMX
  if (kDtype == PADDLEMIX_BFLOAT16 && rows > avx512::kFewRows) {
    if (isa >= PADDLEMIX_AMX) return rounds_to_bf16() ? amx::many_rows<1> : amx::many_rows<3>;
    if (has_bf16_products() && rounds_to_bf16()) return avx512_bf16::many_rows;
  }
#endif
  if (rows >= kManyRows) {
    if (isa >= PADDLEMIX_AVX512) return avx512::many_rows<kDtype>;
    if (isa >= PADDLEMIX_AVX2) return avx2::many_rows<kDtype>;
  }
#endif
  return few_rows<kDtype>;
}

template <int kDtype>
void linear(Layer layer) {
  const auto multiply = choose<kDtype>(layer.rows);
  for (int64_t left = layer.rows; left > 0; left -= kMostRows) {
    layer.rows = std::min(kMostRows, left);
    multiply(layer);
    layer.x += layer.rows * layer.x_stride;
    layer.out += layer.rows * layer.out_features;
  }
}

// Blocks of 32 inputs: whole lines of both layouts are near each other.
template <int kDtype>
void pack(const float* w, int64_t w_stride, uint16_t* weight, int64_t in_features, int64_t out_features) {
  const int64_t padded = round_up(in_features, kInputPadding), tiles = ceil_div(out_features, kOutputTile);
  parallel_for(padded / kInputPadding, 1, [&](int64_t block, int64_t block_end) {
    for (; block < block_end; ++block) {
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t columns = std::min(kOutputTile, out_features - tile * kOutputTile);
        for (int64_t k = block * kInputPadding; k < (block + 1) * kInputPadding; ++k) {
          uint16_t* to = weight + (tile * padded + k / 2 * 2) * kOutputTile + k % 2;
          const float* from = w + k * w_stride + tile * kOutputTile;
          for (int64_t j = 0; j < kOutputTile; ++j) {
            to[2 * j] = k < in_features && j < columns ? from_float<kDtype>(from[j]) : 0;
          }
        }
      }
    }
  });
}

template <int kDtype>
void dequantize(const uint16_t* weight, float* w, int64_t in_features, int64_t out_features) {
  const int64_t padded = round_up(in_features, kInputPadding), tiles = ceil_div(out_features, kOutputTile);
  parallel_for(padded / kInputPadding, 1, [&](int64_t block, int64_t block_end) {
    const int64_t end = std::min(in_features, block_end * kInputPadding);
    for (; block < block_end; ++block) {
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t columns = std::min(kOutputTile, out_features - tile * kOutputTile);
        for (int64_t k = block * kInputPadding; k < std::min(end, (block + 1) * kInputPadding); ++k) {
          const uint16_t* from = weight + (tile * padded + k / 2 * 2) * kOutputTile + k % 2;
          float* to = w + k * out_features + tile * kOutputTile;
          for (int64_t j = 0; j < columns; ++j) to[j] = to_float<kDtype>(from[2 * j]);
        }
      }
    }
  });
}

}  // namespace
}  // namespace paddlemix

void paddlemix_cpu_linear_w16(int weight_dtype, const float* x, int64_t x_stride, const uint16_t* weight,
                              const float* bias, float* out, int64_t rows, int64_t in_features, int64_t out_features) {
  using namespace paddlemix;
  const Layer layer{x, x_stride, weight, bias, out, rows, in_features, out_features};
  if (weight_dtype == PADDLEMIX_BFLOAT16) {
    linear<PADDLEMIX_BFLOAT16>(layer);
  } else {
    linear<PADDLEMIX_FLOAT16>(layer);
  }
}

void paddlemix_cpu_pack_w16(int weight_dtype, const float* w, int64_t w_stride, uint16_t* weight, int64_t in_features,
                            int64_t out_features) {
  using namespace paddlemix;
  if (weight_dtype == PADDLEMIX_BFLOAT16) {
    pack<PADDLEMIX_BFLOAT16>(w, w_stride, weight, in_features, out_features);
  } else {
    pack<PADDLEMIX_FLOAT16>(w, w_stride, weight, in_features, out_features);
  }
}

void paddlemix_cpu_dequantize_w16(int weight_dtype, const uint16_t* weight, float* w, int64_t in_features,
                                  int64_t out_features) {
  using namespace paddlemix;
  if (weight_dtype == PADDLEMIX_BFLOAT16) {
    dequantize<PADDLEMIX_BFLOAT16>(weight, w, in_features, out_features);
  } else {
    dequantize<PADDLEMIX_FLOAT16>(weight, w, in_features, out_features);
  }
}
