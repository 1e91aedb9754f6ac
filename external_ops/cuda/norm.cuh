// RMSNorm (kCentered = false) and LayerNorm (true) with an optional residual addition before it, and their gradients.
//
// Forward and grad_x are bound by memory: one block per row reads each element once, keeps it in registers over the
// reductions, and has asked for the weights before them. The variance of LayerNorm is that of the deviations from the
// mean, a second pass over the registers: the difference of two sums would lose the digits of activations that lie far
// from zero. The gradients of weight and bias, which run over the other axis, are a kernel of their own (columns.cuh):
// deterministic, and not run at all where they are frozen.
#pragma once

#include "columns.cuh"
#include "rows.cuh"

namespace paddlemix {

// Arrays [rows, width] and [width], statistics [rows]. NULL: residual and sum together; mean, inverse; all of LayerNorm's
// own (bias, mean) for RMSNorm.
template <typename T>
struct Norm {
  const T *x, *residual, *weight, *bias;
  float epsilon;
  T *out, *sum;
  float *mean, *inverse;
  int width;
};

template <typename T, int N, int kItems, bool kCentered>
__global__ void __launch_bounds__(kRowThreads) norm_kernel(const Norm<T> p) {
  constexpr bool kReread = kItems == 0;
  constexpr int kKept = kReread ? 1 : kItems;
  // Four arrays of four packs do not fit the registers of 512 threads.
  constexpr bool kEarlyAffine = kCentered ? kItems == 1 || kItems == 2 : !kReread;
  const int64_t row = blockIdx.x;
  const int64_t offset = row * p.width;
  Pack<T, N> value[kKept], other[kKept], scale[kKept], shift[kKept];
  float total = 0.f;  // of the elements, or of their squares
  const auto add = [&](int k, int i) {
    float v[N];
    unpack(value[k], v);
    if (p.residual != nullptr) {
      float r[N];
      unpack(other[k], r);
#pragma unroll
      for (int j = 0; j < N; ++j) v[j] += r[j];
      value[k] = pack<T>(v);
      unpack(value[k], v);  // the statistics are those of the sum that is handed on
      store_pack(p.sum + offset + i, value[k]);
    }
#pragma unroll
    for (int j = 0; j < N; ++j) total += kCentered ? v[j] : v[j] * v[j];
  };
  const auto load_affine = [&](int k, int i) {
    scale[k] = load_pack<N>(p.weight + i);
    if constexpr (kCentered) shift[k] = load_pack<N>(p.bias + i);
  };
  // All loads of a thread are issued before the first of them is used.
  visit_row<N, kItems>(p.width, [&](int k, int i) {
    value[k] = load_pack<N>(p.x + offset + i);
    if (p.residual != nullptr) other[k] = load_pack<N>(p.residual + offset + i);
    if (kReread) add(k, i);
    if (kEarlyAffine) load_affine(k, i);
  });
  if (!kReread) visit_row<N, kItems>(p.width, add);

  const T* const normalized = p.residual != nullptr ? p.sum : p.x;
  const float width = static_cast<float>(p.width);
  float mean = 0.f, squares = total;
  if constexpr (kCentered) {
    mean = block_sum(total) / width;
    squares = 0.f;
    visit_row<N, kItems>(p.width, [&](int k, int i) {
      if (kReread) value[k] = load_pack<N>(normalized + offset + i);
      float v[N];
      unpack(value[k], v);
#pragma unroll
      for (int j = 0; j < N; ++j) squares += (v[j] - mean) * (v[j] - mean);
    });
  }
  const float inverse = rsqrtf(block_sum(squares) / width + p.epsilon);
  if (threadIdx.x == 0) {
    if (kCentered && p.mean != nullptr) p.mean[row] = mean;
    if (p.inverse != nullptr) p.inverse[row] = inverse;
  }

  visit_row<N, kItems>(p.width, [&](int k, int i) {
    if (kReread) value[k] = load_pack<N>(normalized + offset + i);
    if (!kEarlyAffine) load_affine(k, i);
    float v[N], w[N];
    unpack(value[k], v);
    unpack(scale[k], w);
    if constexpr (kCentered) {
      float b[N];
      unpack(shift[k], b);
#pragma unroll
      for (int j = 0; j < N; ++j) v[j] = (v[j] - mean) * inverse * w[j] + b[j];
    } else {
#pragma unroll
      for (int j = 0; j < N; ++j) v[j] = round_to<T>(v[j] * inverse) * w[j];
    }
    store(p.out + offset + i, v);
  });
}

// grad_sum: what reaches the sum from elsewhere, added to grad_x; NULL: nothing.
template <typename T>
struct NormGradient {
  const T *x, *weight;
  const float *mean, *inverse;
  const T *grad_out, *grad_sum;
  T* grad_x;
  int width;
};

// With n = (x - mean) * r and y = n * w + b, mean and b being zero without kCentered:
//   dx = r * (g * w - mean(g * w) - n * mean(g * w * n)), without the middle term where the mean is not subtracted.
template <typename T, int N, int kItems, bool kCentered>
__global__ void __launch_bounds__(kRowThreads, 1) norm_grad_kernel(const NormGradient<T> p) {
  constexpr bool kReread = kItems == 0;
  constexpr int kKept = kReread ? 1 : kItems;
  const int64_t row = blockIdx.x;
  const int64_t offset = row * p.width;
  const float inverse = p.inverse[row];
  float mean = 0.f;
  if constexpr (kCentered) mean = p.mean[row];
  Pack<T, N> value[kKept], grad[kKept], scale[kKept];
  const auto load_packs = [&](int k, int i) {
    value[k] = load_pack<N>(p.x + offset + i);
    grad[k] = load_pack<N>(p.grad_out + offset + i);
    scale[k] = load_pack<N>(p.weight + i);
  };
  float total = 0.f, dot = 0.f;
  if (!kReread) visit_row<N, kItems>(p.width, load_packs);
  visit_row<N, kItems>(p.width, [&](int k, int i) {
    if (kReread) load_packs(k, i);
    float v[N], g[N], w[N];
    unpack(value[k], v);
    unpack(grad[k], g);
    unpack(scale[k], w);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if constexpr (kCentered) {
        total += g[j] * w[j];
        dot += g[j] * w[j] * ((v[j] - mean) * inverse);
      } else {
        dot += g[j] * w[j] * v[j];
      }
    }
  });
  const float width = static_cast<float>(p.width);
  float mean_grad = 0.f, common;
  if constexpr (kCentered) {
    mean_grad = block_sum(total) / width;
    common = block_sum(dot) / width;
  } else {
    common = block_sum(dot) / width * inverse * inverse;
  }
  visit_row<N, kItems>(p.width, [&](int k, int i) {
    if (kReread) load_packs(k, i);
    float v[N], g[N], w[N];
    unpack(value[k], v);
    unpack(grad[k], g);
    unpack(scale[k], w);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if constexpr (kCentered) {
        v[j] = inverse * (g[j] * w[j] - mean_grad - (v[j] - mean) * inverse * common);
      } else {
        v[j] = inverse * (g[j] * w[j] - v[j] * common);
      }
    }
    if (p.grad_sum != nullptr) {
      float passed[N];
      load(p.grad_sum + offset + i, passed);
#pragma unroll
      for (int j = 0; j < N; ++j) v[j] += passed[j];
    }
    store(p.grad_x + offset + i, v);
  });
}

