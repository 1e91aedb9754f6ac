// The inner loops of attention_decode per instruction set; what the lanes are is told in attention_decode.cc.
#pragma once

#include "attention.h"

namespace paddlemix {
namespace {

constexpr int64_t kPiece = 256;   // slots; K of a piece is 128 KB at head_dim 128
constexpr int64_t kStretch = 32;  // slots whose values several passes over head_dim find in the first cache
constexpr int64_t kPad = 16;      // rows of queries and partial results are filled up to a multiple of this

// One instruction set's bodies for one dtype T of the cache. `slots` slots of a cache lie `stride` elements apart.
template <typename T>
struct Body {
  // scores[query][slot] = sum over d of query[query][d] * keys[slot][d]; rows of query are `padded` long, filled up
  // with zeros; rows of scores kPiece.
  void (*score)(const float* query, int64_t padded, const T* keys, int64_t stride, int64_t slots, int64_t head_dim,
                float* scores);
  // out[query][d] += sum over slots of weights[query][slot] * values[slot][d]
  void (*mix)(const float* weights, const T* values, int64_t stride, int64_t slots, int64_t head_dim, float* out,
              int64_t padded);
};

// Turns a row of scores, filled up with -inf to a multiple of kPad, into weights 2^(score - max).
using Weigh = void (*)(float* scores, int64_t slots, float* max, float* sum);

inline float widen(float value) { return value; }
inline float widen(uint16_t value) { return bf16_to_float(value); }

// ---------------------------------------------------------------------------------------------------------- portable

template <typename T, int kCount>
void score_portable(const float* query, int64_t padded, const T* keys, int64_t stride, int64_t slots, int64_t head_dim,
                    float* scores) {
  for (int64_t s = 0; s < slots; ++s, keys += stride) {
    for (int q = 0; q < kCount; ++q) {
      float lanes[8] = {};  // as many sums as AVX2 has lanes: a single one would be less exact than the others
      int64_t d = 0;
      for (; d + 8 <= head_dim; d += 8) {
        for (int i = 0; i < 8; ++i) lanes[i] += query[q * padded + d + i] * widen(keys[d + i]);
      }
      for (; d < head_dim; ++d) lanes[d % 8] += query[q * padded + d] * widen(keys[d]);
      for (int half = 4; half; half /= 2) {
        for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
      }
      scores[q * kPiece + s] = lanes[0];
    }
  }
}

template <typename T, int kCount>
void mix_portable(const float* weights, const T* values, int64_t stride, int64_t slots, int64_t head_dim, float* out,
                  int64_t padded) {
  for (int64_t s = 0; s < slots; ++s, values += stride) {
    for (int q = 0; q < kCount; ++q) {
      const float weight = weights[q * kPiece + s];
      for (int64_t d = 0; d < head_dim; ++d) out[q * padded + d] += weight * widen(values[d]);
    }
  }
}

void weigh_portable(float* scores, int64_t slots, float* max, float* sum) {
  float top = kNothing, total = 0;
  for (int64_t s = 0; s < slots; ++s) top = std::max(top, scores[s]);
  const float origin = top == kNothing ? 0 : top;  // nothing seen: all weights are 2^-inf
  for (int64_t s = 0; s < slots; ++s) total += scores[s] = exp2_weight(scores[s] - origin);
  *max = top;
  *sum = total;
}

#if PADDLEMIX_X86

// -------------------------------------------------------------------------------------------------------------- AVX2

PADDLEMIX_TARGET_AVX2 inline __m256 load8(const float* p) { return _mm256_loadu_ps(p); }
PADDLEMIX_TARGET_AVX2 inline __m256 load8(const uint16_t* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

// Lane i of the result is the sum of the lanes of sums[i].
PADDLEMIX_TARGET_AVX2 inline __m256 add_across(const __m256* sums) {
  const __m256 low = _mm256_hadd_ps(_mm256_hadd_ps(sums[0], sums[1]), _mm256_hadd_ps(sums[2], sums[3]));
  const __m256 high = _mm256_hadd_ps(_mm256_hadd_ps(sums[4], sums[5]), _mm256_hadd_ps(sums[6], sums[7]));
  return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}

template <typename T, int kCount>
PADDLEMIX_TARGET_AVX2 void score_avx2(const float* query, int64_t padded, const T* keys, int64_t stride, int64_t slots,
                                      int64_t head_dim, float* scores) {
  constexpr int kSlots = 8 / kCount;
  const int64_t whole = head_dim / 8 * 8;
  for (int64_t s = 0; s < slots; s += kSlots) {
    const int64_t count = std::min<int64_t>(kSlots, slots - s);
    __m256 sums[8];  // [query][slot]
    PADDLEMIX_UNROLL for (int j = 0; j < kSlots; ++j) {
      const T* key = keys + (s + std::min<int64_t>(j, count - 1)) * stride;
      PADDLEMIX_UNROLL for (int q = 0; q < kCount; ++q) sums[q * kSlots + j] = _mm256_setzero_ps();
      for (int64_t d = 0; d < whole; d += 8) {
        const __m256 k = load8(key + d);
        PADDLEMIX_UNROLL for (int q = 0; q < kCount; ++q) {
          sums[q * kSlots + j] = _mm256_fmadd_ps(_mm256_loadu_ps(query + q * padded + d), k, sums[q * kSlots + j]);
        }
      }
    }
    alignas(32) float totals[8];
    _mm256_store_ps(totals, add_across(sums));
    for (int q = 0; q < kCount; ++q) {
      for (int64_t j = 0; j < count; ++j) {
        float total = totals[q * kSlots + j];
        for (int64_t d = whole; d < head_dim; ++d) total += query[q * padded + d] * widen(keys[(s + j) * stride + d]);
        scores[q * kPiece + s + j] = total;
      }
    }
  }
}

template <typename T, int kCount, int kVectors>
PADDLEMIX_TARGET_AVX2 inline void mix_tile_avx2(const float* weights, const T* values, int64_t stride, int64_t slots,
                                                float* out, int64_t padded) {
  __m256 sums[kCount][kVectors];
  PADDLEMIX_UNROLL for (int q = 0; q < kCount; ++q) {
    PADDLEMIX_UNROLL for (int j = 0; j < kVectors; ++j) sums[q][j] = _mm256_setzero_ps();
  }
  for (int64_t s = 0; s < slots; ++s, values += stride) {
    __m256 v[kVectors];
    PADDLEMIX_UNROLL for (int j = 0; j < kVectors; ++j) v[j] = load8(values + 8 * j);
    PADDLEMIX_UNROLL for (int q = 0; q < kCount; ++q) {
      const __m256 w = _mm256_broadcast_ss(weights + q * kPiece + s);
      PADDLEMIX_UNROLL for (int j = 0; j < kVectors; ++j) sums[q][j] = _mm256_fmadd_ps(w, v[j], sums[q][j]);
    }
  }
  PADDLEMIX_UNROLL for (int q = 0; q < kCount; ++q) {
    PADDLEMIX_UNROLL for (int j = 0; j < kVectors; ++j) {
      float* target = out + q * padded + 8 * j;
      _mm256_storeu_ps(target, _mm256_add_ps(_mm256_loadu_ps(target), sums[q][j]));
    }
  }
}

template <typename T, int kCount>
PADDLEMIX_TARGET_AVX2 void mix_avx2(const float* weights, const T* values, int64_t stride, int64_t slots,
                                    int64_t head_dim, float* out, int64_t padded) {
  constexpr int kVectors = kCount == 8 ? 1 : 8 / kCount;
  for (int64_t s = 0; s < slots; s += kStretch) {
    const int64_t count = std::min(kStretch, slots - s);
    int64_t d = 0;
    for (; d + 8 * kVectors <= head_dim; d += 8 * kVectors) {
      mix_tile_avx2<T, kCount, kVectors>(weights + s, values + s * stride + d, stride, count, out + d, padded);
    }
    for (; d + 8 <= head_dim; d += 8) {
      mix_tile_avx2<T, kCount, 1>(weights + s, values + s * stride + d, stride, count, out + d, padded);
    }
    if (d < head_dim) {
      mix_portable<T, kCount>(weights + s, values + s * stride + d, stride, count, head_dim - d, out + d, padded);
    }
  }
}

PADDLEMIX_TARGET_AVX2 void weigh_avx2(float* scores, int64_t slots, float* max, float* sum) {
  __m256 tops = _mm256_set1_ps(kNothing), totals = _mm256_setzero_ps();
  for (int64_t s = 0; s < slots; s += 8) tops = _mm256_max_ps(tops, _mm256_loadu_ps(scores + s));
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, tops);
  const float top = *std::max_element(lanes, lanes + 8);
  const __m256 origin = _mm256_set1_ps(top == kNothing ? 0 : top);
  for (int64_t s = 0; s < slots; s += 8) {
    const __m256 weight = exp2_weight(_mm256_sub_ps(_mm256_loadu_ps(scores + s), origin));
    _mm256_storeu_ps(scores + s, weight);
    totals = _mm256_add_ps(totals, weight);
  }
  _mm256_store_ps(lanes, totals);
  *max = top;
  *sum = ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

// ----------------------------------------------------------------------------------------------------------- AVX-512

PADDLEMIX_TARGET_AVX512 inline __m512 load16(const float* p, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, p); }
PADDLEMIX_TARGET_AVX512 inline __m512 load16(const uint16_t* p, __mmask16 mask) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p)), 16));
}

