// Linear layers with weights of 8 bits (int8, symmetric, one float32 scale per output, or per output and 128 inputs).
//
// Layout: see paddlemix_cpu.h. Per tile of 16 outputs and group of 128 inputs there are 32 lines of 64 bytes, 2 KB.
//
// Floor: a row reads in * out bytes and is bound by them: one thread reads at 16 to 17 GB/s, as fast as a plain read,
// up to 8 rows. Many rows are bound by the products: see low_bit_amx.h.
#include "low_bit_packing.h"
#include "low_bit_product.h"

namespace paddlemix {
namespace low_bit {
namespace {

template <bool GroupScales>
struct Weight8 : Lines<4> {
  static constexpr int kZero = 128;
  static constexpr bool kGroupScales = GroupScales, kSignedAvx2 = true;
  static constexpr int kScaleBlocks = 1;
  static constexpr int64_t kPrefetchDistance = 2048;

  const float* float_scales;

  const float* scales_at(int64_t tile, int64_t index) const {
    return float_scales + (GroupScales ? tile * groups + index : tile) * kOutputTile;
  }
  static int32_t integer(const uint8_t* line, int64_t output, int64_t input) {
    return byte(line, output, input) - kZero;
  }
  static float value(const uint8_t* line, int64_t output, int64_t input) {
    return static_cast<float>(integer(line, output, input));
  }
  float value_scale(int64_t tile, int64_t index, int64_t output) const { return scale(tile, index, output); }
  float scale(int64_t tile, int64_t index, int64_t output) const { return scales_at(tile, index)[output]; }

#if PADDLEMIX_X86
  PADDLEMIX_TARGET_AVX2 static inline void multiply(__m256i& sum, __m256i line, const int8_t* x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    // |q| unsigned times x with q's sign: 2 * 127 * 127 fits into 16 bits, while q + 128 could saturate them.
    const __m256i q = _mm256_xor_si256(line, _mm256_set1_epi8(-128));
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(_mm256_set1_epi32(four), q));
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  PADDLEMIX_TARGET_AVX512 static inline __m512i part(__m512i line, int) { return line; }
  PADDLEMIX_TARGET_AVX512 inline __m512 scales(int64_t tile, int64_t index) const {
    return _mm512_loadu_ps(scales_at(tile, index));
  }
  PADDLEMIX_TARGET_AVX512 inline __m512 channel_scales(int64_t tile) const { return scales(tile, 0); }
  PADDLEMIX_TARGET_AVX512 static inline void expand(const uint8_t* lines, int8_t* to) {
    for (int64_t i = 0; i < kLinesPerGroup; ++i, lines += kLine, to += kLine) {
      _mm_prefetch(lines + kPrefetchPanel * kPackedBytes, _MM_HINT_T0);
      _mm512_store_si512(to, _mm512_xor_si512(_mm512_loadu_si512(lines), _mm512_set1_epi8(-128)));
    }
  }
#endif
};

// Largest magnitudes of the 16 outputs of a block, as bits, kept if they exceed those of `largest`.
PADDLEMIX_BODY void largest_of(const float (*block)[kOutputTile], int32_t* largest) {
  Int16 most;
  memcpy(&most, largest, sizeof most);
  for (int64_t i = 0; i < kGroup; ++i) {
    Int16 bits;
    memcpy(&bits, block[i], sizeof bits);
    bits &= 0x7fffffff;
    most = bits > most ? bits : most;
  }
  memcpy(largest, &most, sizeof most);
}

// Index: a tile. NaN or Inf among the values of a scale make that scale NaN; if all are below 4e-37, where
// 127 / maximum is not finite, they are taken for zero.
PADDLEMIX_BODY void quantize_body(const Quantization<float>& a, int64_t begin, int64_t end) {
  const int64_t groups = ceil_div(a.in_features, kGroup);
  alignas(64) float block[kGroup][kOutputTile];
  alignas(64) int8_t q[kGroup][kOutputTile];
  alignas(64) int32_t largest[kOutputTile] = {};
  for (int64_t tile = begin; tile < end; ++tile) {
    const bool shared = a.scale_groups == 1;
    memset(largest, 0, sizeof largest);
    for (int64_t group = 0; shared && group < groups; ++group) {
      read_block(a.w, a.stride, a.in_features, a.out_features, group, tile, block);
      largest_of(block, largest);
    }
    for (int64_t group = 0; group < groups; ++group) {
      read_block(a.w, a.stride, a.in_features, a.out_features, group, tile, block);
      if (!shared) {
        memset(largest, 0, sizeof largest);
        largest_of(block, largest);
      }
      Int16 bits;
      Float16 maximum;
      memcpy(&bits, largest, sizeof bits);
      memcpy(&maximum, largest, sizeof maximum);
      const auto finite = bits <= kLargestFinite;
      Float16 factor = 127.f / maximum;
      const auto usable = factor <= 3.4e38f;
      factor = usable ? factor : Float16{};
      Float16 scale = usable ? maximum / 127.f : Float16{};
      scale = finite ? scale : Float16{} + __builtin_nanf("");
      if (!shared || group == 0) {
        memcpy(a.scales + (shared ? tile : tile * groups + group) * kOutputTile, &scale, sizeof scale);
      }
      for (int64_t i = 0; i < kGroup; ++i) {
        Float16 value;
        memcpy(&value, block[i], sizeof value);
        value = value * factor + kRoundingBias;
        memcpy(&bits, &value, sizeof bits);
        bits = finite ? bits - kRoundingBits : Int16{};
        for (int64_t o = 0; o < kOutputTile; ++o) q[i][o] = static_cast<int8_t>(bits[o]);
      }
      pack_group<Weight8<true>>(q, a.weight + (tile * groups + group) * Weight8<true>::kPackedBytes);
    }
  }
}

// Calls function(weight) with the weight as the type that its scales ask for.
template <typename Function>
void with_weight(const uint8_t* weight, const float* scales, int64_t scale_groups, int64_t in_features,
                 const Function& function) {
  const int64_t groups = ceil_div(in_features, kGroup);
  if (scale_groups > 1) {
    function(Weight8<true>{{weight, groups}, scales});
  } else {
    function(Weight8<false>{{weight, groups}, scales});
  }
}

}  // namespace
}  // namespace low_bit
}  // namespace paddlemix

