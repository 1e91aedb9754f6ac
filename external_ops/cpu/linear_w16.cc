// y = x W + b with W in bf16 or fp16; x and y are float32 and as exact as a float32 product.
//
// Layout (paddlemix_cpu.h): one line of 64 bytes holds two inputs of 16 outputs. As pairs of 16 bits in 32-bit lanes, a
// shift and a mask make two vectors of float32 out of a bf16 line; as it is, the line is a row of a weight tile of AMX.
//
// One row: every weight is read once and used once, so the floor is bytes over bandwidth: a decoder layer (4096, 11008)
// has 405 MB. Two to eight rows use each vector of weights for all rows; the time stays near that of one.
//
// Many rows: without AMX, panels of 256 inputs by 32 outputs are unpacked to float32 once and multiplied in registers
// (12 rows by two vectors); the floor is that of float32 fused multiply-adds. With AMX and bf16 weights, x is cut into
// three bf16 numbers whose sum it is exactly; three tile products per weight tile add up in float32, at 5 times the speed
// of the multiply-adds where the tile unit alone counts. Two terms are not enough: their error is ten times that of a
// float32 product. Inputs and products below 2^-126 count as zero there (the unit has no denormals), which can be seen
// only in sums that are themselves below 1e-30. Where infinities meet the zero terms of a number the tile product is NaN
// although the float32 one may be infinite: blocks whose result is not finite are computed anew in float32.
//
// Sums are set aside every 256 to 1024 inputs, which keeps the rounding error below that of one long sum.
//
// What did not help: AMX below nine rows (a tenth slower than multiply-adds); asking for weights ahead of tile loads (the
// loads of the next steps are already on their way); other sizes of blocks than those below; non-temporal prefetches
// (a third of the bandwidth). fp16 weights as two bf16 tiles would take five tile products: not done, the checkpoints'
// many-row layers are bf16.
#include <algorithm>
#include <cstdlib>
#include <new>

#include "runtime.h"

namespace paddlemix {
namespace {

constexpr int64_t kLine = 32;       // weights of a line: two inputs by 16 outputs
constexpr int64_t kInputPadding = 32;
constexpr int64_t kSumBlock = 512;  // inputs summed in a row before the sum is set aside: keeps rounding errors small

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
namespace amx {

constexpr int64_t kTileRows = 16, kStep = 32;       // rows of a tile, inputs of a step
constexpr int64_t kTerms = 3;                       // bf16 numbers that add up to a float32
constexpr int64_t kTileElements = kTileRows * kStep;  // a tile of activations or weights: one kilobyte
constexpr int64_t kSlice = kTerms * kTileElements;  // activations of 16 rows and 32 inputs

// Lives in static memory: GCC's intrinsic tells the compiler of its first eight bytes only.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Splits 16 rows (`there` of them real) and inputs [begin, end) to slices [steps][terms][16][32]. Each term is what is
// left, cut to eight bits of mantissa: exact, no term can overflow, and all have the sign of x.
PADDLEMIX_TARGET_AMX void split_rows(const Layer& layer, int64_t row, int64_t begin, int64_t end, uint16_t* slices) {
  const __m512 upper_half = _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(0xffff0000u)));
  const __m512i upper_halves = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27,
                                                25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  for (int64_t k = begin; k < end; k += kStep, slices += kSlice) {
    const int64_t inputs = std::min(kStep, layer.in_features - k);
    const uint32_t wanted = inputs == kStep ? 0xffffffffu : (1u << inputs) - 1;
    for (int64_t r = 0; r < kTileRows; ++r) {
      const uint32_t mask = row + r < layer.rows ? wanted : 0;
      const float* x = layer.x + (row + r) * layer.x_stride + k;
      __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), x);
      __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), x + 16);
      for (int64_t term = 0; term < kTerms; ++term) {
        const __m512i cut = _mm512_permutex2var_epi16(_mm512_castps_si512(low), upper_halves, _mm512_castps_si512(high));
        _mm512_storeu_si512(slices + term * kTileElements + r * kStep, cut);
        low = _mm512_sub_ps(low, _mm512_and_ps(low, upper_half));
        high = _mm512_sub_ps(high, _mm512_and_ps(high, upper_half));
      }
    }
  }
}

