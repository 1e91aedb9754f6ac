// Sums over the rows of a matrix, for the gradients of weights and biases.
#pragma once

#include "common.cuh"

namespace paddlemix {

// sums[s][column] += sum over rows of term s, for kSums sums at once. `terms(row, column, values)` gives the terms; a
// NULL sum is not wanted. A warp reads 32 neighboring columns of a row and each column is added up in an order that
// depends on the number of rows alone, so that training is reproducible (atomicAdd into the sums would not be).
template <int kSums, typename Terms>
__global__ void __launch_bounds__(1024)
    column_sums_kernel(Terms terms, float* first, float* second, int rows, int width) {
  __shared__ float partial[kSums][kWarp][kWarp + 1];
  const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  const int column = static_cast<int>(blockIdx.x) * kWarp + x;
  float total[kSums] = {};
  if (column < width) {
#pragma unroll 4
    for (int row = y; row < rows; row += kWarp) {
      float values[kSums];
      terms(row, column, values);
#pragma unroll
      for (int s = 0; s < kSums; ++s) total[s] += values[s];
    }
  }
#pragma unroll
  for (int s = 0; s < kSums; ++s) partial[s][y][x] = total[s];
  __syncthreads();
  // Now warp y adds up column y of the block.
  const int summed = static_cast<int>(blockIdx.x) * kWarp + y;
#pragma unroll
  for (int s = 0; s < kSums; ++s) {
    const float sum = warp_sum(partial[s][x][y]);
    float* const sums = s == 0 ? first : second;
    if (x == 0 && summed < width && sums != nullptr) sums[summed] += sum;
  }
}

template <int kSums, typename Terms>
void column_sums(Terms terms, float* first, float* second, int rows, int width, void* stream) {
  PADDLEMIX_LAUNCH((column_sums_kernel<kSums, Terms>), ceil_div(width, kWarp), dim3(kWarp, kWarp), 0, stream, terms,
                   first, second, rows, width);
}

}  // namespace paddlemix
