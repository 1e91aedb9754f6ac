// out = gelu(x + bias) with the exact (erf) GELU, and its gradient; computed in float32, rounded once.
#include "columns.cuh"
#include "elementwise.cuh"

namespace paddlemix {
namespace {

__device__ __forceinline__ float gelu(float z) { return 0.5f * z * (1.f + erff(z * 0.70710678f)); }

// P(z) + z p(z), with the normal distribution P and its density p.
__device__ __forceinline__ float gelu_slope(float z) {
  return 0.5f * (1.f + erff(z * 0.70710678f)) + z * 0.39894228f * expf(-0.5f * z * z);
}

template <typename T, int N>
__global__ void __launch_bounds__(kElementThreads)
    gelu_bias_kernel(const T* x, const T* bias, T* out, int64_t rows, int64_t width) {
  const int64_t column = element_column(N);
  if (column >= width) return;
  float b[N] = {};
  if (bias != nullptr) load(bias + column, b);
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    float z[N];
    load(x + row * width + column, z);
#pragma unroll
    for (int j = 0; j < N; ++j) z[j] = gelu(z[j] + b[j]);
    store(out + row * width + column, z);
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(kElementThreads)
    gelu_bias_grad_kernel(const T* x, const T* bias, const T* grad_out, T* grad_x, int64_t rows, int64_t width) {
  const int64_t column = element_column(N);
  if (column >= width) return;
  float b[N] = {};
  if (bias != nullptr) load(bias + column, b);
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    float z[N], grad[N];
    load(x + row * width + column, z);
    load(grad_out + row * width + column, grad);
#pragma unroll
    for (int j = 0; j < N; ++j) z[j] = grad[j] * gelu_slope(z[j] + b[j]);
    store(grad_x + row * width + column, z);
  }
}

template <typename T>
struct BiasTerm {
  const T* x;
  const T* bias;
  const T* grad_out;
  int width;

  __device__ void operator()(int row, int column, float (&values)[1]) const {
    const int64_t at = static_cast<int64_t>(row) * width + column;
    const float b = bias != nullptr ? to_float(bias[column]) : 0.f;
    values[0] = to_float(grad_out[at]) * gelu_slope(to_float(x[at]) + b);
  }
};

}  // namespace
}  // namespace paddlemix

extern "C" int paddlemix_cuda_gelu_bias(int dtype, const void* x, const void* bias, void* out, int64_t rows,
                                        int64_t width, void* stream) {
  using namespace paddlemix;
  if (rows == 0 || width == 0) return 0;
  return dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    with_vector<T>(aligned16({x, bias, out}, {width * static_cast<int64_t>(sizeof(T))}), [&](auto vector) {
      constexpr int N = decltype(vector)::value;
      PADDLEMIX_LAUNCH((gelu_bias_kernel<T, N>), element_grid(rows, width, N), kElementThreads, 0, stream,
                       static_cast<const T*>(x), static_cast<const T*>(bias), static_cast<T*>(out), rows, width);
    });
  });
}

extern "C" int paddlemix_cuda_gelu_bias_grad(int dtype, const void* x, const void* bias, const void* grad_out,
                                             void* grad_x, float* grad_bias, int64_t rows, int64_t width,
                                             void* stream) {
  using namespace paddlemix;
  if (rows == 0 || width == 0) return 0;
  return dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    // Before grad_x, which may overwrite grad_out or x.
    if (grad_bias != nullptr) {
      const BiasTerm<T> term{static_cast<const T*>(x), static_cast<const T*>(bias), static_cast<const T*>(grad_out),
                             static_cast<int>(width)};
      column_sums<1>(term, grad_bias, nullptr, static_cast<int>(rows), static_cast<int>(width), stream);
    }
    with_vector<T>(aligned16({x, bias, grad_out, grad_x}, {width * static_cast<int64_t>(sizeof(T))}), [&](auto vector) {
      constexpr int N = decltype(vector)::value;
      PADDLEMIX_LAUNCH((gelu_bias_grad_kernel<T, N>), element_grid(rows, width, N), kElementThreads, 0, stream,
                       static_cast<const T*>(x), static_cast<const T*>(bias), static_cast<const T*>(grad_out),
                       static_cast<T*>(grad_x), rows, width);
    });
  });
}
