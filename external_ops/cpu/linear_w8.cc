// Linear layers with weights of 8 bits (int8, symmetric, one float32 scale per output, or per output and 128 inputs).
//
// Layout: see paddlemix_cpu.h. Per tile of 16 outputs and group of 128 inputs there are 32 lines of 64 bytes, 2 KB.
//
// Floor: a row reads in * out bytes and is bound by them: one thread reads at 16 to 17 GB/s, as fast as a plain read,
// up to 8 rows. Many rows are bound by the products: see low_bit_amx.h.
#include "low_bit_product.h"

namespace paddlemix {
namespace low_bit {
namespace {

template <bool GroupScales>
struct Weight8 {
  static constexpr int64_t kInputsPerLine = 4, kLinesPerGroup = 32;
  static constexpr int kParts = 1, kZero = 128;
  static constexpr bool kGroupScales = GroupScales, kSignedAvx2 = true;
  static constexpr int64_t kAhead = 2048;

  const uint8_t* weight;
  const float* float_scales;
  int64_t groups;

  const uint8_t* group(int64_t tile, int64_t index) const {
    return weight + (tile * groups + index) * kLinesPerGroup * kLine;
  }
  const float* scales_at(int64_t tile, int64_t index) const {
    return float_scales + (GroupScales ? tile * groups + index : tile) * kOutputTile;
  }
  static int32_t byte(const uint8_t* line, int64_t output, int64_t input) { return line[output * 4 + input]; }
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
      _mm_prefetch(lines + kChunkGroups * kLinesPerGroup * kLine, _MM_HINT_T0);
      _mm512_store_si512(to, _mm512_xor_si512(_mm512_loadu_si512(lines), _mm512_set1_epi8(-128)));
    }
  }
#endif
};

// The lines of one tile and group, from q in [-127, 127].
PADDLEMIX_BODY void pack_group(const int8_t (*q)[kOutputTile], uint8_t* lines) {
  for (int64_t i = 0; i < kGroup; i += 4, lines += kLine) {
    for (int64_t o = 0; o < kOutputTile; ++o) {
      for (int64_t j = 0; j < 4; ++j) lines[o * 4 + j] = static_cast<uint8_t>(q[i + j][o] + 128);
    }
  }
}

constexpr int64_t kGroupLines = 32 * kLine;

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

struct Quantization {
  const float* w;
  int64_t stride, scale_groups;
  uint8_t* weight;
  float* scales;
  int64_t in_features, out_features;
};

// Index: a tile. NaN or Inf among the values of a scale make that scale NaN; if all are below 4e-37, where
// 127 / maximum is not finite, they are taken for zero.
PADDLEMIX_BODY void quantize_body(const Quantization& a, int64_t begin, int64_t end) {
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
      pack_group(q, a.weight + (tile * groups + group) * kGroupLines);
    }
  }
}

void quantize_portable(const Quantization& a, int64_t begin, int64_t end) { quantize_body(a, begin, end); }
#if PADDLEMIX_X86
PADDLEMIX_TARGET_AVX2 void quantize_avx2(const Quantization& a, int64_t begin, int64_t end) {
  quantize_body(a, begin, end);
}
PADDLEMIX_TARGET_AVX512 void quantize_avx512(const Quantization& a, int64_t begin, int64_t end) {
  quantize_body(a, begin, end);
}
#endif

}  // namespace
}  // namespace low_bit
}  // namespace paddlemix

using namespace paddlemix;
using namespace paddlemix::low_bit;

void paddlemix_cpu_linear_w8(const float* x, int64_t x_stride, const uint8_t* weight, const float* scales,
                             int64_t groups, const float* bias, float* out, int64_t rows, int64_t in_features,
                             int64_t out_features) {
  const int64_t blocks = ceil_div(in_features, kGroup);
  if (groups > 1) {
    linear(Weight8<true>{weight, scales, blocks}, x, x_stride, bias, out, rows, in_features, out_features);
  } else {
    linear(Weight8<false>{weight, scales, blocks}, x, x_stride, bias, out, rows, in_features, out_features);
  }
}

void paddlemix_cpu_quantize_w8(const float* w, int64_t w_stride, int64_t groups, uint8_t* weight, float* scales,
                               int64_t in_features, int64_t out_features) {
  if (in_features <= 0) return;
  const Quantization quantization{w, w_stride, groups, weight, scales, in_features, out_features};
  parallel_for(ceil_div(out_features, kOutputTile), 1, [&quantization](int64_t begin, int64_t end) {
#if PADDLEMIX_X86
    const int isa = paddlemix_cpu_isa();
    if (isa >= PADDLEMIX_AVX512) return quantize_avx512(quantization, begin, end);
    if (isa >= PADDLEMIX_AVX2) return quantize_avx2(quantization, begin, end);
#endif
    quantize_portable(quantization, begin, end);
  });
}

void paddlemix_cpu_pack_w8(const int8_t* q, uint8_t* weight, int64_t in_features, int64_t out_features) {
  const int64_t groups = ceil_div(in_features, kGroup);
  for_groups(in_features, out_features, [=](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      for (int64_t tile = 0; tile < ceil_div(out_features, kOutputTile); ++tile) {
        int8_t block[kGroup][kOutputTile];
        read_block(q, out_features, in_features, out_features, group, tile, block);
        pack_group(block, weight + (tile * groups + group) * kGroupLines);
      }
    }
  });
}

void paddlemix_cpu_dequantize_w8(const uint8_t* weight, const float* scales, int64_t groups, float* w,
                                 int64_t in_features, int64_t out_features) {
  const int64_t blocks = ceil_div(in_features, kGroup);
  for_groups(in_features, out_features, [=](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      const int64_t inputs = at_most(in_features - group * kGroup, kGroup);
      for (int64_t tile = 0; tile < ceil_div(out_features, kOutputTile); ++tile) {
        const int64_t outputs = at_most(out_features - tile * kOutputTile, kOutputTile);
        const float* scale = scales + (groups == 1 ? tile : tile * blocks + group) * kOutputTile;
        const uint8_t* lines = weight + (tile * blocks + group) * kGroupLines;
        for (int64_t i = 0; i < inputs; ++i) {
          float values[kOutputTile];
          for (int64_t o = 0; o < kOutputTile; ++o) {
            values[o] = static_cast<float>(lines[i / 4 * kLine + o * 4 + i % 4] - 128) * scale[o];
          }
          memcpy(w + (group * kGroup + i) * out_features + tile * kOutputTile, values, sizeof(float) * outputs);
        }
      }
    }
  });
}
