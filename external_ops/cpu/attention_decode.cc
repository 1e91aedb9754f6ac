// Attention of one to a few queries per row over a contiguous or paged cache: one step of generation.
//
// Floor: every unmasked slot of K and V comes from memory once, 2 * head_dim * 4 bytes (float32) or * 2 (bf16) per
// slot and head; 32 heads of 128 at 1024 slots: 33.6 MB, 1.6 ms at 21 GB/s. The arithmetic, a quarter or half of an
// operation per byte and query, fits beside it for up to 8 queries, if K and V are read once for all of them.
//
// Split-KV: the slots of each (row, head) are split into pieces of kPiece. A piece is an independent task with an
// unnormalized result, a maximum and a sum, which are merged in the order of the slots. The split depends on the
// slots alone, so that results do not depend on the number of threads. Within a piece all scores come first, then the
// softmax, then the mix of the values, each reading its stream front to back, which suits prefetchers.
//
// Lanes are elements of a head (they lie side by side in the cache, so nothing is transposed). A tile of 16 (AVX2: 8)
// sums over slots x queries is reduced to 16 scores at once, with half an operation per sum instead of four.
#include <vector>

#include "attention_decode_bodies.h"

namespace paddlemix {
namespace {

constexpr int64_t kLeastElements = 1 << 16;  // of K per thread, below which starting one costs more than it saves

struct Attention {
  const float* query;
  paddlemix_strides strides;
  const paddlemix_kv* kv;
  const paddlemix_visibility* visibility;
  float scale;
  float* out;
  int64_t heads, length, head_dim;
  int64_t padded;   // head_dim, filled up
  int64_t partial;  // floats of a query's partial result: [padded] unnormalized out, maximum, sum
};

// Calls visit(first slot's keys, its values, slots before it, count) for each run of evenly spaced slots.
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

// Merges one query's partial results: `pieces` of them, `step` floats apart, to out[head_dim].
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
  const float inverse = sum == 0 ? 0 : 1 / sum;  // all masked: zeros
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
