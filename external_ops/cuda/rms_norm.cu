// RMSNorm with an optional residual addition, and its gradient.
//
// Forward and grad_x are bound by memory: one block per row reads each element once, keeps it in registers over the
// reduction, and has asked for the weights before it. The gradient of the weight, which runs over the other axis, is a
// kernel of its own (columns.cuh): deterministic, and not run at all where the weight is frozen.
#include "columns.cuh"
#include "rows.cuh"

namespace paddlemix {
namespace {

template <typename T, int N, int kItems>
__global__ void __launch_bounds__(kRowThreads)
    rms_norm_kernel(const T* x, const T* residual, const T* weight, float epsilon, T* out, T* sum, float* inverse_rms,
                    int width) {
  constexpr bool kReread = kItems == 0;
  constexpr int kKept = kReread ? 1 : kItems;
  const int64_t row = blockIdx.x;
  const int64_t offset = row * width;
  Pack<T, N> value[kKept], other[kKept], scale[kKept];
  float squares = 0.f;
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
    for (int j = 0; j < N; ++j) squares += v[j] * v[j];
  };
  // All loads of a thread are issued before the first of them is used.
  visit_row<N, kItems>(width, [&](int k, int i) {
    value[k] = load_pack<N>(x + offset + i);
    if (residual != nullptr) other[k] = load_pack<N>(residual + offset + i);
    if (kReread) {
      add(k, i);
    } else {
      scale[k] = load_pack<N>(weight + i);
    }
  });
  if (!kReread) visit_row<N, kItems>(width, add);

  const float inverse = rsqrtf(block_sum(squares) / static_cast<float>(width) + epsilon);
  if (inverse_rms != nullptr && threadIdx.x == 0) inverse_rms[row] = inverse;
  const T* const normalized = residual != nullptr ? sum : x;
  visit_row<N, kItems>(width, [&](int k, int i) {
    if (kReread) {
      value[k] = load_pack<N>(normalized + offset + i);
      scale[k] = load_pack<N>(weight + i);
    }
    float v[N], w[N];
    unpack(value[k], v);
    unpack(scale[k], w);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] = round_to<T>(v[j] * inverse) * w[j];
    store(out + offset + i, v);
  });
}

// With y = x * r * w:  dx = r * (g * w - x * r^2 * mean(g * w * x)).
template <typename T, int N, int kItems>
__global__ void __launch_bounds__(kRowThreads)
    rms_norm_grad_kernel(const T* x, const T* weight, const float* inverse_rms, const T* grad_out, const T* grad_sum,
                         T* grad_x, int width) {
  constexpr bool kReread = kItems == 0;
  constexpr int kKept = kReread ? 1 : kItems;
  const int64_t row = blockIdx.x;
  const int64_t offset = row * width;
  Pack<T, N> value[kKept], grad[kKept], scale[kKept];
  const auto load_packs = [&](int k, int i) {
    value[k] = load_pack<N>(x + offset + i);
    grad[k] = load_pack<N>(grad_out + offset + i);
    scale[k] = load_pack<N>(weight + i);
  };
  float dot = 0.f;
  if (!kReread) visit_row<N, kItems>(width, load_packs);
  visit_row<N, kItems>(width, [&](int k, int i) {
    if (kReread) load_packs(k, i);
    float v[N], g[N], w[N];
    unpack(value[k], v);
    unpack(grad[k], g);
    unpack(scale[k], w);
#pragma unroll
    for (int j = 0; j < N; ++j) dot += g[j] * w[j] * v[j];
  });
  const float inverse = inverse_rms[row];
  const float common = block_sum(dot) / static_cast<float>(width) * inverse * inverse;
  visit_row<N, kItems>(width, [&](int k, int i) {
    if (kReread) load_packs(k, i);
    float v[N], g[N], w[N];
    unpack(value[k], v);
    unpack(grad[k], g);
    unpack(scale[k], w);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] = inverse * (g[j] * w[j] - v[j] * common);
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
struct WeightTerm {
  const T* x;
  const T* grad_out;
  const float* inverse_rms;
  int width;

  __device__ void operator()(int row, int column, float (&values)[1]) const {
    const int64_t at = static_cast<int64_t>(row) * width + column;
    values[0] = to_float(grad_out[at]) * to_float(x[at]) * inverse_rms[row];
  }
};

}  // namespace
}  // namespace paddlemix

extern "C" int paddlemix_cuda_rms_norm(int dtype, const void* x, const void* residual, const void* weight,
                                       double epsilon, void* out, void* sum, float* inverse_rms, int64_t rows,
                                       int64_t width, void* stream) {
  using namespace paddlemix;
  if (rows == 0 || width == 0) return 0;
  return dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    const bool aligned = aligned16({x, residual, weight, out, sum}, {width * static_cast<int64_t>(sizeof(T))});
    with_vector<T>(aligned, [&](auto vector) {
      constexpr int N = decltype(vector)::value;
      with_row_items<N>(static_cast<int>(width), [&](auto items, int threads) {
        PADDLEMIX_LAUNCH((rms_norm_kernel<T, N, decltype(items)::value>), static_cast<unsigned>(rows), threads, 0,
                         stream, static_cast<const T*>(x), static_cast<const T*>(residual),
                         static_cast<const T*>(weight), static_cast<float>(epsilon), static_cast<T*>(out),
                         static_cast<T*>(sum), inverse_rms, static_cast<int>(width));
      });
    });
  });
}

extern "C" int paddlemix_cuda_rms_norm_grad(int dtype, const void* x, const void* weight, const float* inverse_rms,
                                            const void* grad_out, const void* grad_sum, void* grad_x,
                                            float* grad_weight, int64_t rows, int64_t width, void* stream) {
  using namespace paddlemix;
  if (rows == 0 || width == 0) return 0;
  return dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    // Before grad_x, which may overwrite grad_out or x.
    if (grad_weight != nullptr) {
      const WeightTerm<T> term{static_cast<const T*>(x), static_cast<const T*>(grad_out), inverse_rms,
                               static_cast<int>(width)};
      column_sums<1>(term, grad_weight, nullptr, static_cast<int>(rows), static_cast<int>(width), stream);
    }
    if (grad_x == nullptr) return;
    const bool aligned =
        aligned16({x, weight, grad_out, grad_sum, grad_x}, {width * static_cast<int64_t>(sizeof(T))});
    with_vector<T>(aligned, [&](auto vector) {
      constexpr int N = decltype(vector)::value;
      with_row_items<N>(static_cast<int>(width), [&](auto items, int threads) {
        PADDLEMIX_LAUNCH((rms_norm_grad_kernel<T, N, decltype(items)::value>), static_cast<unsigned>(rows), threads, 0,
                         stream, static_cast<const T*>(x), static_cast<const T*>(weight), inverse_rms,
                         static_cast<const T*>(grad_out), static_cast<const T*>(grad_sum), static_cast<T*>(grad_x),
                         static_cast<int>(width));
      });
    });
  });
}
