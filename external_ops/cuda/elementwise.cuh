// The grid of the elementwise kernels: columns along x, one pack per thread; rows along y, in turns if there are more.
#pragma once

#include "common.cuh"

namespace paddlemix {

constexpr int kElementThreads = 128;  // small, so that even one row is spread over many multiprocessors

inline dim3 element_grid(int64_t rows, int64_t width, int pack_size) {
  const int64_t columns = ceil_div<int64_t>(width, kElementThreads * pack_size);
  return dim3(static_cast<unsigned>(columns), static_cast<unsigned>(rows < 65535 ? rows : 65535));
}

// First element of this thread's pack within its row.
__device__ __forceinline__ int64_t element_column(int pack_size) {
  return (static_cast<int64_t>(blockIdx.x) * kElementThreads + threadIdx.x) * pack_size;
}

}  // namespace paddlemix
