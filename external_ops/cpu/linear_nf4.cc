// Linear layers with weights in nf4: a code of 4 bits is one of 16 levels, which are the quantiles of a normal
// distribution, times a scale per output and 64 inputs; the scales are themselves codes of 8 bits (double quantization).
//
// Layout: see paddlemix_cpu.h. Per tile of 16 outputs and group of 128 inputs there are 16 lines of 64 bytes, 1 KB, and
// 32 bytes of scales.
//
// The products are those of int8: a code becomes a level by a byte shuffle, and the levels are integers over 112, the
// number up to 127 for which their rounding error is least (0.0017 of the largest level in the mean). Reading back takes
// the levels as they are.
//
// Floor: the same bytes as int4. A row and tile spend two gathers on each 64 inputs, for the scales.
#include "low_bit_packing.h"
#include "low_bit_product.h"

namespace paddlemix {
namespace low_bit {
namespace {

constexpr float kLevels[16] = {
    -1.f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.f,
};
constexpr float kLargest = 112.f;
alignas(16) constexpr int8_t kIntegers[16] = {-112, -78, -59, -44, -32, -21, -10, 0, 9, 18, 28, 38, 49, 63, 81, 112};
constexpr int64_t kBlock = 64;         // inputs that share a scale
constexpr int64_t kNestedBlock = 256;  // scales that share a scale, in the order of outputs and, within them, of inputs
constexpr int64_t kNestedHeader = 257;  // the offset and the values of the codes, in front of the scales' scales

struct WeightNF4 : Lines<8> {
  static constexpr int kZero = 128, kScaleBlocks = 2;
  static constexpr bool kGroupScales = true, kSignedAvx2 = true;
  static constexpr int64_t kPrefetchDistance = 2048;

  const uint8_t* codes;
  const float* nested;
  int64_t blocks;      // of 64 inputs, per output
  int64_t first_tile;  // that `weight` begins with

  static int32_t integer(const uint8_t* line, int64_t output, int64_t input) {
    return kIntegers[byte(line, output, input)];
  }
  static float value(const uint8_t* line, int64_t output, int64_t input) { return kLevels[byte(line, output, input)]; }

  const uint8_t* codes_at(int64_t tile, int64_t block) const {
    return codes + ((first_tile + tile) * 2 * groups + block) * kOutputTile;
  }
  float value_scale(int64_t tile, int64_t block, int64_t output) const {
    const int64_t index = ((first_tile + tile) * kOutputTile + output) * blocks + at_most(block, blocks - 1);
    const float scale = nested[1 + codes_at(tile, block)[output]] * nested[kNestedHeader + index / kNestedBlock];
    return scale + nested[0];
  }
  float scale(int64_t tile, int64_t block, int64_t output) const {
    return value_scale(tile, block, output) * (1.f / kLargest);
  }

#if PADDLEMIX_X86
  PADDLEMIX_TARGET_AVX2 static inline void multiply(__m256i& sum, __m256i line, const int8_t* x) {
    const __m256i mask = _mm256_set1_epi8(15);
    const __m256i table = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(kIntegers)));
    int32_t four[2];
    memcpy(four, x, sizeof four);
    const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(line, mask));
    const __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(line, 4), mask));
    // |level| unsigned times x with the level's sign: 2 * 112 * 127 fits into 16 bits, twice that does not.
    const __m256i one = _mm256_set1_epi16(1);
    const __m256i first = _mm256_maddubs_epi16(_mm256_abs_epi8(low), _mm256_sign_epi8(_mm256_set1_epi32(four[0]), low));
    const __m256i second =
        _mm256_maddubs_epi16(_mm256_abs_epi8(high), _mm256_sign_epi8(_mm256_set1_epi32(four[1]), high));
    sum = _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(first, one), _mm256_madd_epi16(second, one)));
  }
  // Levels as signed bytes.
  PADDLEMIX_TARGET_AVX512 static inline __m512i levels(__m512i line, int index) {
    const __m512i table = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(kIntegers)));
    const __m512i codes = _mm512_and_si512(index ? _mm512_srli_epi16(line, 4) : line, _mm512_set1_epi8(15));
    return _mm512_shuffle_epi8(table, codes);
  }
  PADDLEMIX_TARGET_AVX512 static inline __m512i part(__m512i line, int index) {
    const __m512i table = _mm512_xor_si512(
        _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(kIntegers))), _mm512_set1_epi8(-128));
    const __m512i codes = _mm512_and_si512(index ? _mm512_srli_epi16(line, 4) : line, _mm512_set1_epi8(15));
    return _mm512_shuffle_epi8(table, codes);
  }
  PADDLEMIX_TARGET_AVX512 inline __m512 scales(int64_t tile, int64_t block) const {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i code = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes_at(tile, block))));
    // 32 bits: there are fewer than 2^31 scales.
    const int32_t start = static_cast<int32_t>((first_tile + tile) * kOutputTile * blocks + at_most(block, blocks - 1));
    const __m512i index = _mm512_add_epi32(_mm512_mullo_epi32(lanes, _mm512_set1_epi32(static_cast<int>(blocks))),
                                           _mm512_set1_epi32(start));
    const __m512 factor = _mm512_i32gather_ps(_mm512_srli_epi32(index, 8), nested + kNestedHeader, 4);
    const __m512 scale = _mm512_mul_ps(_mm512_i32gather_ps(code, nested + 1, 4), factor);
    return _mm512_mul_ps(_mm512_add_ps(scale, _mm512_set1_ps(nested[0])), _mm512_set1_ps(1.f / kLargest));
  }
  PADDLEMIX_TARGET_AVX512 inline __m512 channel_scales(int64_t) const { return _mm512_set1_ps(1.f); }
  PADDLEMIX_TARGET_AVX512 static inline void expand(const uint8_t* lines, int8_t* to) {
    for (int64_t i = 0; i < kLinesPerGroup; ++i, lines += kLine, to += 2 * kLine) {
      const __m512i line = _mm512_loadu_si512(lines);
      _mm_prefetch(lines + kPrefetchPanel * kPackedBytes, _MM_HINT_T0);
      _mm512_store_si512(to, levels(line, 0));
      _mm512_store_si512(to + kLine, levels(line, 1));
    }
  }
