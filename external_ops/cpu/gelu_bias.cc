// GELU with the exact normal distribution, after the addition of a bias, and its gradient.
//
// Floor: x and out move once, 4 bytes each; exp, one division and a polynomial of degree 9 are some fifty vector
// instructions for every 16 elements of AVX-512, so that the arithmetic takes about as long as two cores need to move
// them from memory.
#include <algorithm>

#include "vector_math.h"

namespace paddlemix {
namespace {

constexpr int64_t kGrain = 8192;  // elements per thread below which starting one costs more than it saves

template <typename T>
struct Biased {
  const T *x, *bias, *grad_out;
  T *out, *grad_x, *grad_bias;
  int64_t rows, width;
};

template <typename T>
PADDLEMIX_BODY T gelu(T x) {
  return x * normal(x).probability;
}

template <typename T>
PADDLEMIX_BODY T gelu_slope(T x) {
  const Normal<T> n = normal(x);
  return n.probability + x * n.density;
}

// begin and end count elements of [rows, width].
template <typename T>
PADDLEMIX_BODY void activate(const Biased<T>& g, int64_t begin, int64_t end) {
  const T* __restrict bias = g.bias;
  for (int64_t row = begin / g.width; row * g.width < end; ++row) {
    const T* __restrict x = g.x + row * g.width;
    T* __restrict out = g.out + row * g.width;
    const int64_t first = std::max<int64_t>(0, begin - row * g.width), last = std::min(g.width, end - row * g.width);
    if (bias) {
      for (int64_t i = first; i < last; ++i) out[i] = gelu(x[i] + bias[i]);
    } else {
      for (int64_t i = first; i < last; ++i) out[i] = gelu(x[i]);
    }
  }
}

template <typename T>
PADDLEMIX_BODY void input_gradient(const Biased<T>& g, int64_t begin, int64_t end) {
  const T* __restrict bias = g.bias;
  for (int64_t row = begin / g.width; row * g.width < end; ++row) {
    const T* __restrict x = g.x + row * g.width;
    const T* __restrict grad_out = g.grad_out + row * g.width;
    T* __restrict grad_x = g.grad_x + row * g.width;
    const int64_t first = std::max<int64_t>(0, begin - row * g.width), last = std::min(g.width, end - row * g.width);
    if (bias) {
      for (int64_t i = first; i < last; ++i) grad_x[i] = grad_out[i] * gelu_slope(x[i] + bias[i]);
    } else {
      for (int64_t i = first; i < last; ++i) grad_x[i] = grad_out[i] * gelu_slope(x[i]);
    }
  }
}

// Threads share the columns, not the rows: every column is then summed in one order whatever their number.
template <typename T>
PADDLEMIX_BODY void bias_gradient(const Biased<T>& g, int64_t begin, int64_t end) {
  T* __restrict grad_bias = g.grad_bias;
  for (int64_t i = begin; i < end; ++i) grad_bias[i] = 0;
  for (int64_t row = 0; row < g.rows; ++row) {
    const T* __restrict grad_x = g.grad_x + row * g.width;
    for (int64_t i = begin; i < end; ++i) grad_bias[i] += grad_x[i];
  }
}

template <typename T>
void gelu_bias(const void* x, const void* bias, void* out, int64_t rows, int64_t width) {
  const Biased<T> g = {static_cast<const T*>(x),
                       static_cast<const T*>(bias),
                       nullptr,
                       static_cast<T*>(out),
                       nullptr,
                       nullptr,
                       rows,
                       width};
  parallel_for(rows * width, kGrain, [&](int64_t begin, int64_t end) { run_body<activate<T>>(g, begin, end); });
}

template <typename T>
void gelu_bias_grad(const void* x, const void* bias, const void* grad_out, void* grad_x, void* grad_bias, int64_t rows,
                    int64_t width) {
  const Biased<T> g = {static_cast<const T*>(x),
                       static_cast<const T*>(bias),
                       static_cast<const T*>(grad_out),
                       nullptr,
                       static_cast<T*>(grad_x),
                       static_cast<T*>(grad_bias),
                       rows,
                       width};
  parallel_for(rows * width, kGrain, [&](int64_t begin, int64_t end) { run_body<input_gradient<T>>(g, begin, end); });
  if (!g.grad_bias) return;
  parallel_for(width, ceil_div(kGrain, rows + 1),
               [&](int64_t begin, int64_t end) { run_body<bias_gradient<T>>(g, begin, end); });
}

}  // namespace
}  // namespace paddlemix

using namespace paddlemix;

void paddlemix_cpu_gelu_bias(int dtype, const void* x, const void* bias, void* out, int64_t rows, int64_t width) {
  if (dtype == PADDLEMIX_FLOAT64) {
    gelu_bias<double>(x, bias, out, rows, width);
  } else {
    gelu_bias<float>(x, bias, out, rows, width);
  }
}

void paddlemix_cpu_gelu_bias_grad(int dtype, const void* x, const void* bias, const void* grad_out, void* grad_x,
                                  void* grad_bias, int64_t rows, int64_t width) {
  if (dtype == PADDLEMIX_FLOAT64) {
    gelu_bias_grad<double>(x, bias, grad_out, grad_x, grad_bias, rows, width);
  } else {
    gelu_bias_grad<float>(x, bias, grad_out, grad_x, grad_bias, rows, width);
  }
}