// Which of the 16 elements from d on exist.
inline uint16_t lanes_left(int64_t head_dim, int64_t d) {
  return head_dim - d >= 16 ? 0xffff : static_cast<uint16_t>((1u << (head_dim - d)) - 1);
}

// Lane i of the result is the sum of the lanes of sums[i].
PADDLEMIX_TARGET_AVX512 inline __m512 add_across(const __m512* sums) {
  __m512 pairs[8], quads[4];
  PADDLEMIX_UNROLL for (int i = 0; i < 8; ++i) {
    pairs[i] = _mm512_add_ps(_mm512_unpacklo_ps(sums[2 * i], sums[2 * i + 1]),
                             _mm512_unpackhi_ps(sums[2 * i], sums[2 * i + 1]));
  }
  PADDLEMIX_UNROLL for (int i = 0; i < 4; ++i) {
    const __m512d a = _mm512_castps_pd(pairs[2 * i]), b = _mm512_castps_pd(pairs[2 * i + 1]);
    quads[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  const __m512 low =
      _mm512_add_ps(_mm512_shuffle_f32x4(quads[0], quads[1], 0x44), _mm512_shuffle_f32x4(quads[0], quads[1], 0xee));
  const __m512 high =
      _mm512_add_ps(_mm512_shuffle_f32x4(quads[2], quads[3], 0x44), _mm512_shuffle_f32x4(quads[2], quads[3], 0xee));
  return _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
}

template <typename T, int kCount>
PADDLEMIX_TARGET_AVX512 void score_avx512(const float* query, int64_t padded, const T* keys, int64_t stride,
                                          int64_t slots, int64_t head_dim, float* scores) {
  constexpr int kSlots = 16 / kCount;
  for (int64_t s = 0; s < slots; s += kSlots) {
    const int64_t count = std::min<int64_t>(kSlots, slots - s);
    __m512 sums[16];  // [query][slot]
    PADDLEMIX_UNROLL for (int j = 0; j < kSlots; ++j) {
      const T* key = keys + (s + std::min<int64_t>(j, count - 1)) * stride;
      PADDLEMIX_UNROLL for (int q = 0; q < kCount; ++q) sums[q * kSlots + j] = _mm512_setzero_ps();
      for (int64_t d = 0; d < head_dim; d += 16) {
        const __m512 k = load16(key + d, lanes_left(head_dim, d));
        PADDLEMIX_UNROLL for (int q = 0; q < kCount; ++q) {
          sums[q * kSlots + j] = _mm512_fmadd_ps(_mm512_loadu_ps(query + q * padded + d), k, sums[q * kSlots + j]);
        }
      }
    }
    const __m512 totals = add_across(sums);
    if (kCount == 1 && count == kSlots) {
      _mm512_storeu_ps(scores + s, totals);
    } else {
      alignas(64) float lanes[16];
      _mm512_store_ps(lanes, totals);
      for (int q = 0; q < kCount; ++q) {
        for (int64_t j = 0; j < count; ++j) scores[q * kPiece + s + j] = lanes[q * kSlots + j];
      }
    }
  }
}

template <typename T, int kCount, int kVectors>
PADDLEMIX_TARGET_AVX512 inline void mix_tile_avx512(const float* weights, const T* values, int64_t stride,
                                                    int64_t slots, __mmask16 last, float* out, int64_t padded) {
  __m512 sums[kCount][kVectors];
  PADDLEMIX_UNROLL for (int q = 0; q < kCount; ++q) {
    PADDLEMIX_UNROLL for (int j = 0; j < kVectors; ++j) sums[q][j] = _mm512_setzero_ps();
  }
  for (int64_t s = 0; s < slots; ++s, values += stride) {
    __m512 v[kVectors];
    PADDLEMIX_UNROLL for (int j = 0; j < kVectors; ++j) {
      v[j] = load16(values + 16 * j, j + 1 < kVectors ? 0xffff : last);
    }
    PADDLEMIX_UNROLL for (int q = 0; q < kCount; ++q) {
      const __m512 w = _mm512_set1_ps(weights[q * kPiece + s]);
      PADDLEMIX_UNROLL for (int j = 0; j < kVectors; ++j) sums[q][j] = _mm512_fmadd_ps(w, v[j], sums[q][j]);
    }
  }
  PADDLEMIX_UNROLL for (int q = 0; q < kCount; ++q) {
    PADDLEMIX_UNROLL for (int j = 0; j < kVectors; ++j) {
      float* target = out + q * padded + 16 * j;  // rows are padded: a whole vector fits
      _mm512_storeu_ps(target, _mm512_add_ps(_mm512_loadu_ps(target), sums[q][j]));
    }
  }
}

template <typename T, int kCount>
PADDLEMIX_TARGET_AVX512 void mix_avx512(const float* weights, const T* values, int64_t stride, int64_t slots,
                                        int64_t head_dim, float* out, int64_t padded) {
  constexpr int kVectors = kCount <= 2 ? 8 : 16 / kCount;  // 8 to 16 sums
  for (int64_t s = 0; s < slots; s += kStretch) {
    const int64_t count = std::min(kStretch, slots - s);
    int64_t d = 0, step;
    for (; d < head_dim; d += step) {
      const int64_t left = ceil_div(head_dim - d, 16);
      step = 16 * (left >= kVectors ? kVectors : left >= 4 ? 4 : 1);
      const __mmask16 last = lanes_left(head_dim, d + step - 16);
      auto tile = left >= kVectors ? mix_tile_avx512<T, kCount, kVectors>
                  : left >= 4      ? mix_tile_avx512<T, kCount, 4>
                                   : mix_tile_avx512<T, kCount, 1>;
      tile(weights + s, values + s * stride + d, stride, count, last, out + d, padded);
    }
  }
}

PADDLEMIX_TARGET_AVX512 void weigh_avx512(float* scores, int64_t slots, float* max, float* sum) {
  __m512 tops = _mm512_set1_ps(kNothing), totals = _mm512_setzero_ps();
  for (int64_t s = 0; s < slots; s += 16) tops = _mm512_max_ps(tops, _mm512_loadu_ps(scores + s));
  const float top = _mm512_reduce_max_ps(tops);
  const __m512 origin = _mm512_set1_ps(top == kNothing ? 0 : top);
  for (int64_t s = 0; s < slots; s += 16) {
    const __m512 weight = exp2_weight(_mm512_sub_ps(_mm512_loadu_ps(scores + s), origin));
    _mm512_storeu_ps(scores + s, weight);
    totals = _mm512_add_ps(totals, weight);
  }
  *max = top;
  *sum = _mm512_reduce_add_ps(totals);
}

#endif  // PADDLEMIX_X86

template <typename T, int kCount>
Body<T> body_in_use() {
#if PADDLEMIX_X86
  if (paddlemix_cpu_isa() >= PADDLEMIX_AVX512) return {score_avx512<T, kCount>, mix_avx512<T, kCount>};
  if (paddlemix_cpu_isa() >= PADDLEMIX_AVX2) return {score_avx2<T, kCount>, mix_avx2<T, kCount>};
#endif
  return {score_portable<T, kCount>, mix_portable<T, kCount>};
}

Weigh weigh_in_use() {
#if PADDLEMIX_X86
  if (paddlemix_cpu_isa() >= PADDLEMIX_AVX512) return weigh_avx512;
  if (paddlemix_cpu_isa() >= PADDLEMIX_AVX2) return weigh_avx2;
#endif
  return weigh_portable;
}

}  // namespace
}  // namespace paddlemix