// Terms of the gradients of weight and, with kCentered, bias.
template <typename T, bool kCentered>
struct AffineTerms {
  const T *x, *grad_out;
  const float *mean, *inverse;
  int width;

  template <int kSums>
  __device__ void operator()(int row, int column, float (&values)[kSums]) const {
    const int64_t at = static_cast<int64_t>(row) * width + column;
    const float grad = to_float(grad_out[at]);
    if constexpr (kCentered) {
      values[1] = grad;
      values[0] = grad * (to_float(x[at]) - mean[row]) * inverse[row];
    } else {
      values[0] = grad * to_float(x[at]) * inverse[row];
    }
  }
};

// ----------------------------------------------------------------------------------------------------------- launches

// The arguments are those of paddlemix_cuda.h; what RMSNorm has not is NULL.
template <bool kCentered>
int launch_norm(int dtype, const void* x, const void* residual, const void* weight, const void* bias, double epsilon,
                void* out, void* sum, float* mean, float* inverse, int64_t rows, int64_t width, void* stream) {
  if (rows == 0 || width == 0) return 0;
  return dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    const Norm<T> p = {static_cast<const T*>(x),
                       static_cast<const T*>(residual),
                       static_cast<const T*>(weight),
                       static_cast<const T*>(bias),
                       static_cast<float>(epsilon),
                       static_cast<T*>(out),
                       static_cast<T*>(sum),
                       mean,
                       inverse,
                       static_cast<int>(width)};
    const bool aligned = aligned16({x, residual, weight, bias, out, sum}, {width * static_cast<int64_t>(sizeof(T))});
    with_vector<T>(aligned, [&](auto vector) {
      constexpr int N = decltype(vector)::value;
      with_row_items<N>(p.width, [&](auto items, int threads) {
        PADDLEMIX_LAUNCH((norm_kernel<T, N, decltype(items)::value, kCentered>), static_cast<unsigned>(rows), threads,
                         0, stream, p);
      });
    });
  });
}

template <bool kCentered>
int launch_norm_grad(int dtype, const void* x, const void* weight, const float* mean, const float* inverse,
                     const void* grad_out, const void* grad_sum, void* grad_x, float* grad_weight, float* grad_bias,
                     int64_t rows, int64_t width, void* stream) {
  if (rows == 0 || width == 0) return 0;
  return dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    const NormGradient<T> p = {static_cast<const T*>(x),
                               static_cast<const T*>(weight),
                               mean,
                               inverse,
                               static_cast<const T*>(grad_out),
                               static_cast<const T*>(grad_sum),
                               static_cast<T*>(grad_x),
                               static_cast<int>(width)};
    // Before grad_x, which may overwrite grad_out or x.
    if (grad_weight != nullptr || grad_bias != nullptr) {
      const AffineTerms<T, kCentered> terms{p.x, p.grad_out, mean, inverse, p.width};
      column_sums<kCentered ? 2 : 1>(terms, grad_weight, grad_bias, static_cast<int>(rows), p.width, stream);
    }
    if (grad_x == nullptr) return;
    const bool aligned = aligned16({x, weight, grad_out, grad_sum, grad_x}, {width * static_cast<int64_t>(sizeof(T))});
    with_vector<T>(aligned, [&](auto vector) {
      constexpr int N = decltype(vector)::value;
      with_row_items<N>(p.width, [&](auto items, int threads) {
        PADDLEMIX_LAUNCH((norm_grad_kernel<T, N, decltype(items)::value, kCentered>), static_cast<unsigned>(rows),
                         threads, 0, stream, p);
      });
    });
  });
}

}  // namespace paddlemix
