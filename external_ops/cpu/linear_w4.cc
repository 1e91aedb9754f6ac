// Linear layers with weights of 4 bits (int4, symmetric, one fp16 scale per output and 128 inputs).
//
// Layout: see paddlemix_cpu.h. Per tile of 16 outputs and group of 128 inputs there are 16 lines of 64 bytes, 1 KB, and
// 32 bytes of scales.
//
// Floor: a row reads in * out / 2 * 1.03 bytes, 104 MB for a layer of widths 4096 and 11008, and is bound by them: one
// thread reads at 14 to 16 GB/s while a plain read does 15 to 16, up to 5 rows at 14, 8 rows at 13. Many rows are bound
// by the products: see low_bit_amx.h.
//
// Tried, of no help: the matrix tiles below 16 rows (unpacking waits for memory in front of the products, where the
// vector body does both at once: 6 rows took 1.8 times as long); longer prefetch in unpacking.
#include "low_bit_packing.h"
#include "low_bit_product.h"

namespace paddlemix {
namespace low_bit {
namespace {

struct Weight4 : Lines<8> {
  static constexpr int kZero = 8;
  static constexpr bool kGroupScales = true, kSignedAvx2 = false;
  static constexpr int kScaleBlocks = 1;
  static constexpr int64_t kPrefetchDistance = 2048;

  const uint16_t* half_scales;

  const uint16_t* scales_at(int64_t tile, int64_t index) const {
    return half_scales + (tile * groups + index) * kOutputTile;
  }
  static int32_t integer(const uint8_t* line, int64_t output, int64_t input) {
    return byte(line, output, input) - kZero;
  }
  static float value(const uint8_t* line, int64_t output, int64_t input) {
    return static_cast<float>(integer(line, output, input));
  }
  float value_scale(int64_t tile, int64_t index, int64_t output) const { return scale(tile, index, output); }
  float scale(int64_t tile, int64_t index, int64_t output) const {
    return fp16_to_float(scales_at(tile, index)[output]);
  }

#if PADDLEMIX_X86
  PADDLEMIX_TARGET_AVX2 static inline void multiply(__m256i& sum, __m256i line, const int8_t* x) {
    const __m256i mask = _mm256_set1_epi8(15);
    int32_t four[2];
    memcpy(four, x, sizeof four);
    // 4 * 15 * 127 in 16 bits: far from saturation.
    const __m256i low = _mm256_maddubs_epi16(_mm256_and_si256(line, mask), _mm256_set1_epi32(four[0]));
    const __m256i high =
        _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(line, 4), mask), _mm256_set1_epi32(four[1]));
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_add_epi16(low, high), _mm256_set1_epi16(1)));
  }
  PADDLEMIX_TARGET_AVX512 static inline __m512i part(__m512i line, int index) {
    return _mm512_and_si512(index ? _mm512_srli_epi16(line, 4) : line, _mm512_set1_epi8(15));
  }
  PADDLEMIX_TARGET_AVX512 inline __m512 scales(int64_t tile, int64_t index) const {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales_at(tile, index))));
  }
  PADDLEMIX_TARGET_AVX512 inline __m512 channel_scales(int64_t) const { return _mm512_set1_ps(1.f); }
  PADDLEMIX_TARGET_AVX512 static inline void expand(const uint8_t* lines, int8_t* to) {
    const __m512i zero = _mm512_set1_epi8(kZero);
    for (int64_t i = 0; i < kLinesPerGroup; ++i, lines += kLine, to += 2 * kLine) {
      const __m512i line = _mm512_loadu_si512(lines);
      _mm_prefetch(lines + kPrefetchPanel * kPackedBytes, _MM_HINT_T0);
      _mm512_store_si512(to, _mm512_sub_epi8(part(line, 0), zero));
      _mm512_store_si512(to + kLine, _mm512_sub_epi8(part(line, 1), zero));
    }
  }
#endif
};

