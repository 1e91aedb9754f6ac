// Attention of many queries over a contiguous or paged cache, or over views of a packed projection.
//
// Floor: 4 * length * slots * head_dim operations per head; at 1024 x 1024, 16 heads of 104 that is 7.0 GFLOP, and with
// a read of K and V per block of queries the memory has nothing to say. So everything is about keeping the multipliers
// busy, and nothing but tiles of the scores ever exists.
//
// Layout: the lanes of a vector are queries. A panel of 64 queries is transposed once to [head_dim][64]; then
//   scores[slot][64]    = sum over d of key[slot][d] * query[d][64]
//   out[d][64]          = sum over slots of value[slot][d] * weight[slot][64]
// are both "broadcast one number of a row, multiply with a row of lanes", so that keys and values need no transposition
// at all, and maximum, exponential and sum of the softmax run down the columns without a single horizontal operation.
// The only transpositions are those of the queries and of the result, 1 / slots of the work.
//
// Tiles: 6 rows x 4 vectors (64 queries) give 24 independent sums, 10 loads for 24 FMAs, in 29 of 32 registers (AVX2: 6
// x 2 in 15 of 16). kSlots = 64 slots of K and V are gathered from wherever they lie into rows side by side (bf16
// becomes float32 on the way), 32 KB each at head_dim 128. A score is summed up in stretches of kDepth products: as
// exact as dot products that keep several partial sums, and the 16 KB of queries that a stretch reads stay in the
// first-level cache while keys stream past. kPanels panels use the gathered block before it is replaced.
//
// Measured on one core with two 512-bit FMA units: the two products run at 95 % of its peak, the whole at 74 %; a softmax
// step costs a tenth, gathering and cold tiles the rest. Blocks of 96 or 128 slots and tasks of four panels: within 3 %.
// One panel to a task is 8 % slower (every block is gathered twice as often), stretches of 32 products 3 %.
#include "attention.h"