// sum [2][2][16][16]: 32 rows by two tiles. a: slices of 16 rows, the next 16 rows `a_stride` further.
PADDLEMIX_TARGET_AMX void multiply_2x2(const uint16_t* a, int64_t a_stride, const uint16_t* b0, const uint16_t* b1,
                                       int64_t steps, float* sum) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t step = 0; step < steps; ++step, a += kSlice, b0 += kTileElements, b1 += kTileElements) {
    _tile_loadd(6, b0, 64);
    _tile_loadd(7, b1, 64);
    for (int64_t term = 0; term < kTerms; ++term) {
      _tile_loadd(4, a + term * kTileElements, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, a + a_stride + term * kTileElements, 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sum, 64);
  _tile_stored(1, sum + 256, 64);
  _tile_stored(2, sum + 512, 64);
  _tile_stored(3, sum + 768, 64);
}

// sum [4][16][16]: 16 rows by four tiles.
PADDLEMIX_TARGET_AMX void multiply_1x4(const uint16_t* a, const uint16_t* const* b, int64_t steps, float* sum) {
  const uint16_t *b0 = b[0], *b1 = b[1], *b2 = b[2], *b3 = b[3];
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t step = 0; step < steps; ++step, a += kSlice) {
    _tile_loadd(4, a, 64);
    _tile_loadd(5, a + kTileElements, 64);
    _tile_loadd(6, a + 2 * kTileElements, 64);
    _tile_loadd(7, b0, 64);
    _tile_dpbf16ps(0, 4, 7);
    _tile_dpbf16ps(0, 5, 7);
    _tile_dpbf16ps(0, 6, 7);
    _tile_loadd(7, b1, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(1, 5, 7);
    _tile_dpbf16ps(1, 6, 7);
    _tile_loadd(7, b2, 64);
    _tile_dpbf16ps(2, 4, 7);
    _tile_dpbf16ps(2, 5, 7);
    _tile_dpbf16ps(2, 6, 7);
    _tile_loadd(7, b3, 64);
    _tile_dpbf16ps(3, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
    _tile_dpbf16ps(3, 6, 7);
    b0 += kTileElements;
    b1 += kTileElements;
    b2 += kTileElements;
    b3 += kTileElements;
  }
  _tile_stored(0, sum, 64);
  _tile_stored(1, sum + 256, 64);
  _tile_stored(2, sum + 512, 64);
  _tile_stored(3, sum + 768, 64);
}

// Adds a block of 16 rows by one tile; where the result is not finite, computes it anew in float32.
PADDLEMIX_TARGET_AMX void finish(const Layer& layer, int64_t row, int64_t tile, const float* sum, int64_t begin,
                                 int64_t end) {
  const __mmask16 columns = static_cast<__mmask16>((1u << layer.columns(tile)) - 1);
  const bool last = end >= layer.in_features;
  const __m512 bias = last && layer.bias ? _mm512_maskz_loadu_ps(columns, layer.bias + tile * kOutputTile)
                                         : _mm512_setzero_ps();
  __mmask16 odd = 0;
  const int64_t row_end = std::min(row + kTileRows, layer.rows);
  for (int64_t r = row; r < row_end; ++r, sum += kOutputTile) {
    float* to = layer.out + r * layer.out_features + tile * kOutputTile;
    __m512 value = _mm512_loadu_ps(sum);
    if (begin > 0) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(columns, to));
    value = _mm512_add_ps(value, bias);
    _mm512_mask_storeu_ps(to, columns, value);
    odd |= _mm512_mask_fpclass_ps_mask(columns, value, 0x99);  // NaN, infinities
  }
  if (last && odd) avx512::few_rows<PADDLEMIX_BFLOAT16>(layer, row, row_end, tile, tile + 1);
}

// Inputs by tiles of a block of weights that all rows pass over: one megabyte, half of the second-level cache. The sums
// go to memory once per block. 512 to 2048 inputs and 16 to 64 tiles differ by less than the noise.
constexpr int64_t kBlockInputs = 1024, kBlockTiles = 32;

PADDLEMIX_TARGET_AMX void multiply(const Layer& layer, const uint16_t* slices, int64_t begin, int64_t end,
                                   int64_t tile_begin, int64_t tile_end) {
  static const TileConfig config;
  _tile_loadconfig(&config);
  alignas(64) float sum[4][kTileRows * kOutputTile];
  const int64_t steps = ceil_div(end - begin, kStep), row_stride = steps * kSlice;
  const uint16_t* last_tile = layer.tile(tile_end - 1) + begin * kOutputTile;
  for (int64_t first = tile_begin; first < tile_end; first += kBlockTiles) {
    const int64_t block_end = std::min(first + kBlockTiles, tile_end);
    int64_t row = 0;
    for (; row + kTileRows < layer.rows; row += 2 * kTileRows) {
      const uint16_t* a = slices + row / kTileRows * row_stride;
      for (int64_t tile = first; tile < block_end; tile += 2) {
        const uint16_t* b = layer.tile(tile) + begin * kOutputTile;
        const int64_t tiles = std::min<int64_t>(2, block_end - tile);
        multiply_2x2(a, row_stride, b, tiles > 1 ? b + layer.tile_size() : last_tile, steps, sum[0]);
        for (int64_t t = 0; t < tiles; ++t) {
          finish(layer, row, tile + t, sum[t], begin, end);
          finish(layer, row + kTileRows, tile + t, sum[2 + t], begin, end);
        }
      }
    }
    if (row < layer.rows) {
      const uint16_t* a = slices + row / kTileRows * row_stride;
      for (int64_t tile = first; tile < block_end; tile += 4) {
        const uint16_t* b[4];
        for (int64_t t = 0; t < 4; ++t) b[t] = layer.tile(std::min(tile + t, tile_end - 1)) + begin * kOutputTile;
        for (int64_t k = begin; k < end; k += kBlockInputs) {
          const int64_t k_end = std::min(k + kBlockInputs, end);
          multiply_1x4(a + (k - begin) / kStep * kSlice, b, (k_end - k) / kStep, sum[0]);
          for (int64_t t = 0; t < 4; ++t) {
            if (tile + t < block_end) finish(layer, row, tile + t, sum[t], k, k_end);
            b[t] += kBlockInputs * kOutputTile;
          }
        }
      }
    }
  }
  _tile_release();
}

void many_rows(const Layer& layer) {
  const int64_t padded = round_up(layer.in_features, kStep), row_tiles = ceil_div(layer.rows, kTileRows);
  const int64_t inputs = row_tiles == 1 ? padded : std::min(padded, kBlockInputs);
  uint16_t* slices = static_cast<uint16_t*>(scratch(row_tiles * kTileRows * inputs * kTerms * sizeof(uint16_t)));
  for (int64_t begin = 0; begin < layer.in_features; begin += inputs) {
    const int64_t end = std::min(begin + inputs, padded);
    parallel_for(row_tiles, 1, [&](int64_t first, int64_t last) {
      for (; first < last; ++first) {
        split_rows(layer, first * kTileRows, begin, end, slices + first * ceil_div(end - begin, kStep) * kSlice);
      }
    });
    parallel_for(layer.tiles(), 2,
                 [&](int64_t first, int64_t last) { multiply(layer, slices, begin, end, first, last); });
  }
}

}  // namespace amx
#endif
#endif

template <int kDtype>
void linear(Layer layer) {
  constexpr int64_t kMostRows = 1024;  // bounds the scratch memory
  const int isa = paddlemix_cpu_isa();
#define FEW_ROWS(NAME)                                            \
  parallel_for(layer.tiles(), 1, [&](int64_t begin, int64_t end) { \
    NAME::few_rows<kDtype>(layer, 0, layer.rows, begin, end);     \
  })
  const int64_t all = layer.rows;
  for (int64_t row = 0; row < all; row += kMostRows) {
    layer.rows = std::min(kMostRows, all - row);
#if PADDLEMIX_X86
#if PADDLEMIX_HAS_AMX
    if (isa >= PADDLEMIX_AMX && kDtype == PADDLEMIX_BFLOAT16 && layer.rows > avx512::kFewRows) {
      amx::many_rows(layer);
    } else
#endif
        if (isa >= PADDLEMIX_AVX512) {
      if (layer.rows < 16) FEW_ROWS(avx512); else avx512::many_rows<kDtype>(layer);
    } else if (isa >= PADDLEMIX_AVX2) {
      if (layer.rows < 16) FEW_ROWS(avx2); else avx2::many_rows<kDtype>(layer);
    } else
#endif
      FEW_ROWS(portable);
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