// Index: a group. The 16 outputs of a tile are the lanes; all clipping factors are tried with the scale as fp16 will
// hold it. A group with NaN or Inf gets the scale NaN.
PADDLEMIX_BODY void quantize_body(const Quantization<uint16_t>& a, int64_t begin, int64_t end) {
  const int64_t groups = ceil_div(a.in_features, kGroup), tiles = ceil_div(a.out_features, kOutputTile);
  alignas(64) float block[kGroup][kOutputTile];
  alignas(64) int8_t q[kGroup][kOutputTile];
  for (int64_t group = begin; group < end; ++group) {
    for (int64_t tile = 0; tile < tiles; ++tile) {
      read_block(a.w, a.stride, a.in_features, a.out_features, group, tile, block);
      Int16 largest = {};
      for (int64_t i = 0; i < kGroup; ++i) {
        Int16 bits;
        memcpy(&bits, block[i], sizeof bits);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
      }
      Float16 maximum, best_scale = {}, best_factor = {}, least = Float16{} + __builtin_inff();
      memcpy(&maximum, &largest, sizeof maximum);
      for (int step = 0; step <= 8; ++step) {
        // To fp16 precision, at most its largest value. Below its normal range all values are multiples of 2^-24,
        // to which adding 0.5 rounds; above, 13 bits are dropped, ties to even.
        const Float16 wanted = maximum * ((1.f - 0.05f * static_cast<float>(step)) / 7.f);
        Int16 bits;
        memcpy(&bits, &wanted, sizeof bits);
        bits = (bits + 0xfff + ((bits >> 13) & 1)) & ~0x1fff;
        Float16 scale;
        memcpy(&scale, &bits, sizeof scale);
        scale = wanted < 6.103515625e-05f ? (wanted + 0.5f) - 0.5f : scale;
        scale = scale > 65504.f ? Float16{} + 65504.f : scale;
        const Float16 factor = scale > 0.f ? 1.f / scale : Float16{};
        Float16 error = {};
        for (int64_t i = 0; i < kGroup; ++i) {
          Float16 value;
          memcpy(&value, block[i], sizeof value);
          Float16 rounded = value * factor;
          rounded = rounded < -8.f ? Float16{} - 8.f : rounded;
          rounded = rounded > 7.f ? Float16{} + 7.f : rounded;
          rounded = (rounded + kRoundingBias) - kRoundingBias;
          const Float16 difference = value - rounded * scale;
          error += difference * difference;
        }
        const auto better = error < least;
        least = better ? error : least;
        best_scale = better ? scale : best_scale;
        best_factor = better ? factor : best_factor;
      }
      const auto finite = largest <= kLargestFinite;
      for (int64_t i = 0; i < kGroup; ++i) {
        Float16 value;
        memcpy(&value, block[i], sizeof value);
        value *= best_factor;
        value = value < -8.f ? Float16{} - 8.f : value;
        value = value > 7.f ? Float16{} + 7.f : value;
        value += kRoundingBias;
        Int16 bits;
        memcpy(&bits, &value, sizeof bits);
        bits = finite ? bits - kRoundingBits : Int16{};
        for (int64_t o = 0; o < kOutputTile; ++o) q[i][o] = static_cast<int8_t>(bits[o]);
      }
      pack_group<Weight4>(q, a.weight + (tile * groups + group) * Weight4::kPackedBytes);
      uint16_t* scales = a.scales + (tile * groups + group) * kOutputTile;
      for (int64_t o = 0; o < kOutputTile; ++o) scales[o] = finite[o] ? float_to_fp16(best_scale[o]) : 0x7e00;
    }
  }
}

}  // namespace
}  // namespace low_bit
}  // namespace paddlemix

using namespace paddlemix;
using namespace paddlemix::low_bit;

void paddlemix_cpu_linear_w4(const float* x, int64_t x_stride, const uint8_t* weight, const uint16_t* scales,
                             const float* bias, float* out, int64_t rows, int64_t in_features, int64_t out_features) {
  const Weight4 packed{{weight, ceil_div(in_features, kGroup)}, scales};
  linear(packed, x, x_stride, bias, out, rows, in_features, out_features);
}

void paddlemix_cpu_quantize_w4(const float* w, int64_t w_stride, uint8_t* weight, uint16_t* scales, int64_t in_features,
                               int64_t out_features) {
  const Quantization<uint16_t> a{w, w_stride, ceil_div(in_features, kGroup), weight, scales, in_features, out_features};
  for_groups(in_features, out_features, [&a](int64_t begin, int64_t end) { run_body<quantize_body>(a, begin, end); });
}

void paddlemix_cpu_pack_w4(const int8_t* q, uint8_t* weight, int64_t in_features, int64_t out_features) {
  pack<Weight4>(q, weight, in_features, out_features);
}

void paddlemix_cpu_dequantize_w4(const uint8_t* weight, const uint16_t* scales, float* w, int64_t in_features,
                                 int64_t out_features) {
  const Weight4 packed{{weight, ceil_div(in_features, kGroup)}, scales};
  dequantize(packed, w, in_features, out_features);
}
