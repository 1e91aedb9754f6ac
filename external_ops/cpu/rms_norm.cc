// RMSNorm with an optional residual addition before it, and its gradient.
//
// Floor: x, residual and out move once, 4 bytes each; at [1, 4096] everything lies in the first-level cache and the call
// itself is the cost. A row is read twice (statistics, then scaling), the second time from the cache. Each body is
// written once and compiled per instruction set; the 16 partial sums stand for the lanes of one vector, so that the
// order of additions, hence the result, is the same on all of them.
#include <cmath>

#include "runtime.h"
#include "vector_math.h"

namespace paddlemix {
namespace {

constexpr int64_t kGrain = 16384;  // elements per thread below which starting one costs more than it saves

template <typename T>
struct Norm {
  const T *x, *residual, *weight;
  T *out, *sum, *inverse_rms;
  T epsilon;
  int64_t width;
};

template <typename T>
struct NormGrad {
  const T *x, *weight, *inverse_rms, *grad_out, *grad_sum;
  T *grad_x, *grad_weight;
  int64_t rows, width;
};

template <typename T>
PADDLEMIX_BODY void normalize_rows(const Norm<T>& n, int64_t begin, int64_t end) {
  const int64_t width = n.width;
  for (int64_t row = begin; row < end; ++row) {
    const T* __restrict x = n.x + row * width;
    if (n.residual) {
      const T* __restrict residual = n.residual + row * width;
      T* __restrict sum = n.sum + row * width;
      for (int64_t i = 0; i < width; ++i) sum[i] = x[i] + residual[i];
      x = sum;
    }
    T lanes[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) {
      for (int j = 0; j < kLanes; ++j) lanes[j] += x[i + j] * x[i + j];
    }
    for (; i < width; ++i) lanes[0] += x[i] * x[i];
    const T scale = 1 / std::sqrt(add_lanes(lanes) / static_cast<T>(width) + n.epsilon);
    if (n.inverse_rms) n.inverse_rms[row] = scale;
    const T* __restrict weight = n.weight;
    T* __restrict out = n.out + row * width;
    for (i = 0; i < width; ++i) out[i] = x[i] * scale * weight[i];
  }
}

// d/dx = scale * (g w - n * mean(g w n)), n = x * scale.
template <typename T>
PADDLEMIX_BODY void input_gradient(const NormGrad<T>& n, int64_t begin, int64_t end) {
  const int64_t width = n.width;
  const T* __restrict weight = n.weight;
  for (int64_t row = begin; row < end; ++row) {
    const T* __restrict x = n.x + row * width;
    const T* __restrict grad_out = n.grad_out + row * width;
    T* __restrict grad_x = n.grad_x + row * width;
    const T scale = n.inverse_rms[row];
    T lanes[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) {
      for (int j = 0; j < kLanes; ++j) lanes[j] += grad_out[i + j] * weight[i + j] * x[i + j];
    }
    for (; i < width; ++i) lanes[0] += grad_out[i] * weight[i] * x[i];
    const T mean = add_lanes(lanes) * scale / static_cast<T>(width);
    for (i = 0; i < width; ++i) grad_x[i] = (grad_out[i] * weight[i] - x[i] * scale * mean) * scale;
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
    const T scale = n.inverse_rms[row];
    for (int64_t i = begin; i < end; ++i) grad_weight[i] += grad_out[i] * (x[i] * scale);
  }
}

PADDLEMIX_PER_ISA(normalize_rows, Norm)
PADDLEMIX_PER_ISA(input_gradient, NormGrad)
PADDLEMIX_PER_ISA(weight_gradient, NormGrad)

template <typename T>
void rms_norm(const Norm<T>& n, int64_t rows) {
  parallel_for(rows, ceil_div(kGrain, n.width), [&](int64_t begin, int64_t end) { run_normalize_rows(n, begin, end); });
}

template <typename T>
void rms_norm_grad(const NormGrad<T>& n) {
  if (n.grad_x) {
    parallel_for(n.rows, ceil_div(kGrain, n.width),
                 [&](int64_t begin, int64_t end) { run_input_gradient(n, begin, end); });
  }
  if (n.grad_weight) {
    parallel_for(n.width, ceil_div(kGrain, n.rows + 1),
                 [&](int64_t begin, int64_t end) { run_weight_gradient(n, begin, end); });
  }
}

template <typename T>
Norm<T> make_norm(const void* x, const void* residual, const void* weight, double epsilon, void* out, void* sum,
                  void* inverse_rms, int64_t width) {
  return {
      static_cast<const T*>(x), static_cast<const T*>(residual), static_cast<const T*>(weight), static_cast<T*>(out),
      static_cast<T*>(sum),     static_cast<T*>(inverse_rms),    static_cast<T>(epsilon),       width};
}

template <typename T>
NormGrad<T> make_grad(const void* x, const void* weight, const void* inverse_rms, const void* grad_out,
                      const void* grad_sum, void* grad_x, void* grad_weight, int64_t rows, int64_t width) {
  return {static_cast<const T*>(x),
          static_cast<const T*>(weight),
          static_cast<const T*>(inverse_rms),
          static_cast<const T*>(grad_out),
          static_cast<const T*>(grad_sum),
          static_cast<T*>(grad_x),
          static_cast<T*>(grad_weight),
          rows,
          width};
}

}  // namespace
}  // namespace paddlemix

using namespace paddlemix;

void paddlemix_cpu_rms_norm(int dtype, const void* x, const void* residual, const void* weight, double epsilon,
                            void* out, void* sum, void* inverse_rms, int64_t rows, int64_t width) {
  if (rows == 0 || width == 0) return;
  if (dtype == PADDLEMIX_FLOAT64) {
    rms_norm(make_norm<double>(x, residual, weight, epsilon, out, sum, inverse_rms, width), rows);
  } else {
    rms_norm(make_norm<float>(x, residual, weight, epsilon, out, sum, inverse_rms, width), rows);
  }
}

void paddlemix_cpu_rms_norm_grad(int dtype, const void* x, const void* weight, const void* inverse_rms,
                                 const void* grad_out, const void* grad_sum, void* grad_x, void* grad_weight,
                                 int64_t rows, int64_t width) {
  if (width == 0) return;
  if (dtype == PADDLEMIX_FLOAT64) {
    rms_norm_grad(make_grad<double>(x, weight, inverse_rms, grad_out, grad_sum, grad_x, grad_weight, rows, width));
  } else {
    rms_norm_grad(make_grad<float>(x, weight, inverse_rms, grad_out, grad_sum, grad_x, grad_weight, rows, width));
  }
}
