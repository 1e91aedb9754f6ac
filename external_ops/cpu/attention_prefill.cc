// Attention of many queries over a contiguous or paged cache, or over views of a packed projection.
//
// Floor: 4 * length * slots * head_dim operations per head; at 1024 x 1024, 16 heads of 104 that is 7.0 GFLOP, and with
// one read of K and V per block of queries memory does not limit it. Arithmetic does: the kernel keeps the multipliers
// busy, and only tiles of the score matrix exist.
//
// Layout: the lanes of a vector are queries. A panel of 64 queries is transposed once to [head_dim][64]; then
//   scores[slot][64]    = sum over d of key[slot][d] * query[d][64]
//   out[d][64]          = sum over slots of value[slot][d] * weight[slot][64]
// are both "broadcast one number of a row, multiply with a row of lanes": keys and values need no transposition, and
// maximum, exponential and sum of the softmax run down the columns without a single horizontal operation.
// The only transpositions are those of the queries and of the result, 1 / slots of the work.
//
// Tiles: 6 rows x 4 vectors (64 queries) give 24 independent sums, 10 loads for 24 FMAs, in 29 of 32 registers (AVX2: 6
// x 2 in 15 of 16). kSlots = 64 slots of K and V are gathered from wherever they lie into rows side by side (bf16
// becomes float32 on the way), 32 KB each at head_dim 128. A score is summed in chunks of kDepth products: as
// exact as dot products that keep several partial sums, and the 16 KB of queries that a chunk reads stay in the
// first-level cache while keys stream past. kPanels panels use the gathered block before it is replaced.
//
// Measured on one core with two 512-bit FMA units: the two products alone run at 200 to 230 GFLOP/s, as PyTorch's large
// matrix products do, the whole at 163; the softmax takes a tenth, gathering and cold tiles the rest. Blocks of 96 or
// 128 slots and tasks of four panels: within 3 %. One panel to a task is 8 % slower (every block is gathered twice as
// often), chunks of 32 products 3 %.
#include "attention_prefill_bodies.h"

namespace paddlemix {
namespace {

constexpr int64_t kSlots = 64;           // slots in a block
constexpr int64_t kPanels = 2;           // panels in a task
constexpr int64_t kDepth = 64;           // products per partial sum of a score
constexpr int64_t kLeastWork = 1 << 18;  // multiplications per thread below which starting one costs more than it saves

// to[c][r] = from[r][c] * factor * column_factor[c]; the array may be missing. Four by four in registers where the
// processor has them, for the sake of short prompts, whose scores are few.
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
  int64_t first, count, lanes;  // its queries, and the lanes they fill
  float *query, *out;           // [head_dim][kLanes]
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

// Adds the mask to the scores of slots [begin, begin + count) and applies the causal mask.
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
    for (int64_t i = 0; i < kLanes; ++i) panel.sum[i] = panel.sum[i] == 0 ? 0 : 1 / panel.sum[i];  // all masked: zeros
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
  if (batch == 0 || heads == 0 || length == 0 || head_dim == 0) return;
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
