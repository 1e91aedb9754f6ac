// LayerNorm with an optional residual addition before it, and its gradient.
//
// Floor: as for RMSNorm, x, residual and out move once. A row is read three times (mean, variance, scaling), the second
// and third time from the cache: the variance is that of the differences from the mean, because mean(x^2) - mean(x)^2
// loses all digits where the mean is large.
#include <cmath>

#include "vector_math.h"

namespace paddlemix {
namespace {

constexpr int64_t kGrain = 16384;  // elements per thread below which starting one costs more than it saves

template <typename T>
struct Norm {
  const T *x, *residual, *weight, *bias;
  T *out, *sum, *mean, *inverse_std;
  T epsilon;
  int64_t width;
};

template <typename T>
struct NormGrad {
  const T *x, *weight, *mean, *inverse_std, *grad_out, *grad_sum;
  T *grad_x, *grad_weight, *grad_bias;
  int64_t rows, width;
};

template <typename T>
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
    T totals[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) {
      for (int j = 0; j < kLanes; ++j) totals[j] += x[i + j];
    }
    for (; i < width; ++i) totals[0] += x[i];
    const T mean = add_lanes(totals) / static_cast<T>(width);
    T squares[kLanes] = {};
    for (i = 0; i + kLanes <= width; i += kLanes) {
      for (int j = 0; j < kLanes; ++j) squares[j] += (x[i + j] - mean) * (x[i + j] - mean);
    }
    for (; i < width; ++i) squares[0] += (x[i] - mean) * (x[i] - mean);
    const T scale = 1 / std::sqrt(add_lanes(squares) / static_cast<T>(width) + n.epsilon);
    if (n.mean) n.mean[row] = mean;
    if (n.inverse_std) n.inverse_std[row] = scale;
    T* __restrict out = n.out + row * width;
    for (i = 0; i < width; ++i) out[i] = (x[i] - mean) * scale * weight[i] + bias[i];
  }
}

// d/dx = scale * (g w - mean(g w) - n * mean(g w n)), n = (x - mean) * scale.
template <typename T>
PADDLEMIX_BODY void input_gradient(const NormGrad<T>& n, int64_t begin, int64_t end) {
  const int64_t width = n.width;
  const T* __restrict weight = n.weight;
  for (int64_t row = begin; row < end; ++row) {
    const T* __restrict x = n.x + row * width;
    const T* __restrict grad_out = n.grad_out + row * width;
    T* __restrict grad_x = n.grad_x + row * width;
    const T mean = n.mean[row], scale = n.inverse_std[row];
    T totals[kLanes] = {}, products[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) {
      for (int j = 0; j < kLanes; ++j) {
        const T weighted = grad_out[i + j] * weight[i + j];
        totals[j] += weighted;
        products[j] += weighted * (x[i + j] - mean);
      }
    }
    for (; i < width; ++i) {
      const T weighted = grad_out[i] * weight[i];
      totals[0] += weighted;
      products[0] += weighted * (x[i] - mean);
    }
    const T shift = add_lanes(totals) / static_cast<T>(width);
    const T slope = add_lanes(products) / static_cast<T>(width) * scale * scale;
    for (i = 0; i < width; ++i) grad_x[i] = (grad_out[i] * weight[i] - shift - (x[i] - mean) * slope) * scale;
    if (n.grad_sum) {
      const T* __restrict grad_sum = n.grad_sum + row * width;
      for (i = 0; i < width; ++i) grad_x[i] += grad_sum[i];
    }
  }
}

