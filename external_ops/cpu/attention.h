// Shared by attention_prefill and attention_decode: cache addressing, attention masks, scratch memory, 2^x.
//
// Both work with base-2 exponentials: log2(e) is folded into the factor of the query, which saves a product per score.
#pragma once

#include <math.h>
#include <stdlib.h>

#include <algorithm>
#include <limits>
#include <new>

#include "runtime.h"

// For loops over the registers of a tile. Left to the optimizer they are unrolled too late for the array of sums to
// become registers altogether: GCC then stores and reloads every one of them once per tile, a tenth of the time.
#define PADDLEMIX_UNROLL _Pragma("GCC unroll 24")

namespace paddlemix {

constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kNothing = -std::numeric_limits<float>::infinity();  // score of a masked position

// Queries per pass of attention_decode over the cache.
constexpr int64_t kDecodeQueries = 8;

// The cache positions (slots) [begin, end) that a query attends to.
struct SlotRange {
  int64_t begin, end;
};

// The slots that at least one query up to `last_query` of a row attends to.
inline SlotRange visible_slots(const paddlemix_visibility& v, int64_t row, int64_t last_query) {
  SlotRange range{v.kv_starts ? std::max<int64_t>(v.kv_starts[row], 0) : 0, v.kv_lengths[row]};
  if (v.query_starts) range.end = std::min<int64_t>(range.end, v.query_starts[row] + last_query + 1);
  return range;
}

inline const float* mask_row(const paddlemix_visibility& v, int64_t row, int64_t query, int64_t length) {
  return v.mask + ((v.mask_batch == 1 ? 0 : row) * length + query) * v.mask_width;
}

// Element offset of a slot in keys and values, and how many slots from there on follow at slot_stride.
inline int64_t slot_offset(const paddlemix_kv& kv, int64_t row, int64_t head, int64_t slot, int64_t* run) {
  const int64_t page = slot / kv.block_size, place = slot % kv.block_size;
  const int64_t block = kv.block_table ? kv.block_table[row * kv.table_width + page] : row;
  *run = kv.block_size - place;
  return block * kv.block_stride + head * kv.head_stride + place * kv.slot_stride;
}

// Scratch memory that only grows and is freed with its owner; aligned to a cache line, contents undefined.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { free(memory_); }

  float* floats(int64_t count) {
    if (count > capacity_) {
      free(memory_);
      memory_ = nullptr;
      capacity_ = 0;
      if (posix_memalign(&memory_, 64, static_cast<size_t>(count) * sizeof(float))) throw std::bad_alloc();
      capacity_ = count;
    }
    return static_cast<float*>(memory_);
  }

 private:
  void* memory_ = nullptr;
  int64_t capacity_ = 0;
};

// 2^x for x <= 0, to 1.5 units in the last place: 2^x = 2^n p(x - n), p of degree 6 fitted on [-1/2, 1/2] for the least
// relative error. Below 2^-126 it is 0: subnormal weights change no result, but make every product with them slow. NaN
// stays NaN, and -inf gives 0.
constexpr float kExp2Least = -126.0f;
constexpr float kExp2Terms[] = {1.0f,           0.69314718246f,    0.24022646248f,    0.055503286421f,
                                0.00961848907f, 0.00133999309037f, 0.000153458124259f};

inline float exp2_weight(float x) { return x < kExp2Least ? 0.0f : exp2f(x); }

#if PADDLEMIX_X86
PADDLEMIX_TARGET_AVX2 static inline __m256 exp2_weight(__m256 x) {
  const __m256 whole = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m256 rest = _mm256_sub_ps(x, whole);
  __m256 p = _mm256_set1_ps(kExp2Terms[6]);
  for (int i = 5; i >= 0; --i) p = _mm256_fmadd_ps(p, rest, _mm256_set1_ps(kExp2Terms[i]));
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127)), 23);
  // A NaN keeps itself through p, whatever its power has become; _CMP_NLT_UQ is true for it.
  const __m256 kept = _mm256_cmp_ps(x, _mm256_set1_ps(kExp2Least), _CMP_NLT_UQ);
  return _mm256_and_ps(kept, _mm256_mul_ps(p, _mm256_castsi256_ps(power)));
}

PADDLEMIX_TARGET_AVX512 static inline __m512 exp2_weight(__m512 x) {
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 rest = _mm512_sub_ps(x, whole);
  __m512 p = _mm512_set1_ps(kExp2Terms[6]);
  for (int i = 5; i >= 0; --i) p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(kExp2Terms[i]));
  const __mmask16 kept = _mm512_cmp_ps_mask(x, _mm512_set1_ps(kExp2Least), _CMP_NLT_UQ);
  return _mm512_maskz_scalef_ps(kept, p, whole);
}
#endif

}  // namespace paddlemix
