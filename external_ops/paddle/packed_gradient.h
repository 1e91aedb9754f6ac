// The gradient of a linear layer's input where the weight is packed, for low_bit.h and linear_w16.cc.
#pragma once

#include <algorithm>

#include "common.h"

namespace paddlemix_ops {

// Weights that are unpacked at once: 256 MB in float32. A head over 152k ids has 2.5 GB of them, all other layers fit.
constexpr int64_t kChunkWeights = int64_t{1} << 26;

// grad_out Wᵀ. `unpack(begin, end)` returns W [in_features, end - begin] of the outputs from `begin` on, which is a
// multiple of `tile`.
template <typename Unpack>
Tensor input_gradient(const Tensor& grad_out, int64_t in_features, int64_t out_features, int64_t tile, Unpack unpack) {
  const int64_t width = std::max(kChunkWeights / in_features / tile, int64_t{1}) * tile;
  if (width >= out_features) return paddle::matmul(grad_out, unpack(0, out_features), false, true);
  const int64_t last = static_cast<int64_t>(grad_out.shape().size()) - 1;
  Tensor sum;
  for (int64_t begin = 0; begin < out_features; begin += width) {
    const int64_t end = std::min(begin + width, out_features);
    const Tensor grad = paddle::experimental::slice(grad_out, {last}, {begin}, {end}, {1}, {});
    const Tensor part = paddle::matmul(grad, unpack(begin, end), false, true);
    sum = begin ? paddle::add(sum, part) : part;
  }
  return sum;
}

}  // namespace paddlemix_ops
