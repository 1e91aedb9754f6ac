// SwiGLU: silu(gate) * up, and its gradient.
//
// Floor: gate, up and out move once, 4 bytes each; exp and one division are some thirty vector instructions for every 16
// elements of AVX-512, so that the arithmetic takes about as long as two cores need to move them from memory. Threads
// share the elements, not the rows: a decode step has one row.
#include <algorithm>

#include "vector_math.h"

namespace paddlemix {
namespace {

constexpr int64_t kGrain = 8192;  // elements per thread below which starting one costs more than it saves

template <typename T>
struct Gated {
  const T *gate, *up, *grad_out;
  T *out, *grad_gate, *grad_up;
  int64_t stride, width;
};

// begin and end count elements of the [rows, width] output.
template <typename T>
PADDLEMIX_BODY void activate(const Gated<T>& s, int64_t begin, int64_t end) {
  for (int64_t row = begin / s.width; row * s.width < end; ++row) {
    const T* __restrict gate = s.gate + row * s.stride;
    const T* __restrict up = s.up + row * s.stride;
    T* __restrict out = s.out + row * s.width;
    const int64_t last = std::min(s.width, end - row * s.width);
    for (int64_t i = std::max<int64_t>(0, begin - row * s.width); i < last; ++i) {
      out[i] = gate[i] * sigmoid(gate[i]).value * up[i];
    }
  }
}

// silu'(x) = s + x s (1 - s), s = sigmoid(x).
template <typename T>
PADDLEMIX_BODY void gradient(const Gated<T>& s, int64_t begin, int64_t end) {
  for (int64_t row = begin / s.width; row * s.width < end; ++row) {
    const T* __restrict gate = s.gate + row * s.stride;
    const T* __restrict up = s.up + row * s.stride;
    const T* __restrict grad_out = s.grad_out + row * s.width;
    T* __restrict grad_gate = s.grad_gate + row * s.stride;
    T* __restrict grad_up = s.grad_up + row * s.stride;
    const int64_t last = std::min(s.width, end - row * s.width);
    for (int64_t i = std::max<int64_t>(0, begin - row * s.width); i < last; ++i) {
      const Sigmoid<T> gating = sigmoid(gate[i]);
      const T silu = gate[i] * gating.value;
      grad_up[i] = grad_out[i] * silu;
      grad_gate[i] = grad_out[i] * up[i] * (gating.value + silu * gating.complement);
    }
  }
}

template <typename T>
void swiglu(const void* gate, const void* up, int64_t stride, void* out, int64_t rows, int64_t width) {
  const Gated<T> s = {static_cast<const T*>(gate),
                      static_cast<const T*>(up),
                      nullptr,
                      static_cast<T*>(out),
                      nullptr,
                      nullptr,
                      stride,
                      width};
  parallel_for(rows * width, kGrain, [&](int64_t begin, int64_t end) { run_body<activate<T>>(s, begin, end); });
}

template <typename T>
void swiglu_grad(const void* gate, const void* up, int64_t stride, const void* grad_out, void* grad_gate, void* grad_up,
                 int64_t rows, int64_t width) {
  const Gated<T> s = {static_cast<const T*>(gate),
                      static_cast<const T*>(up),
                      static_cast<const T*>(grad_out),
                      nullptr,
                      static_cast<T*>(grad_gate),
                      static_cast<T*>(grad_up),
                      stride,
                      width};
  parallel_for(rows * width, kGrain, [&](int64_t begin, int64_t end) { run_body<gradient<T>>(s, begin, end); });
}

}  // namespace
}  // namespace paddlemix

using namespace paddlemix;

void paddlemix_cpu_swiglu(int dtype, const void* gate, const void* up, int64_t stride, void* out, int64_t rows,
                          int64_t width) {
  if (dtype == PADDLEMIX_FLOAT64) {
    swiglu<double>(gate, up, stride, out, rows, width);
  } else {
    swiglu<float>(gate, up, stride, out, rows, width);
  }
}

void paddlemix_cpu_swiglu_grad(int dtype, const void* gate, const void* up, int64_t stride, const void* grad_out,
                               void* grad_gate, void* grad_up, int64_t rows, int64_t width) {
  if (dtype == PADDLEMIX_FLOAT64) {
    swiglu_grad<double>(gate, up, stride, grad_out, grad_gate, grad_up, rows, width);
  } else {
    swiglu_grad<float>(gate, up, stride, grad_out, grad_gate, grad_up, rows, width);
  }
}
