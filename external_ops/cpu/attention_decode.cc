// Attention of one to a few queries per row over a contiguous or paged cache: one step of generation.
//
// Floor: every slot of K and V that is seen comes from memory once, 2 * head_dim * 4 bytes (float32) or * 2 (bf16) per
// slot and head; 32 heads of 128 at 1024 slots: 33.6 MB, 1.6 ms at 21 GB/s. The arithmetic, a quarter or half of an
// operation per byte and query, fits beside it for up to 8 queries, if K and V are read once for all of them.
//
// The slots of each (row, head) are cut into pieces of kPiece. A piece is a task: it needs no other piece, leaves its
// unnormalised result, maximum and sum, and these are put together in the order of the slots. The cut depends on the
// slots alone, so that results do not depend on the number of threads. Within a piece all scores come first, then the
// softmax, then the mix of the values, each reading its stream front to back, as prefetchers like it.
//
// Lanes are elements of a head (they lie side by side in the cache, so nothing is transposed). A tile of 16 (AVX2: 8)
// sums over slots x queries is reduced to 16 scores at once, with half an operation per sum instead of four.
#include <vector>

#include "attention.h"

namespace paddlemix {
namespace {

constexpr int64_t kPiece = 256;              // slots; K of a piece is 128 KB at head_dim 128
constexpr int64_t kStretch = 32;             // slots whose values several passes over head_dim find in the first cache
constexpr int64_t kLeastElements = 1 << 16;  // of K per thread, below which starting one costs more than it saves
constexpr int64_t kPad = 16;                 // rows of queries and partial results are filled up to a multiple of this

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
    quads[i] =
        _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  const __m512 low = _mm512_add_ps(_mm512_shuffle_f32x4(quads[0], quads[1], 0x44),
                                   _mm512_shuffle_f32x4(quads[0], quads[1], 0xee));
  const __m512 high = _mm512_add_ps(_mm512_shuffle_f32x4(quads[2], quads[3], 0x44),
                                    _mm512_shuffle_f32x4(quads[2], quads[3], 0xee));
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

// ------------------------------------------------------------------------------------------------------- every level

struct Attention {
  const float* query;
  paddlemix_strides strides;
  const paddlemix_kv* kv;
  const paddlemix_visibility* visibility;
  float scale;
  float* out;
  int64_t heads, length, head_dim;
  int64_t padded;   // head_dim, filled up
  int64_t partial;  // floats of a query's partial result: [padded] unnormalised out, maximum, sum
};

// Calls visit(first slot's keys, its values, slots before it, count) for each stretch of evenly spaced slots.
template <typename T, typename Visit>
void each_run(const Attention& a, int64_t row, int64_t head, int64_t begin, int64_t count, Visit&& visit) {
  for (int64_t s = 0, taken; s < count; s += taken) {
    int64_t run;
    const int64_t offset = slot_offset(*a.kv, row, head, begin + s, &run);
    taken = std::min(run, count - s);
    visit(static_cast<const T*>(a.kv->keys) + offset, static_cast<const T*>(a.kv->values) + offset, s, taken);
  }
}

// kCount queries from `first` on over the slots [begin, begin + count); those past `length` are zeros whose results
// are dropped. `scratch`: the queries [kCount][padded], the scores [kCount][kPiece], and the results [kCount][padded].
template <typename T, int kCount>
void attend(const Attention& a, int64_t row, int64_t head, int64_t first, int64_t begin, int64_t count, float* scratch,
            float* partial) {
  const paddlemix_visibility& v = *a.visibility;
  const int64_t used = std::min<int64_t>(kCount, a.length - first), filled = round_up(count, kPad);
  float* query = scratch;
  float* scores = query + kCount * a.padded;
  float* out = scores + kCount * kPiece;
  std::fill(query, query + kCount * a.padded, 0.0f);
  std::fill(out, out + kCount * a.padded, 0.0f);
  for (int64_t q = 0; q < used; ++q) {
    const float* from = a.query + row * a.strides.batch + head * a.strides.head + (first + q) * a.strides.position;
    for (int64_t d = 0; d < a.head_dim; ++d) query[q * a.padded + d] = from[d] * (a.scale * kLog2E);
  }

  const Body<T> body = body_in_use<T, kCount>();
  each_run<T>(a, row, head, begin, count, [&](const T* keys, const T*, int64_t s, int64_t slots) {
    body.score(query, a.padded, keys, a.kv->slot_stride, slots, a.head_dim, scores + s);
  });
  const Weigh weigh = weigh_in_use();
  for (int64_t q = 0; q < kCount; ++q) {
    float* row_scores = scores + q * kPiece;
    if (q < used && v.mask) {
      const float* mask = mask_row(v, row, first + q, a.length) + begin;
      for (int64_t s = 0; s < count; ++s) row_scores[s] += mask[s] * kLog2E;
    }
    const int64_t seen = q < used ? visible_slots(v, row, first + q).end - begin : 0;
    std::fill(row_scores + std::max<int64_t>(0, std::min(seen, count)), row_scores + filled, kNothing);
    float ignored[2];
    float* statistics = q < used ? partial + q * a.partial + a.padded : ignored;
    weigh(row_scores, filled, statistics, statistics + 1);
  }
  each_run<T>(a, row, head, begin, count, [&](const T*, const T* values, int64_t s, int64_t slots) {
    body.mix(scores + s, values, a.kv->slot_stride, slots, a.head_dim, out, a.padded);
  });
  for (int64_t q = 0; q < used; ++q) memcpy(partial + q * a.partial, out + q * a.padded, a.padded * sizeof(float));
}

// All queries over one piece; K and V come from memory for the first eight and are in the second cache for others.
template <typename T>
void attend_piece(const Attention& a, int64_t row, int64_t head, int64_t begin, int64_t count, float* scratch,
                  float* partial) {
  for (int64_t first = 0; first < a.length; first += kDecodeQueries, partial += kDecodeQueries * a.partial) {
    const int64_t left = a.length - first;
    auto attend_some = left > 4 ? attend<T, 8> : left > 2 ? attend<T, 4> : left > 1 ? attend<T, 2> : attend<T, 1>;
    attend_some(a, row, head, first, begin, count, scratch, partial);
  }
}

// Puts one query's partial results together: `pieces` of them, `step` floats apart, to out[head_dim].
void combine(const Attention& a, const float* partial, int64_t pieces, int64_t step, float* out) {
  float top = kNothing, sum = 0;
  for (int64_t p = 0; p < pieces; ++p) top = std::max(top, partial[p * step + a.padded]);
  std::fill(out, out + a.head_dim, 0.0f);
  if (top == kNothing) top = 0;
  for (int64_t p = 0; p < pieces; ++p) {
    const float* from = partial + p * step;
    const float factor = exp2_weight(from[a.padded] - top);
    sum += from[a.padded + 1] * factor;
    for (int64_t d = 0; d < a.head_dim; ++d) out[d] += from[d] * factor;
  }
  const float inverse = sum == 0 ? 0 : 1 / sum;  // nothing seen: zeros
  for (int64_t d = 0; d < a.head_dim; ++d) out[d] *= inverse;
}

}  // namespace
}  // namespace paddlemix