namespace paddlemix {
namespace {

constexpr int64_t kLanes = 64;   // queries in a panel
constexpr int64_t kVector = 16;  // panels are filled up to a multiple of this
constexpr int64_t kSlots = 64;   // slots in a block
constexpr int64_t kPanels = 2;   // panels in a task
constexpr int64_t kDepth = 64;   // products summed up before they join a score
constexpr int64_t kLeastWork = 1 << 18;  // multiplications per thread below which starting one costs more than it saves

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

void score_avx512(const float* query, const float* keys, int64_t head_dim, int64_t depth, int64_t slots,
                  int64_t lanes, bool add, float* scores) {
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

// ------------------------------------------------------------------------------------------------------- every level

// to[c][r] = from[r][c] * row_factor * column_factor[c]; a factor array may be missing. Four by four in registers where
// the processor has them: the plain loop took a sixth of the time of a short prompt.
void transpose(const float* from, int64_t from_stride, float* to, int64_t to_stride, int64_t rows, int64_t columns,
               float factor, const float* column_factor) {
  int64_t r = 0;
#if PADDLEMIX_X86
  for (; r + 4 <= rows; r += 4) {
    int64_t c = 0;
    for (; c + 4 <= columns; c += 4) {
      const __m128 scale =
          column_factor ? _mm_mul_ps(_mm_set1_ps(factor), _mm_loadu_ps(column_factor + c)) : _mm_set1_ps(factor);
      const float* source = from + r * from_stride + c;
      __m128 a = _mm_mul_ps(_mm_loadu_ps(source), scale);
      __m128 b = _mm_mul_ps(_mm_loadu_ps(source + from_stride), scale);
      __m128 x = _mm_mul_ps(_mm_loadu_ps(source + 2 * from_stride), scale);
      __m128 y = _mm_mul_ps(_mm_loadu_ps(source + 3 * from_stride), scale);
      _MM_TRANSPOSE4_PS(a, b, x, y);
      float* target = to + c * to_stride + r;
      _mm_storeu_ps(target, a);
      _mm_storeu_ps(target + to_stride, b);
      _mm_storeu_ps(target + 2 * to_stride, x);
      _mm_storeu_ps(target + 3 * to_stride, y);
    }
    for (; c < columns; ++c) {
      const float scale = column_factor ? factor * column_factor[c] : factor;
      for (int64_t i = 0; i < 4; ++i) to[c * to_stride + r + i] = from[(r + i) * from_stride + c] * scale;
    }
  }
#endif
  for (; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      to[c * to_stride + r] = from[r * from_stride + c] * (column_factor ? factor * column_factor[c] : factor);
    }
  }
}

void copy_row(const float* from, float* to, int64_t count) {
  memcpy(to, from, static_cast<size_t>(count) * sizeof *to);
}

void copy_row(const uint16_t* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = bf16_to_float(from[i]);
}

struct Attention {
  const float* query;
  paddlemix_strides strides;
  const paddlemix_kv* kv;
  const paddlemix_visibility* visibility;
  float scale;
  float* out;
  int64_t heads, length, head_dim;
};

struct Panel {
  int64_t first, count, lanes;          // its queries, and the lanes they fill
  float *query, *out;                   // [head_dim][kLanes]
  float max[kLanes], sum[kLanes];
};

// Slots [begin, begin + count) of K and V as rows of head_dim.
template <typename T>
void gather(const Attention& a, int64_t row, int64_t head, int64_t begin, int64_t count, float* keys, float* values) {
  const T* all_keys = static_cast<const T*>(a.kv->keys);
  const T* all_values = static_cast<const T*>(a.kv->values);
  for (int64_t s = 0; s < count;) {
    int64_t run, offset = slot_offset(*a.kv, row, head, begin + s, &run);
    for (const int64_t end = std::min(s + run, count); s < end; ++s, offset += a.kv->slot_stride) {
      copy_row(all_keys + offset, keys + s * a.head_dim, a.head_dim);
      copy_row(all_values + offset, values + s * a.head_dim, a.head_dim);
    }
  }
}

// Adds the mask to the scores of slots [begin, begin + count) and hides what lies in a query's future.
void hide(const Attention& a, int64_t row, const Panel& panel, int64_t begin, int64_t count, float* scores) {
  const paddlemix_visibility& v = *a.visibility;
  for (int64_t i = 0; i < panel.count; ++i) {
    if (v.mask) {
      const float* mask = mask_row(v, row, panel.first + i, a.length) + begin;
      for (int64_t s = 0; s < count; ++s) scores[s * kLanes + i] += mask[s] * kLog2E;
    }
    const int64_t seen = visible_slots(v, row, panel.first + i).end - begin;
    for (int64_t s = std::max<int64_t>(seen, 0); s < count; ++s) scores[s * kLanes + i] = kNothing;
  }
}

// The queries [first, first + count) of one (row, head).
void attend(const Attention& a, const Body& body, int64_t row, int64_t head, int64_t first, int64_t count,
            float* scratch) {
  const int64_t plane = a.head_dim * kLanes;
  float* keys = scratch;
  float* values = keys + kSlots * a.head_dim;
  float* scores = values + kSlots * a.head_dim;
  float* planes = scores + kSlots * kLanes;

  Panel panels[kPanels];
  const int64_t used = ceil_div(count, kLanes);
  for (int64_t p = 0; p < used; ++p) {
    Panel& panel = panels[p];
    panel.first = first + p * kLanes;
    panel.count = std::min(kLanes, count - p * kLanes);
    panel.lanes = round_up(panel.count, kVector);
    panel.query = planes + 2 * p * plane;
    panel.out = panel.query + plane;
    std::fill(panel.max, panel.max + kLanes, kNothing);
    std::fill(panel.sum, panel.sum + kLanes, 0.0f);
    std::fill(panel.query, panel.query + 2 * plane, 0.0f);
    const float* query = a.query + row * a.strides.batch + head * a.strides.head + panel.first * a.strides.position;
    transpose(query, a.strides.position, panel.query, kLanes, panel.count, a.head_dim, a.scale * kLog2E, nullptr);
  }

  const SlotRange range = visible_slots(*a.visibility, row, first + count - 1);
  for (int64_t begin = range.begin; begin < range.end; begin += kSlots) {
    const int64_t gathered = std::min(kSlots, range.end - begin);
    if (a.kv->dtype == PADDLEMIX_BFLOAT16) {
      gather<uint16_t>(a, row, head, begin, gathered, keys, values);
    } else {
      gather<float>(a, row, head, begin, gathered, keys, values);
    }
    for (int64_t p = 0; p < used; ++p) {
      Panel& panel = panels[p];
      const int64_t first_end = visible_slots(*a.visibility, row, panel.first).end;
      const int64_t last_end = visible_slots(*a.visibility, row, panel.first + panel.count - 1).end;
      const int64_t slots = std::min(gathered, last_end - begin);
      if (slots <= 0) continue;
      alignas(64) float decay[kLanes];
      for (int64_t d = 0; d < a.head_dim; d += kDepth) {
        const int64_t depth = std::min(kDepth, a.head_dim - d);
        body.score(panel.query + d * kLanes, keys + d, a.head_dim, depth, slots, panel.lanes, d > 0, scores);
      }
      if (a.visibility->mask || begin + slots > first_end) hide(a, row, panel, begin, slots, scores);
      body.weigh(scores, slots, panel.lanes, panel.max, panel.sum, decay);
      body.mix(scores, values, a.head_dim, slots, panel.lanes, decay, panel.out);
    }
  }

  for (int64_t p = 0; p < used; ++p) {
    Panel& panel = panels[p];
    for (int64_t i = 0; i < kLanes; ++i) panel.sum[i] = panel.sum[i] == 0 ? 0 : 1 / panel.sum[i];  // none seen: zeros
    const int64_t width = a.heads * a.head_dim;
    float* out = a.out + (row * a.length + panel.first) * width + head * a.head_dim;
    transpose(panel.out, kLanes, out, width, a.head_dim, panel.count, 1.0f, panel.sum);
  }
}

}  // namespace
}  // namespace paddlemix

void paddlemix_cpu_attention_prefill(const float* query, paddlemix_strides query_strides, const paddlemix_kv* kv,
                                     const paddlemix_visibility* visibility, float scale, float* out, int64_t batch,
                                     int64_t heads, int64_t length, int64_t head_dim) {
  using namespace paddlemix;
  if (length <= kDecodeQueries) {  // the panels would be nearly empty
    return paddlemix_cpu_attention_decode(query, query_strides, kv, visibility, scale, out, batch, heads, length,
                                          head_dim);
  }
  const Attention a{query, query_strides, kv, visibility, scale, out, heads, length, head_dim};
  const Body body = body_in_use();
  const int64_t block = kPanels * kLanes, blocks = ceil_div(length, block);
  int64_t longest = 1;
  for (int64_t row = 0; row < batch; ++row) longest = std::max<int64_t>(longest, visibility->kv_lengths[row]);
  const int64_t grain = ceil_div(kLeastWork, std::max<int64_t>(2 * std::min(block, length) * longest * head_dim, 1));
  parallel_for(batch * heads * blocks, grain, [&](int64_t begin, int64_t end) {
    static thread_local Scratch memory;
    float* scratch = memory.floats(kSlots * (2 * head_dim + kLanes) + 2 * kPanels * kLanes * head_dim);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % blocks * block, head = task / blocks % heads, row = task / blocks / heads;
      attend(a, body, row, head, first, std::min(block, length - first), scratch);
    }
  });
}
