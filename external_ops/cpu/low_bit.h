// Shared by the int8, int4 and nf4 linear layers: activations rounded to 8 bits, blocks of weights, thread splits.
#pragma once

#include <stdint.h>

#include <utility>

#include "runtime.h"

namespace paddlemix {
namespace low_bit {

constexpr int64_t at_most(int64_t value, int64_t limit) { return value < limit ? value : limit; }

constexpr int64_t kRowBlock = 16;  // rows of one matrix tile
constexpr int64_t kLine = 64;      // bytes: one vector, one row of a matrix tile, and one line of the cache
constexpr int64_t kStep = 64;      // inputs that one matrix tile covers
constexpr int64_t kSteps = kGroup / kStep;

constexpr int64_t kPrefetchPanel = 4;  // groups by which unpacking a panel for the matrix tiles prefetches ahead

// Activations rounded to 8 bits in groups of 128 inputs: x = q * scale, q in [-127, 127]. The rows are cut into blocks
// of 16, and each block stores 64 inputs of all its rows together, so that a matrix tile is 1 KB in one piece. A block
// has `height` rows: 16, the rows that are missing being zero, or, if there is only one block, as many as there are.
//   q: [blocks, in / 64, height, 64]; scales: [blocks, groups, height]; sums (of q over 64 inputs): [blocks, groups, 2,
//   height]
// A group that holds NaN or Inf has the scale NaN, which makes all outputs of its row NaN. One whose largest magnitude
// is below 4e-37, where 127 / maximum is no longer finite, is taken for zero.
struct Activations {
  int64_t rows = 0, groups = 0, height = 0;
  int8_t* q = nullptr;
  float* scales = nullptr;
  int32_t* sums = nullptr;

  int64_t blocks() const { return ceil_div(rows, kRowBlock); }
  int64_t rows_of(int64_t block) const { return at_most(rows - block * kRowBlock, kRowBlock); }
  const int8_t* group(int64_t block, int64_t index) const { return q + (block * groups + index) * kGroup * height; }
  int64_t entry(int64_t block, int64_t index) const { return (block * groups + index) * height; }
  // The sum of q over 64 inputs of a row; `row` within the block.
  int32_t step_sum(int64_t block, int64_t index, int64_t step, int64_t row) const {
    return sums[((block * groups + index) * kSteps + step) * height + row];
  }
  // Over the steps [first, last).
  int32_t sum(int64_t block, int64_t index, int64_t first, int64_t last, int64_t row) const {
    int32_t total = 0;
    for (int64_t step = first; step < last; ++step) total += step_sum(block, index, step, row);
    return total;
  }
};

// Rounds x [rows, in_features], its rows `stride` apart. The arrays belong to the calling thread and stay valid until
// its next call. `full_blocks`: pad the last block to 16 rows.
Activations round_activations(const float* x, int64_t stride, int64_t rows, int64_t in_features, bool full_blocks);

// Copies 128 inputs x 16 outputs of w [in_features, out_features] to `block`, zeros where w ends.
template <typename T>
PADDLEMIX_BODY void read_block(const T* w, int64_t stride, int64_t in_features, int64_t out_features, int64_t group,
                               int64_t tile, T (*block)[kOutputTile]) {
  const int64_t inputs = at_most(in_features - group * kGroup, kGroup);
  const int64_t outputs = at_most(out_features - tile * kOutputTile, kOutputTile);
  const T* source = w + group * kGroup * stride + tile * kOutputTile;
  for (int64_t i = 0; i < kGroup; ++i, source += stride) {
    if (i < inputs && outputs == kOutputTile) {
      memcpy(block[i], source, sizeof(T) * kOutputTile);
    } else {
      memset(block[i], 0, sizeof(T) * kOutputTile);
      if (i < inputs) memcpy(block[i], source, sizeof(T) * outputs);
    }
  }
}

// Calls body(begin, end) over the groups of 128 inputs, threaded; each index covers all outputs, so that a thread walks
// along rows of W.
template <typename Function>
void for_groups(int64_t in_features, int64_t out_features, Function&& body) {
  const int64_t work = kGroup * (out_features > 0 ? out_features : 1);
  const int64_t groups = out_features > 0 ? ceil_div(in_features, kGroup) : 0;
  parallel_for(groups, ceil_div(1 << 16, work), std::forward<Function>(body));
}

// 16 floats, in as many registers as the instruction set needs. Only for local variables: as an argument its passing
// would depend on the instruction set.
typedef float Float16 __attribute__((vector_size(64)));
typedef int32_t Int16 __attribute__((vector_size(64)));

// Adding it to |v| < 2^22 leaves v rounded to nearest, ties to even, in the low bits.
constexpr float kRoundingBias = 12582912.f;  // 1.5 * 2^23
constexpr int32_t kRoundingBits = 0x4b400000;
constexpr int32_t kLargestFinite = 0x7f7fffff;

}  // namespace low_bit
}  // namespace paddlemix