void paddlemix_cpu_attention_decode(const float* query, paddlemix_strides query_strides, const paddlemix_kv* kv,
                                    const paddlemix_visibility* visibility, float scale, float* out, int64_t batch,
                                    int64_t heads, int64_t length, int64_t head_dim) {
  using namespace paddlemix;
  if (batch == 0 || heads == 0 || length == 0 || head_dim == 0) return;
  const int64_t padded = round_up(head_dim, kPad);
  const Attention a{query, query_strides, kv, visibility, scale, out, heads, length, head_dim, padded, padded + 2};

  // The tasks of row r are first_task[r] ...: for each head, for each piece.
  std::vector<int64_t> first_task(static_cast<size_t>(batch) + 1, 0);
  int64_t elements = 0;
  for (int64_t row = 0; row < batch; ++row) {
    const SlotRange range = visible_slots(*visibility, row, length - 1);
    const int64_t slots = std::max<int64_t>(range.end - range.begin, 0);
    first_task[row + 1] = first_task[row] + heads * ceil_div(slots, kPiece);
    elements += heads * slots * head_dim;
  }
  const int64_t tasks = first_task[batch], step = length * a.partial;
  static thread_local Scratch results;
  float* partials = results.floats(tasks * step);

  const int64_t per_task = elements / std::max<int64_t>(tasks, 1);
  parallel_for(tasks, ceil_div(kLeastElements, std::max<int64_t>(per_task, 1)), [&](int64_t begin, int64_t end) {
    static thread_local Scratch memory;
    float* scratch = memory.floats(kDecodeQueries * (2 * padded + kPiece));
    int64_t row = std::upper_bound(first_task.begin(), first_task.end(), begin) - first_task.begin() - 1;
    for (int64_t task = begin; task < end; ++task) {
      while (task >= first_task[row + 1]) ++row;
      const SlotRange range = visible_slots(*visibility, row, length - 1);
      const int64_t pieces = (first_task[row + 1] - first_task[row]) / heads;
      const int64_t head = (task - first_task[row]) / pieces, piece = (task - first_task[row]) % pieces;
      const int64_t slot = range.begin + piece * kPiece, count = std::min(kPiece, range.end - slot);
      auto attend_dtype = kv->dtype == PADDLEMIX_BFLOAT16 ? attend_piece<uint16_t> : attend_piece<float>;
      attend_dtype(a, row, head, slot, count, scratch, partials + task * step);
    }
  });

  const int64_t width = heads * head_dim;
  const int64_t results_per_thread = ceil_div(kLeastElements, length * head_dim * ceil_div(tasks, batch * heads) + 1);
  parallel_for(batch * heads, results_per_thread, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / heads, head = i % heads;
      const int64_t pieces = (first_task[row + 1] - first_task[row]) / heads;
      const float* partial = partials + (first_task[row] + head * pieces) * step;
      for (int64_t q = 0; q < length; ++q) {
        combine(a, partial + q * a.partial, pieces, step, out + (row * length + q) * width + head * head_dim);
      }
    }
  });
}
