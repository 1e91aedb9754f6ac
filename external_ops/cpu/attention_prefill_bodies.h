// The inner loops of attention_prefill per instruction set; what the lanes are is told in attention_prefill.cc.
#pragma once

#include "attention.h"

namespace paddlemix {
namespace {

constexpr int64_t kLanes = 64;   // queries in a panel
constexpr int64_t kVector = 16;  // panels are filled up to a multiple of this

// One instruction set's bodies. `lanes` is a multiple of kVector; all arrays of lanes have rows of kLanes.
struct Body {
  // scores[slot][lane] (+)= sum over the first `depth` d of keys[slot][d] * query[d][lane]; rows of keys are head_dim
  // apart.
  void (*score)(const float* query, const float* keys, int64_t head_dim, int64_t depth, int64_t slots, int64_t lanes,
                bool add, float* scores);
  // One step of the online softmax: scores become weights 2^(score - max); max and sum [lane] are brought up to date;
  // decay[lane] is what everything that was summed before has to be multiplied with.
  void (*weigh)(float* scores, int64_t slots, int64_t lanes, float* max, float* sum, float* decay);
  // out[d][lane] = out[d][lane] * decay[lane] + sum over slots of values[slot][d] * weights[slot][lane]
  void (*mix)(const float* weights, const float* values, int64_t head_dim, int64_t slots, int64_t lanes,
              const float* decay, float* out);
};

// ---------------------------------------------------------------------------------------------------------- portable

void score_portable(const float* query, const float* keys, int64_t head_dim, int64_t depth, int64_t slots,
                    int64_t lanes, bool add, float* scores) {
  for (int64_t s = 0; s < slots; ++s) {
    float sum[kLanes] = {};
    for (int64_t d = 0; d < depth; ++d) {
      for (int64_t i = 0; i < lanes; ++i) sum[i] += keys[s * head_dim + d] * query[d * kLanes + i];
    }
    float* row = scores + s * kLanes;
    for (int64_t i = 0; i < lanes; ++i) row[i] = add ? row[i] + sum[i] : sum[i];
  }
}

void weigh_portable(float* scores, int64_t slots, int64_t lanes, float* max, float* sum, float* decay) {
  for (int64_t i = 0; i < lanes; ++i) {
    float top = max[i];
    for (int64_t s = 0; s < slots; ++s) top = std::max(top, scores[s * kLanes + i]);
    const float origin = top == kNothing ? 0 : top;  // nothing seen so far: all weights are 2^-inf
    decay[i] = exp2_weight(max[i] - origin);
    max[i] = top;
    float total = 0;
    for (int64_t s = 0; s < slots; ++s) {
      const float weight = exp2_weight(scores[s * kLanes + i] - origin);
      scores[s * kLanes + i] = weight;
      total += weight;
    }
    sum[i] = sum[i] * decay[i] + total;
  }
}

void mix_portable(const float* weights, const float* values, int64_t head_dim, int64_t slots, int64_t lanes,
                  const float* decay, float* out) {
  for (int64_t d = 0; d < head_dim; ++d) {
    float sum[kLanes] = {};
    for (int64_t s = 0; s < slots; ++s) {
      for (int64_t i = 0; i < lanes; ++i) sum[i] += values[s * head_dim + d] * weights[s * kLanes + i];
    }
    for (int64_t i = 0; i < lanes; ++i) out[d * kLanes + i] = out[d * kLanes + i] * decay[i] + sum[i];
  }
}

#if PADDLEMIX_X86

// How many rows the next register tile takes: `most`, else 4, else 1. Two rows left over would cost a pass each, so
// they are avoided where 8 rows can go as 4 + 4.
inline int64_t tile_rows(int64_t left, int64_t most) {
  if (left >= most && left - most != 2) return most;
  return left >= 4 ? 4 : 1;
}

// -------------------------------------------------------------------------------------------------------------- AVX2

template <int kRows>
PADDLEMIX_TARGET_AVX2 inline void score_tile_avx2(const float* query, const float* keys, int64_t head_dim,
                                                  int64_t depth, bool add, float* scores) {
  __m256 sum[kRows][2];
  PADDLEMIX_UNROLL for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = _mm256_setzero_ps();
  for (int64_t d = 0; d < depth; ++d) {
    const __m256 q0 = _mm256_loadu_ps(query + d * kLanes), q1 = _mm256_loadu_ps(query + d * kLanes + 8);
    PADDLEMIX_UNROLL for (int r = 0; r < kRows; ++r) {
      const __m256 k = _mm256_broadcast_ss(keys + r * head_dim + d);
      sum[r][0] = _mm256_fmadd_ps(k, q0, sum[r][0]);
      sum[r][1] = _mm256_fmadd_ps(k, q1, sum[r][1]);
    }
  }
  PADDLEMIX_UNROLL for (int r = 0; r < kRows; ++r) {
    PADDLEMIX_UNROLL for (int j = 0; j < 2; ++j) {
      float* target = scores + r * kLanes + 8 * j;
      _mm256_storeu_ps(target, add ? _mm256_add_ps(_mm256_loadu_ps(target), sum[r][j]) : sum[r][j]);
    }
  }
}

PADDLEMIX_TARGET_AVX2 void score_avx2(const float* query, const float* keys, int64_t head_dim, int64_t depth,
                                      int64_t slots, int64_t lanes, bool add, float* scores) {
  for (int64_t i = 0; i < lanes; i += 16) {
    for (int64_t s = 0, rows; s < slots; s += rows) {
      rows = tile_rows(slots - s, 6);
      auto tile = rows == 6 ? score_tile_avx2<6> : rows == 4 ? score_tile_avx2<4> : score_tile_avx2<1>;
      tile(query + i, keys + s * head_dim, head_dim, depth, add, scores + s * kLanes + i);
    }
  }
}

PADDLEMIX_TARGET_AVX2 void weigh_avx2(float* scores, int64_t slots, int64_t lanes, float* max, float* sum,
                                      float* decay) {
  for (int64_t i = 0; i < lanes; i += 8) {
    const __m256 before = _mm256_loadu_ps(max + i);
    __m256 top = before;
    for (int64_t s = 0; s < slots; ++s) top = _mm256_max_ps(top, _mm256_loadu_ps(scores + s * kLanes + i));
    // Where nothing was seen so far the origin is 0, and all weights are 2^-inf.
    const __m256 seen = _mm256_cmp_ps(top, _mm256_set1_ps(kNothing), _CMP_NEQ_UQ);
    const __m256 origin = _mm256_and_ps(seen, top);
    __m256 total = _mm256_setzero_ps();
    for (int64_t s = 0; s < slots; ++s) {
      const __m256 weight = exp2_weight(_mm256_sub_ps(_mm256_loadu_ps(scores + s * kLanes + i), origin));
      _mm256_storeu_ps(scores + s * kLanes + i, weight);
      total = _mm256_add_ps(total, weight);
    }
    const __m256 less = exp2_weight(_mm256_sub_ps(before, origin));
    _mm256_storeu_ps(decay + i, less);
    _mm256_storeu_ps(max + i, top);
    _mm256_storeu_ps(sum + i, _mm256_fmadd_ps(_mm256_loadu_ps(sum + i), less, total));
  }
}

template <int kRows>
PADDLEMIX_TARGET_AVX2 inline void mix_tile_avx2(const float* weights, const float* values, int64_t head_dim,
                                                int64_t slots, const float* decay, float* out) {
  __m256 sum[kRows][2];
  PADDLEMIX_UNROLL for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = _mm256_setzero_ps();
  for (int64_t s = 0; s < slots; ++s) {
    const __m256 w0 = _mm256_loadu_ps(weights + s * kLanes), w1 = _mm256_loadu_ps(weights + s * kLanes + 8);
    PADDLEMIX_UNROLL for (int r = 0; r < kRows; ++r) {
      const __m256 v = _mm256_broadcast_ss(values + s * head_dim + r);
      sum[r][0] = _mm256_fmadd_ps(v, w0, sum[r][0]);
      sum[r][1] = _mm256_fmadd_ps(v, w1, sum[r][1]);
    }
  }
  PADDLEMIX_UNROLL for (int r = 0; r < kRows; ++r) {
    PADDLEMIX_UNROLL for (int j = 0; j < 2; ++j) {
      float* target = out + r * kLanes + 8 * j;
      _mm256_storeu_ps(target, _mm256_fmadd_ps(_mm256_loadu_ps(target), _mm256_loadu_ps(decay + 8 * j), sum[r][j]));
    }
  }
}

PADDLEMIX_TARGET_AVX2 void mix_avx2(const float* weights, const float* values, int64_t head_dim, int64_t slots,
                                    int64_t lanes, const float* decay, float* out) {
  for (int64_t i = 0; i < lanes; i += 16) {
    for (int64_t d = 0, rows; d < head_dim; d += rows) {
      rows = tile_rows(head_dim - d, 6);
      auto tile = rows == 6 ? mix_tile_avx2<6> : rows == 4 ? mix_tile_avx2<4> : mix_tile_avx2<1>;
      tile(weights + i, values + d, head_dim, slots, decay + i, out + d * kLanes + i);
    }
  }
}

// ----------------------------------------------------------------------------------------------------------- AVX-512

template <int kRows, int kVectors>
PADDLEMIX_TARGET_AVX512 inline void score_tile_avx512(const float* query, const float* keys, int64_t head_dim,
                                                      int64_t depth, bool add, float* scores) {
  __m512 sum[kRows][kVectors];
  PADDLEMIX_UNROLL for (int r = 0; r < kRows; ++r) {
    PADDLEMIX_UNROLL for (int j = 0; j < kVectors; ++j) sum[r][j] = _mm512_setzero_ps();
  }
  for (int64_t d = 0; d < depth; ++d) {
    __m512 q[kVectors];
    PADDLEMIX_UNROLL for (int j = 0; j < kVectors; ++j) q[j] = _mm512_loadu_ps(query + d * kLanes + j * kVector);
    PADDLEMIX_UNROLL for (int r = 0; r < kRows; ++r) {
      const __m512 k = _mm512_set1_ps(keys[r * head_dim + d]);
      PADDLEMIX_UNROLL for (int j = 0; j < kVectors; ++j) sum[r][j] = _mm512_fmadd_ps(k, q[j], sum[r][j]);
    }
  }
  PADDLEMIX_UNROLL for (int r = 0; r < kRows; ++r) {
    PADDLEMIX_UNROLL for (int j = 0; j < kVectors; ++j) {
      float* target = scores + r * kLanes + j * kVector;
      _mm512_storeu_ps(target, add ? _mm512_add_ps(_mm512_loadu_ps(target), sum[r][j]) : sum[r][j]);
    }
  }
}

template <int kRows, int kVectors>
PADDLEMIX_TARGET_AVX512 inline void mix_tile_avx512(const float* weights, const float* values, int64_t head_dim,
                                                    int64_t slots, const float* decay, float* out) {
  __m512 sum[kRows][kVectors];
  PADDLEMIX_UNROLL for (int r = 0; r < kRows; ++r) {
    PADDLEMIX_UNROLL for (int j = 0; j < kVectors; ++j) sum[r][j] = _mm512_setzero_ps();
  }
  for (int64_t s = 0; s < slots; ++s) {
    __m512 w[kVectors];
    PADDLEMIX_UNROLL for (int j = 0; j < kVectors; ++j) w[j] = _mm512_loadu_ps(weights + s * kLanes + j * kVector);
    PADDLEMIX_UNROLL for (int r = 0; r < kRows; ++r) {
      const __m512 v = _mm512_set1_ps(values[s * head_dim + r]);
      PADDLEMIX_UNROLL for (int j = 0; j < kVectors; ++j) sum[r][j] = _mm512_fmadd_ps(v, w[j], sum[r][j]);
    }
  }
  PADDLEMIX_UNROLL for (int r = 0; r < kRows; ++r) {
    PADDLEMIX_UNROLL for (int j = 0; j < kVectors; ++j) {
      float* target = out + r * kLanes + j * kVector;
      const __m512 before = _mm512_loadu_ps(target), less = _mm512_loadu_ps(decay + j * kVector);
      _mm512_storeu_ps(target, _mm512_fmadd_ps(before, less, sum[r][j]));
    }
  }
}

// Rows of a register tile that make 24 sums (16 with one vector: more would not hide more of the latency).
constexpr int rows_avx512(int vectors) { return vectors == 1 ? 16 : 24 / vectors; }

template <int kVectors>
PADDLEMIX_TARGET_AVX512 void score_panel_avx512(const float* query, const float* keys, int64_t head_dim, int64_t depth,
                                                int64_t slots, bool add, float* scores) {
  constexpr int kMost = rows_avx512(kVectors);
  for (int64_t s = 0, rows; s < slots; s += rows) {
    rows = tile_rows(slots - s, kMost);
    auto tile = rows == kMost ? score_tile_avx512<kMost, kVectors>
                : rows == 4   ? score_tile_avx512<4, kVectors>
                              : score_tile_avx512<1, kVectors>;
    tile(query, keys + s * head_dim, head_dim, depth, add, scores + s * kLanes);
  }
}

template <int kVectors>
PADDLEMIX_TARGET_AVX512 void mix_panel_avx512(const float* weights, const float* values, int64_t head_dim,
                                              int64_t slots, const float* decay, float* out) {
  constexpr int kMost = rows_avx512(kVectors);
  for (int64_t d = 0, rows; d < head_dim; d += rows) {
    rows = tile_rows(head_dim - d, kMost);
    auto tile = rows == kMost ? mix_tile_avx512<kMost, kVectors>
                : rows == 4   ? mix_tile_avx512<4, kVectors>
                              : mix_tile_avx512<1, kVectors>;
    tile(weights, values + d, head_dim, slots, decay, out + d * kLanes);
  }
}

void score_avx512(const float* query, const float* keys, int64_t head_dim, int64_t depth, int64_t slots, int64_t lanes,
                  bool add, float* scores) {
  switch (lanes / kVector) {
    case 1: return score_panel_avx512<1>(query, keys, head_dim, depth, slots, add, scores);
    case 2: return score_panel_avx512<2>(query, keys, head_dim, depth, slots, add, scores);
    case 3: return score_panel_avx512<3>(query, keys, head_dim, depth, slots, add, scores);
    default: return score_panel_avx512<4>(query, keys, head_dim, depth, slots, add, scores);
  }
}

PADDLEMIX_TARGET_AVX512 void weigh_avx512(float* scores, int64_t slots, int64_t lanes, float* max, float* sum,
                                          float* decay) {
  for (int64_t i = 0; i < lanes; i += kVector) {
    const __m512 before = _mm512_loadu_ps(max + i);
    __m512 top = before;
    for (int64_t s = 0; s < slots; ++s) top = _mm512_max_ps(top, _mm512_loadu_ps(scores + s * kLanes + i));
    // Where nothing was seen so far the origin is 0, and all weights are 2^-inf.
    const __mmask16 seen = _mm512_cmp_ps_mask(top, _mm512_set1_ps(kNothing), _CMP_NEQ_UQ);
    const __m512 origin = _mm512_maskz_mov_ps(seen, top);
    __m512 total = _mm512_setzero_ps();
    for (int64_t s = 0; s < slots; ++s) {
      const __m512 weight = exp2_weight(_mm512_sub_ps(_mm512_loadu_ps(scores + s * kLanes + i), origin));
      _mm512_storeu_ps(scores + s * kLanes + i, weight);
      total = _mm512_add_ps(total, weight);
    }
    const __m512 less = exp2_weight(_mm512_sub_ps(before, origin));
    _mm512_storeu_ps(decay + i, less);
    _mm512_storeu_ps(max + i, top);
    _mm512_storeu_ps(sum + i, _mm512_fmadd_ps(_mm512_loadu_ps(sum + i), less, total));
  }
}

void mix_avx512(const float* weights, const float* values, int64_t head_dim, int64_t slots, int64_t lanes,
                const float* decay, float* out) {
  switch (lanes / kVector) {
    case 1: return mix_panel_avx512<1>(weights, values, head_dim, slots, decay, out);
    case 2: return mix_panel_avx512<2>(weights, values, head_dim, slots, decay, out);
    case 3: return mix_panel_avx512<3>(weights, values, head_dim, slots, decay, out);
    default: return mix_panel_avx512<4>(weights, values, head_dim, slots, decay, out);
  }
}

#endif  // PADDLEMIX_X86

Body body_in_use() {
#if PADDLEMIX_X86
  if (paddlemix_cpu_isa() >= PADDLEMIX_AVX512) return {score_avx512, weigh_avx512, mix_avx512};
  if (paddlemix_cpu_isa() >= PADDLEMIX_AVX2) return {score_avx2, weigh_avx2, mix_avx2};
#endif
  return {score_portable, weigh_portable, mix_portable};
}

}  // namespace
}  // namespace paddlemix