using namespace paddlemix;
using namespace paddlemix::low_bit;

void paddlemix_cpu_linear_w8(const float* x, int64_t x_stride, const uint8_t* weight, const float* scales,
                             int64_t groups, const float* bias, float* out, int64_t rows, int64_t in_features,
                             int64_t out_features) {
  with_weight(weight, scales, groups, in_features,
              [=](const auto& packed) { linear(packed, x, x_stride, bias, out, rows, in_features, out_features); });
}

void paddlemix_cpu_quantize_w8(const float* w, int64_t w_stride, int64_t groups, uint8_t* weight, float* scales,
                               int64_t in_features, int64_t out_features) {
  if (in_features <= 0) return;
  const Quantization<float> a{w, w_stride, groups, weight, scales, in_features, out_features};
  parallel_for(ceil_div(out_features, kOutputTile), 1,
               [&a](int64_t begin, int64_t end) { run_body<quantize_body>(a, begin, end); });
}

void paddlemix_cpu_pack_w8(const int8_t* q, uint8_t* weight, int64_t in_features, int64_t out_features) {
  pack<Weight8<true>>(q, weight, in_features, out_features);
}

void paddlemix_cpu_dequantize_w8(const uint8_t* weight, const float* scales, int64_t groups, float* w,
                                 int64_t in_features, int64_t out_features) {
  with_weight(weight, scales, groups, in_features,
              [=](const auto& packed) { dequantize(packed, w, in_features, out_features); });
}
