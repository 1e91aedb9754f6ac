// LayerNorm of any width with an optional residual addition, and its gradient.
//
// Built like rms_norm.cu. The variance is that of the deviations from the mean, a second pass over the registers: the
// difference of two sums would lose the digits of activations that lie far from zero.
#include "columns.cuh"
#include "rows.cuh"

namespace paddlemix {
namespace {

template <typename T, int N, int kItems>
__global__ void __launch_bounds__(kRowThreads)
    layer_norm_kernel(const T* x, const T* residual, const T* weight, const T* bias, float epsilon, T* out, T* sum,
                      float* mean_out, float* inverse_std, int width) {
  constexpr bool kReread = kItems == 0;
  constexpr int kKept = kReread ? 1 : kItems;
  // Four arrays of four packs do not fit the registers of 512 threads.
  constexpr bool kEarlyAffine = kItems == 1 || kItems == 2;
  const int64_t row = blockIdx.x;
  const int64_t offset = row * width;
  Pack<T, N> value[kKept], other[kKept], scale[kKept], shift[kKept];
  float total = 0.f;
  const auto add = [&](int k, int i) {
    float v[N];
    unpack(value[k], v);
    if (residual != nullptr) {
      float r[N];
      unpack(other[k], r);
#pragma unroll
      for (int j = 0; j < N; ++j) v[j] += r[j];
      value[k] = pack<T>(v);
      unpack(value[k], v);  // the statistics are those of the sum that is handed on
      store_pack(sum + offset + i, value[k]);
    }
#pragma unroll
    for (int j = 0; j < N; ++j) total += v[j];
  };
  const auto load_affine = [&](int k, int i) {
    scale[k] = load_pack<N>(weight + i);
    shift[k] = load_pack<N>(bias + i);
  };
  // All loads of a thread are issued before the first of them is used.
  visit_row<N, kItems>(width, [&](int k, int i) {
    value[k] = load_pack<N>(x + offset + i);
    if (residual != nullptr) other[k] = load_pack<N>(residual + offset + i);
    if (kReread) add(k, i);
    if (kEarlyAffine) load_affine(k, i);
  });
  if (!kReread) visit_row<N, kItems>(width, add);
  const float mean = block_sum(total) / static_cast<float>(width);

  const T* const normalized = residual != nullptr ? sum : x;
  float squares = 0.f;
  visit_row<N, kItems>(width, [&](int k, int i) {
    if (kReread) value[k] = load_pack<N>(normalized + offset + i);
    float v[N];
    unpack(value[k], v);
#pragma unroll
    for (int j = 0; j < N; ++j) squares += (v[j] - mean) * (v[j] - mean);
  });
  const float inverse = rsqrtf(block_sum(squares) / static_cast<float>(width) + epsilon);
  if (threadIdx.x == 0) {
    if (mean_out != nullptr) mean_out[row] = mean;
    if (inverse_std != nullptr) inverse_std[row] = inverse;
  }

  visit_row<N, kItems>(width, [&](int k, int i) {
    if (kReread) value[k] = load_pack<N>(normalized + offset + i);
    if (!kEarlyAffine) load_affine(k, i);
    float v[N], w[N], b[N];
    unpack(value[k], v);
    unpack(scale[k], w);
    unpack(shift[k], b);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] = (v[j] - mean) * inverse * w[j] + b[j];
    store(out + offset + i, v);
  });
}

// With n = (x - mean) * r and y = n * w + b:  dx = r * (g * w - mean(g * w) - n * mean(g * w * n)).
template <typename T, int N, int kItems>
__global__ void __launch_bounds__(kRowThreads)
    layer_norm_grad_kernel(const T* x, const T* weight, const float* mean_in, const float* inverse_std,
                           const T* grad_out, const T* grad_sum, T* grad_x, int width) {
  constexpr bool kReread = kItems == 0;
  constexpr int kKept = kReread ? 1 : kItems;
  const int64_t row = blockIdx.x;
  const int64_t offset = row * width;
  const float mean = mean_in[row], inverse = inverse_std[row];
  Pack<T, N> value[kKept], grad[kKept], scale[kKept];
  const auto load_packs = [&](int k, int i) {
    value[k] = load_pack<N>(x + offset + i);
    grad[k] = load_pack<N>(grad_out + offset + i);
    scale[k] = load_pack<N>(weight + i);
  };
  float total = 0.f, dot = 0.f;
  if (!kReread) visit_row<N, kItems>(width, load_packs);
  visit_row<N, kItems>(width, [&](int k, int i) {
    if (kReread) load_packs(k, i);
    float v[N], g[N], w[N];
    unpack(value[k], v);
    unpack(grad[k], g);
    unpack(scale[k], w);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      total += g[j] * w[j];
      dot += g[j] * w[j] * ((v[j] - mean) * inverse);
    }
  });
  const float mean_grad = block_sum(total) / static_cast<float>(width);
  const float mean_dot = block_sum(dot) / static_cast<float>(width);
  visit_row<N, kItems>(width, [&](int k, int i) {
    if (kReread) load_packs(k, i);
    float v[N], g[N], w[N];
    unpack(value[k], v);
    unpack(grad[k], g);
    unpack(scale[k], w);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] = inverse * (g[j] * w[j] - mean_grad - (v[j] - mean) * inverse * mean_dot);
    if (grad_sum != nullptr) {
      float passed[N];
      load(grad_sum + offset + i, passed);
#pragma unroll
      for (int j = 0; j < N; ++j) v[j] += passed[j];
    }
    store(grad_x + offset + i, v);
  });
}

