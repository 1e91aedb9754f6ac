// out = silu(gate) * up of one packed or two separate arrays, and its gradient; computed in float32, rounded once.
#include "elementwise.cuh"

namespace paddlemix {
namespace {

__device__ __forceinline__ float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }

template <typename T, int N>
__global__ void __launch_bounds__(kElementThreads)
    swiglu_kernel(const T* gate, const T* up, int64_t stride, T* out, int64_t rows, int64_t width) {
  const int64_t column = element_column(N);
  if (column >= width) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    float g[N], u[N];
    load(gate + row * stride + column, g);
    load(up + row * stride + column, u);
#pragma unroll
    for (int j = 0; j < N; ++j) u[j] *= g[j] * sigmoid(g[j]);
    store(out + row * width + column, u);
  }
}

// silu'(g) = s + g * s * (1 - s) with s = sigmoid(g).
template <typename T, int N>
__global__ void __launch_bounds__(kElementThreads)
    swiglu_grad_kernel(const T* gate, const T* up, int64_t stride, const T* grad_out, T* grad_gate, T* grad_up,
                       int64_t rows, int64_t width) {
  const int64_t column = element_column(N);
  if (column >= width) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    float g[N], u[N], grad[N];
    load(gate + row * stride + column, g);
    load(up + row * stride + column, u);
    load(grad_out + row * width + column, grad);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float s = sigmoid(g[j]), silu = g[j] * s;
      g[j] = grad[j] * u[j] * (s + silu * (1.f - s));
      u[j] = grad[j] * silu;
    }
    store(grad_gate + row * stride + column, g);
    store(grad_up + row * stride + column, u);
  }
}

}  // namespace
}  // namespace paddlemix

extern "C" int paddlemix_cuda_swiglu(int dtype, const void* gate, const void* up, int64_t stride, void* out,
                                     int64_t rows, int64_t width, void* stream) {
  using namespace paddlemix;
  if (rows == 0 || width == 0) return 0;
  return dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int64_t kBytes = sizeof(T);
    with_vector<T>(aligned16({gate, up, out}, {stride * kBytes, width * kBytes}), [&](auto vector) {
      constexpr int N = decltype(vector)::value;
      PADDLEMIX_LAUNCH((swiglu_kernel<T, N>), element_grid(rows, width, N), kElementThreads, 0, stream,
                       static_cast<const T*>(gate), static_cast<const T*>(up), stride, static_cast<T*>(out), rows,
                       width);
    });
  });
}

extern "C" int paddlemix_cuda_swiglu_grad(int dtype, const void* gate, const void* up, int64_t stride,
                                          const void* grad_out, void* grad_gate, void* grad_up, int64_t rows,
                                          int64_t width, void* stream) {
  using namespace paddlemix;
  if (rows == 0 || width == 0) return 0;
  return dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int64_t kBytes = sizeof(T);
    const bool aligned = aligned16({gate, up, grad_out, grad_gate, grad_up}, {stride * kBytes, width * kBytes});
    with_vector<T>(aligned, [&](auto vector) {
      constexpr int N = decltype(vector)::value;
      PADDLEMIX_LAUNCH((swiglu_grad_kernel<T, N>), element_grid(rows, width, N), kElementThreads, 0, stream,
                       static_cast<const T*>(gate), static_cast<const T*>(up), stride, static_cast<const T*>(grad_out),
                       static_cast<T*>(grad_gate), static_cast<T*>(grad_up), rows, width);
    });
  });
}