#endif
};
static_assert(kNestedBlock == 1 << 8, "scales() shifts by 8");

// How codes are packed: as they are.
struct PackedCodes : Lines<8> {
  static constexpr int kZero = 0;
};

// Index: a group. The 16 outputs of a tile are the lanes. A block's scale is its largest magnitude; with NaN or infinity
// it is NaN. A value becomes the code of the nearest level, of two that are as near the lower one.
PADDLEMIX_BODY void quantize_body(const Quantization<float>& a, int64_t begin, int64_t end) {
  const int64_t groups = ceil_div(a.in_features, kGroup), tiles = ceil_div(a.out_features, kOutputTile);
  alignas(64) float block[kGroup][kOutputTile];
  alignas(64) int8_t q[kGroup][kOutputTile];
  for (int64_t group = begin; group < end; ++group) {
    for (int64_t tile = 0; tile < tiles; ++tile) {
      read_block(a.w, a.stride, a.in_features, a.out_features, group, tile, block);
      for (int64_t half = 0; half < kGroup / kBlock; ++half) {
        Int16 largest = {};
        for (int64_t i = half * kBlock; i < (half + 1) * kBlock; ++i) {
          Int16 bits;
          memcpy(&bits, block[i], sizeof bits);
          bits &= 0x7fffffff;
          largest = bits > largest ? bits : largest;
        }
        Float16 maximum;
        memcpy(&maximum, &largest, sizeof maximum);
        const auto finite = largest <= kLargestFinite;
        Float16 factor = 1.f / maximum;
        factor = (factor <= 3.4e38f) & finite ? factor : Float16{};
        const Float16 scale = finite ? maximum : Float16{} + __builtin_nanf("");
        memcpy(a.scales + ((tile * groups + group) * 2 + half) * kOutputTile, &scale, sizeof scale);
        for (int64_t i = half * kBlock; i < (half + 1) * kBlock; ++i) {
          Float16 value;
          memcpy(&value, block[i], sizeof value);
          value = finite ? value * factor : Float16{};
          Int16 code = {};
          for (int level = 0; level < 15; ++level) code -= value > (kLevels[level] + kLevels[level + 1]) / 2;
          for (int64_t o = 0; o < kOutputTile; ++o) q[i][o] = static_cast<int8_t>(code[o]);
        }
      }
      pack_group<PackedCodes>(q, a.weight + (tile * groups + group) * PackedCodes::kPackedBytes);
    }
  }
}

}  // namespace
}  // namespace low_bit
}  // namespace paddlemix

using namespace paddlemix;
using namespace paddlemix::low_bit;

void paddlemix_cpu_linear_nf4(const float* x, int64_t x_stride, const uint8_t* weight, const uint8_t* scales,
                              const float* nested, const float* bias, float* out, int64_t rows, int64_t in_features,
                              int64_t out_features) {
  const WeightNF4 packed{{weight, ceil_div(in_features, kGroup)}, scales, nested, ceil_div(in_features, kBlock), 0};
  linear(packed, x, x_stride, bias, out, rows, in_features, out_features);
}

void paddlemix_cpu_quantize_nf4(const float* w, int64_t w_stride, uint8_t* weight, float* absmax, int64_t in_features,
                                int64_t out_features) {
  const Quantization<float> a{w,           w_stride,    2 * ceil_div(in_features, kGroup), weight, absmax,
                              in_features, out_features};
  for_groups(in_features, out_features, [&a](int64_t begin, int64_t end) { run_body<quantize_body>(a, begin, end); });
}

void paddlemix_cpu_dequantize_nf4(const uint8_t* weight, const uint8_t* scales, const float* nested, int64_t first_tile,
                                  float* w, int64_t in_features, int64_t out_features) {
  const WeightNF4 packed{
      {weight, ceil_div(in_features, kGroup)}, scales, nested, ceil_div(in_features, kBlock), first_tile};
  dequantize(packed, w, in_features, out_features);
}