template <typename T>
struct AffineTerms {
  const T* x;
  const T* grad_out;
  const float* mean;
  const float* inverse_std;
  int width;

  __device__ void operator()(int row, int column, float (&values)[2]) const {
    const int64_t at = static_cast<int64_t>(row) * width + column;
    values[1] = to_float(grad_out[at]);
    values[0] = values[1] * (to_float(x[at]) - mean[row]) * inverse_std[row];
  }
};

}  // namespace
}  // namespace paddlemix

extern "C" int paddlemix_cuda_layer_norm(int dtype, const void* x, const void* residual, const void* weight,
                                         const void* bias, double epsilon, void* out, void* sum, float* mean,
                                         float* inverse_std, int64_t rows, int64_t width, void* stream) {
  using namespace paddlemix;
  if (rows == 0 || width == 0) return 0;
  return dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    const bool aligned =
        aligned16({x, residual, weight, bias, out, sum}, {width * static_cast<int64_t>(sizeof(T))});
    with_vector<T>(aligned, [&](auto vector) {
      constexpr int N = decltype(vector)::value;
      with_row_items<N>(static_cast<int>(width), [&](auto items, int threads) {
        PADDLEMIX_LAUNCH((layer_norm_kernel<T, N, decltype(items)::value>), static_cast<unsigned>(rows), threads, 0,
                         stream, static_cast<const T*>(x), static_cast<const T*>(residual),
                         static_cast<const T*>(weight), static_cast<const T*>(bias), static_cast<float>(epsilon),
                         static_cast<T*>(out), static_cast<T*>(sum), mean, inverse_std, static_cast<int>(width));
      });
    });
  });
}

extern "C" int paddlemix_cuda_layer_norm_grad(int dtype, const void* x, const void* weight, const float* mean,
                                              const float* inverse_std, const void* grad_out, const void* grad_sum,
                                              void* grad_x, float* grad_weight, float* grad_bias, int64_t rows,
                                              int64_t width, void* stream) {
  using namespace paddlemix;
  if (rows == 0 || width == 0) return 0;
  return dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    // Before grad_x, which may overwrite grad_out or x.
    if (grad_weight != nullptr || grad_bias != nullptr) {
      const AffineTerms<T> terms{static_cast<const T*>(x), static_cast<const T*>(grad_out), mean, inverse_std,
                                 static_cast<int>(width)};
      column_sums<2>(terms, grad_weight, grad_bias, static_cast<int>(rows), static_cast<int>(width), stream);
    }
    if (grad_x == nullptr) return;
    const bool aligned =
        aligned16({x, weight, grad_out, grad_sum, grad_x}, {width * static_cast<int64_t>(sizeof(T))});
    with_vector<T>(aligned, [&](auto vector) {
      constexpr int N = decltype(vector)::value;
      with_row_items<N>(static_cast<int>(width), [&](auto items, int threads) {
        PADDLEMIX_LAUNCH((layer_norm_grad_kernel<T, N, decltype(items)::value>), static_cast<unsigned>(rows), threads,
                         0, stream, static_cast<const T*>(x), static_cast<const T*>(weight), mean, inverse_std,
                         static_cast<const T*>(grad_out), static_cast<const T*>(grad_sum), static_cast<T*>(grad_x),
                         static_cast<int>(width));
      });
    });
  });
}