// Threads share the columns, not the rows: every column is then summed in one order whatever their number.
template <typename T>
PADDLEMIX_BODY void weight_gradient(const NormGrad<T>& n, int64_t begin, int64_t end) {
  T* __restrict grad_weight = n.grad_weight;
  for (int64_t i = begin; i < end; ++i) grad_weight[i] = 0;
  for (int64_t row = 0; row < n.rows; ++row) {
    const T* __restrict x = n.x + row * n.width;
    const T* __restrict grad_out = n.grad_out + row * n.width;
    const T mean = n.mean[row], scale = n.inverse_std[row];
    for (int64_t i = begin; i < end; ++i) grad_weight[i] += grad_out[i] * ((x[i] - mean) * scale);
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

PADDLEMIX_PER_ISA(normalize_rows, Norm)
PADDLEMIX_PER_ISA(input_gradient, NormGrad)
PADDLEMIX_PER_ISA(weight_gradient, NormGrad)
PADDLEMIX_PER_ISA(bias_gradient, NormGrad)

template <typename T>
void layer_norm(const Norm<T>& n, int64_t rows) {
  parallel_for(rows, ceil_div(kGrain, n.width), [&](int64_t begin, int64_t end) { run_normalize_rows(n, begin, end); });
}

template <typename T>
void layer_norm_grad(const NormGrad<T>& n) {
  if (n.grad_x) {
    parallel_for(n.rows, ceil_div(kGrain, n.width),
                 [&](int64_t begin, int64_t end) { run_input_gradient(n, begin, end); });
  }
  if (n.grad_weight || n.grad_bias) {
    parallel_for(n.width, ceil_div(kGrain, n.rows + 1), [&](int64_t begin, int64_t end) {
      if (n.grad_weight) run_weight_gradient(n, begin, end);
      if (n.grad_bias) run_bias_gradient(n, begin, end);
    });
  }
}

template <typename T>
Norm<T> make_norm(const void* x, const void* residual, const void* weight, const void* bias, double epsilon, void* out,
                  void* sum, void* mean, void* inverse_std, int64_t width) {
  return {static_cast<const T*>(x),      static_cast<const T*>(residual),
          static_cast<const T*>(weight), static_cast<const T*>(bias),
          static_cast<T*>(out),          static_cast<T*>(sum),
          static_cast<T*>(mean),         static_cast<T*>(inverse_std),
          static_cast<T>(epsilon),       width};
}

template <typename T>
NormGrad<T> make_grad(const void* x, const void* weight, const void* mean, const void* inverse_std,
                      const void* grad_out, const void* grad_sum, void* grad_x, void* grad_weight, void* grad_bias,
                      int64_t rows, int64_t width) {
  return {static_cast<const T*>(x),
          static_cast<const T*>(weight),
          static_cast<const T*>(mean),
          static_cast<const T*>(inverse_std),
          static_cast<const T*>(grad_out),
          static_cast<const T*>(grad_sum),
          static_cast<T*>(grad_x),
          static_cast<T*>(grad_weight),
          static_cast<T*>(grad_bias),
          rows,
          width};
}

}  // namespace
}  // namespace paddlemix

using namespace paddlemix;

void paddlemix_cpu_layer_norm(int dtype, const void* x, const void* residual, const void* weight, const void* bias,
                              double epsilon, void* out, void* sum, void* mean, void* inverse_std, int64_t rows,
                              int64_t width) {
  if (rows == 0 || width == 0) return;
  if (dtype == PADDLEMIX_FLOAT64) {
    layer_norm(make_norm<double>(x, residual, weight, bias, epsilon, out, sum, mean, inverse_std, width), rows);
  } else {
    layer_norm(make_norm<float>(x, residual, weight, bias, epsilon, out, sum, mean, inverse_std, width), rows);
  }
}

void paddlemix_cpu_layer_norm_grad(int dtype, const void* x, const void* weight, const void* mean,
                                   const void* inverse_std, const void* grad_out, const void* grad_sum, void* grad_x,
                                   void* grad_weight, void* grad_bias, int64_t rows, int64_t width) {
  if (width == 0) return;
  if (dtype == PADDLEMIX_FLOAT64) {
    layer_norm_grad(make_grad<double>(x, weight, mean, inverse_std, grad_out, grad_sum, grad_x, grad_weight, grad_bias,
                                      rows, width));
  } else {
    layer_norm_grad(make_grad<float>(x, weight, mean, inverse_std, grad_out, grad_sum, grad_x, grad_weight, grad_bias,
                                     rows, width));
  }
}
