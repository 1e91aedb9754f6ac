// RMSNorm and LayerNorm with an optional residual addition before them, and their gradients: one template for
// rms_norm.cc and layer_norm.cc. LayerNorm is the centered form: it subtracts the mean first and adds a bias at the end.
//
// Floor: x, residual and out move once, 4 bytes each; at [1, 4096] everything lies in the first-level cache and the call
// itself is the cost. A row is read two or three times (mean, mean square, scaling), after the first time from the
// cache. The variance is that of the differences from the mean, because mean(x^2) - mean(x)^2 loses all digits where the
// mean is large. The 16 partial sums stand for the lanes of one vector, so that the order of additions, hence the
// result, is the same on all instruction sets.
#pragma once

#include <cmath>

#include "vector_math.h"

namespace paddlemix {
namespace {

constexpr int64_t kGrain = 16384;  // elements per thread below which starting one costs more than it saves

// Of the statistics, `mean` belongs to the centered form alone, and so do bias and grad_bias. inverse_deviation is
// 1 / sqrt(mean square + epsilon).
template <typename T>
struct Norm {
  const T *x, *residual, *weight, *bias;
  T *out, *sum, *mean, *inverse_deviation;
  T epsilon;
  int64_t rows, width;
};

template <typename T>
struct NormGrad {
  const T *x, *weight, *mean, *inverse_deviation, *grad_out, *grad_sum;
  T *grad_x, *grad_weight, *grad_bias;
  int64_t rows, width;
};

template <bool kCentered, typename T>
PADDLEMIX_BODY T difference(T x, T mean) {
  if constexpr (kCentered) return x - mean;
  return x;
}

template <bool kCentered, typename T>
PADDLEMIX_BODY void normalize_rows(const Norm<T>& n, int64_t begin, int64_t end) {
  const int64_t width = n.width;
  const T* __restrict weight = n.weight;
  const T* __restrict bias = n.bias;
  for (int64_t row = begin; row < end; ++row) {
    const T* __restrict x = n.x + row * width;
    if (n.residual) {
      const T* __restrict residual = n.residual + row * width;
      T* __restrict sum = n.sum + row * width;
      for (int64_t i = 0; i < width; ++i) sum[i] = x[i] + residual[i];
      x = sum;
    }
    T mean = 0;
    int64_t i = 0;
    if constexpr (kCentered) {
      T totals[kLanes] = {};
      for (; i + kLanes <= width; i += kLanes) {
        for (int j = 0; j < kLanes; ++j) totals[j] += x[i + j];
      }
      for (; i < width; ++i) totals[0] += x[i];
      mean = add_lanes(totals) / static_cast<T>(width);
      if (n.mean) n.mean[row] = mean;
    }
    T squares[kLanes] = {};
    for (i = 0; i + kLanes <= width; i += kLanes) {
      for (int j = 0; j < kLanes; ++j) {
        squares[j] += difference<kCentered>(x[i + j], mean) * difference<kCentered>(x[i + j], mean);
      }
    }
    for (; i < width; ++i) squares[0] += difference<kCentered>(x[i], mean) * difference<kCentered>(x[i], mean);
    const T scale = 1 / std::sqrt(add_lanes(squares) / static_cast<T>(width) + n.epsilon);
    if (n.inverse_deviation) n.inverse_deviation[row] = scale;
    T* __restrict out = n.out + row * width;
    for (i = 0; i < width; ++i) {
      const T scaled = difference<kCentered>(x[i], mean) * scale * weight[i];
      if constexpr (kCentered) {
        out[i] = scaled + bias[i];
      } else {
        out[i] = scaled;
      }
    }
  }
}

// d/dx = scale * (g w - mean(g w) - n * mean(g w n)), n = (x - mean) * scale; without the first mean in RMSNorm.
template <bool kCentered, typename T>
PADDLEMIX_BODY void input_gradient(const NormGrad<T>& n, int64_t begin, int64_t end) {
  const int64_t width = n.width;
  const T* __restrict weight = n.weight;
  for (int64_t row = begin; row < end; ++row) {
    const T* __restrict x = n.x + row * width;
    const T* __restrict grad_out = n.grad_out + row * width;
    T* __restrict grad_x = n.grad_x + row * width;
    const T scale = n.inverse_deviation[row];
    T mean = 0;
    if constexpr (kCentered) mean = n.mean[row];
    T totals[kLanes] = {}, products[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) {
      for (int j = 0; j < kLanes; ++j) {
        const T weighted = grad_out[i + j] * weight[i + j];
        totals[j] += weighted;
        products[j] += weighted * difference<kCentered>(x[i + j], mean);
      }
    }
    for (; i < width; ++i) {
      const T weighted = grad_out[i] * weight[i];
      totals[0] += weighted;
      products[0] += weighted * difference<kCentered>(x[i], mean);
    }
    if constexpr (kCentered) {
      const T shift = add_lanes(totals) / static_cast<T>(width);
      const T slope = add_lanes(products) / static_cast<T>(width) * scale * scale;
      for (i = 0; i < width; ++i) grad_x[i] = (grad_out[i] * weight[i] - shift - (x[i] - mean) * slope) * scale;
    } else {
      const T slope = add_lanes(products) * scale / static_cast<T>(width);
      for (i = 0; i < width; ++i) grad_x[i] = (grad_out[i] * weight[i] - x[i] * scale * slope) * scale;
    }
    if (n.grad_sum) {
      const T* __restrict grad_sum = n.grad_sum + row * width;
      for (i = 0; i < width; ++i) grad_x[i] += grad_sum[i];
    }
  }
}

// Threads share the columns, not the rows: every column is then summed in one order whatever their number.
template <bool kCentered, typename T>
PADDLEMIX_BODY void weight_gradient(const NormGrad<T>& n, int64_t begin, int64_t end) {
  T* __restrict grad_weight = n.grad_weight;
  for (int64_t i = begin; i < end; ++i) grad_weight[i] = 0;
  for (int64_t row = 0; row < n.rows; ++row) {
    const T* __restrict x = n.x + row * n.width;
    const T* __restrict grad_out = n.grad_out + row * n.width;
    const T scale = n.inverse_deviation[row];
    T mean = 0;
    if constexpr (kCentered) mean = n.mean[row];
    for (int64_t i = begin; i < end; ++i) {
      grad_weight[i] += grad_out[i] * (difference<kCentered>(x[i], mean) * scale);
    }
  }
}

template <typename T>
PADDLEMIX_BODY void bias_gradient(const NormGrad<T>& n, int64_t begin, int64_t end) {
  T* __restrict grad_bias = n.grad_bias;
  for (int64_t i = begin; i < end; ++i) grad_bias[i] = 0;
  for (int64_t row = 0; row < n.rows; ++row) {
    const T* __restrict grad_out = n.grad_out + row * n.width;
    for (int64_t i = begin; i < end; ++i) grad_bias[i] += grad_out[i];
  }
}

template <bool kCentered, typename T>
void run_norm(const Norm<T>& n) {
  if (n.rows == 0 || n.width == 0) return;
  parallel_for(n.rows, ceil_div(kGrain, n.width),
               [&](int64_t begin, int64_t end) { run_body<normalize_rows<kCentered, T>>(n, begin, end); });
}

template <bool kCentered, typename T>
void run_norm_grad(const NormGrad<T>& n) {
  if (n.width == 0) return;
  if (n.grad_x) {
    parallel_for(n.rows, ceil_div(kGrain, n.width),
                 [&](int64_t begin, int64_t end) { run_body<input_gradient<kCentered, T>>(n, begin, end); });
  }
  if (n.grad_weight || n.grad_bias) {
    parallel_for(n.width, ceil_div(kGrain, n.rows + 1), [&](int64_t begin, int64_t end) {
      if (n.grad_weight) run_body<weight_gradient<kCentered, T>>(n, begin, end);
      if (n.grad_bias) run_body<bias_gradient<T>>(n, begin, end);
    });
  }
}

// The arrays of either function in one dtype; those of the centered form are null in the other.
template <bool kCentered, typename T>
void normalize(const void* x, const void* residual, const void* weight, const void* bias, double epsilon, void* out,
               void* sum, void* mean, void* inverse_deviation, int64_t rows, int64_t width) {
  run_norm<kCentered, T>({static_cast<const T*>(x), static_cast<const T*>(residual), static_cast<const T*>(weight),
                          static_cast<const T*>(bias), static_cast<T*>(out), static_cast<T*>(sum),
                          static_cast<T*>(mean), static_cast<T*>(inverse_deviation), static_cast<T>(epsilon), rows,
                          width});
}

template <bool kCentered, typename T>
void normalize_grad(const void* x, const void* weight, const void* mean, const void* inverse_deviation,
                    const void* grad_out, const void* grad_sum, void* grad_x, void* grad_weight, void* grad_bias,
                    int64_t rows, int64_t width) {
  run_norm_grad<kCentered, T>({static_cast<const T*>(x), static_cast<const T*>(weight), static_cast<const T*>(mean),
                               static_cast<const T*>(inverse_deviation), static_cast<const T*>(grad_out),
                               static_cast<const T*>(grad_sum), static_cast<T*>(grad_x), static_cast<T*>(grad_weight),
                               static_cast<T*>(grad_bias), rows, width});
}

}  // namespace
}  // namespace paddlemix
