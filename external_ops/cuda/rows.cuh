// One block per row, for the norms: how a row is spread over the threads of its block.
#pragma once

#include "common.cuh"

namespace paddlemix {

// Calls visit(k, i) for each pack of N elements, starting at element i, that this thread owns. With kItems > 0 those
// are at most kItems, k counts them at compile time, and what belongs to pack k can stay in registers between two
// visits; with kItems = 0 they are any number, k is always 0 and the row must be read again on each visit.
template <int N, int kItems, typename Visit>
__device__ __forceinline__ void visit_row(int width, Visit visit) {
  const int first = static_cast<int>(threadIdx.x) * N, step = static_cast<int>(blockDim.x) * N;
  if constexpr (kItems > 0) {
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      if (first + k * step < width) visit(k, first + k * step);
    }
  } else {
    for (int64_t i = first; i < width; i += step) visit(0, static_cast<int>(i));
  }
}

// Threads per block of the norms, at most: registers for 4 packs of three arrays each.
constexpr int kRowThreads = 512;

// Calls launch(items, threads) with the least compile-time kItems whose block covers the row.
template <int N, typename Launch>
void with_row_items(int width, Launch launch) {
  const int packs = ceil_div(width, N);
  const auto threads = [&](int items) { return round_up(ceil_div(packs, items), kWarp); };
  if (packs <= 256) {
    launch(std::integral_constant<int, 1>(), threads(1));
  } else if (packs <= 2 * kRowThreads) {
    launch(std::integral_constant<int, 2>(), threads(2));
  } else if (packs <= 4 * kRowThreads) {
    launch(std::integral_constant<int, 4>(), threads(4));
  } else {
    launch(std::integral_constant<int, 0>(), kRowThreads);
  }
}

}  // namespace paddlemix
