// y = x W + b for one to a few rows of a small float32 weight in Paddle's layout [in_features, out_features].
//
// Floor: the weight is read once, from the second-level cache for the layers this is for (up to a few megabytes, those of
// a small model); larger ones and more rows are left to Paddle's matrix product. That one wakes its threads for every
// product however small: in a step of the bundled model with two threads, a projection of 192 x 576 took 37 microseconds
// that takes 10 with one, Python's part included; here it takes 10 with either. Alone and in a loop, where the threads
// stay awake, both take the same. A thread is started for half a million products. 64 outputs are summed at once, in as many
// lanes, which hides the latency of an addition; the order of additions depends neither on the threads nor on the
// instruction set. What did not help: weights fetched ahead by 16 or 32 inputs, and a second thread for each 64 thousand
// products.
#include <algorithm>

#include "runtime.h"

namespace paddlemix {
namespace {

constexpr int64_t kBlock = 64;       // outputs summed at once: four vectors of sixteen
constexpr int64_t kStretch = 128;    // inputs whose products are summed before they join the sum, for its exactness
constexpr int64_t kGrain = 1 << 19;  // products per thread below which starting one costs more than it saves

template <typename T>
struct Product {
  const T *x, *weight, *bias;
  T* out;
  int64_t rows, in_features, out_features;
};

// Sixteen numbers at any address, in as many registers as they take. An array would be kept in memory instead.
template <typename T>
struct Lanes {
  typedef T type __attribute__((vector_size(16 * sizeof(T)), aligned(sizeof(T)), may_alias));
};

template <typename T>
PADDLEMIX_BODY void multiply_block(const Product<T>& p, const T* __restrict x, const T* __restrict weight,
                                   T* __restrict sums) {
  using V = typename Lanes<T>::type;
  V total[4] = {};
  for (int64_t start = 0; start < p.in_features; start += kStretch) {
    const int64_t stop = std::min(start + kStretch, p.in_features);
    V s0 = {}, s1 = {}, s2 = {}, s3 = {};
    for (int64_t i = start; i < stop; ++i, weight += p.out_features) {
      const V* line = reinterpret_cast<const V*>(weight);
      s0 += x[i] * line[0];
      s1 += x[i] * line[1];
      s2 += x[i] * line[2];
      s3 += x[i] * line[3];
    }
    total[0] += s0;
    total[1] += s1;
    total[2] += s2;
    total[3] += s3;
  }
  for (int v = 0; v < 4; ++v) reinterpret_cast<V*>(sums)[v] = total[v];
}

// The last outputs, fewer than a block.
template <typename T>
PADDLEMIX_BODY void multiply_rest(const Product<T>& p, const T* __restrict x, const T* __restrict weight,
                                  T* __restrict sums, int64_t count) {
  for (int64_t j = 0; j < count; ++j) sums[j] = 0;
  for (int64_t start = 0; start < p.in_features; start += kStretch) {
    const int64_t stop = std::min(start + kStretch, p.in_features);
    T stretch[kBlock] = {};
    for (int64_t i = start; i < stop; ++i, weight += p.out_features) {
      for (int64_t j = 0; j < count; ++j) stretch[j] += x[i] * weight[j];
    }
    for (int64_t j = 0; j < count; ++j) sums[j] += stretch[j];
  }
}

// Blocks [begin, end) of outputs, of all rows.
template <typename T>
PADDLEMIX_BODY void multiply(const Product<T>& p, int64_t begin, int64_t end) {
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * kBlock, count = std::min(kBlock, p.out_features - first);
    for (int64_t row = 0; row < p.rows; ++row) {
      const T* x = p.x + row * p.in_features;
      T sums[kBlock];
      if (count == kBlock) {
        multiply_block(p, x, p.weight + first, sums);
      } else {
        multiply_rest(p, x, p.weight + first, sums, count);
      }
      T* out = p.out + row * p.out_features + first;
      for (int64_t j = 0; j < count; ++j) out[j] = p.bias ? sums[j] + p.bias[first + j] : sums[j];
    }
  }
}

PADDLEMIX_PER_ISA(multiply, Product)

template <typename T>
void linear(const void* x, const void* weight, const void* bias, void* out, int64_t rows, int64_t in_features,
            int64_t out_features) {
  const Product<T> p = {static_cast<const T*>(x), static_cast<const T*>(weight), static_cast<const T*>(bias),
                        static_cast<T*>(out),     rows,                          in_features,
                        out_features};
  const int64_t grain = ceil_div(kGrain, kBlock * std::max<int64_t>(rows * in_features, 1));
  parallel_for(ceil_div(out_features, kBlock), grain, [&](int64_t begin, int64_t end) { run_multiply(p, begin, end); });
}

}  // namespace
}  // namespace paddlemix

void paddlemix_cpu_linear_w32(int dtype, const void* x, const void* weight, const void* bias, void* out, int64_t rows,
                              int64_t in_features, int64_t out_features) {
  if (dtype == PADDLEMIX_FLOAT64) {
    paddlemix::linear<double>(x, weight, bias, out, rows, in_features, out_features);
  } else {
    paddlemix::linear<float>(x, weight, bias, out, rows, in_features, out_features);
  }
}
