// The Paddle operators of a norm, for rms_norm.cc and layer_norm.cc: the plain one (x, parameters) and the one with a
// residual addition before it (x, residual, parameters), with gradients.
#pragma once

#include <array>

#include "common.h"
#include "direct.h"

namespace paddlemix_ops {
namespace norm {

using Shape = std::vector<int64_t>;

// The arguments of a kernel, as its C function takes them. `parameters` are the weight and, where there is one, the bias;
// `statistics` what the gradient needs of each row.
struct Forward {
  int dtype;
  const void *x, *residual;
  const void* parameters[2];
  double epsilon;
  void *out, *sum;
  void* statistics[2];
  int64_t rows, width;
};

struct Backward {
  int dtype;
  const void *x, *weight;
  const void* statistics[2];
  const void *grad_out, *grad_sum;
  void* grad_x;
  void* grad_parameters[2];
  int64_t rows, width;
};

// Kind: kName, kParameters (their number, which is that of the statistics too) and their names kParameterNames, and the
// C functions cpu(Forward), cpu(Backward), cuda(Forward, stream) and cuda(Backward, stream).
template <typename Kind>
struct Norm {
  static constexpr size_t kCount = Kind::kParameters;
  using Tensors = std::array<const Tensor*, kCount>;

  // Float32, or float64 for float64.
  static DataType statistics_dtype(DataType x) {
    return x == DataType::FLOAT64 ? DataType::FLOAT64 : DataType::FLOAT32;
  }

  static void check_like(const char* name, const Tensor& tensor, const Tensor& x, const Shape& shape) {
    check_shape(Kind::kName, name, tensor, shape);
    check_same_dtype(Kind::kName, name, tensor, x);
    check_same_place(Kind::kName, name, tensor, x);
  }

  // {out, sum (with a residual), statistics ...}
  static std::vector<Tensor> forward(const Tensor& x, const Tensor* residual, const Tensors& parameters,
                                     double epsilon) {
    const char* const op = Kind::kName;
    const int64_t width = last_dim(op, x), rows = leading_rows(x);
    for (size_t i = 0; i < kCount; ++i) check_like(Kind::kParameterNames[i], *parameters[i], x, {width});
    if (residual) check_like("residual", *residual, x, x.shape());
    std::vector<Tensor> outputs{paddle::empty(x.shape(), x.dtype(), x.place())};
    if (residual) outputs.push_back(paddle::empty(x.shape(), x.dtype(), x.place()));
    const size_t first = outputs.size();
    for (size_t i = 0; i < kCount; ++i) {
      outputs.push_back(paddle::empty(leading_shape(x.shape()), statistics_dtype(x.dtype()), x.place()));
    }
    Forward a{};
    a.dtype = x.is_cpu() ? cpu_dtype(x, op) : kernel_dtype(x, op);
    a.x = x.data();
    a.residual = residual ? residual->data() : nullptr;
    a.epsilon = epsilon;
    a.out = outputs[0].data();
    a.sum = residual ? outputs[1].data() : nullptr;
    a.rows = rows;
    a.width = width;
    for (size_t i = 0; i < kCount; ++i) {
      a.parameters[i] = parameters[i]->data();
      a.statistics[i] = outputs[first + i].data();
    }
    if (x.is_cpu()) {
      Kind::cpu(a);
      return outputs;
    }
#ifdef PADDLEMIX_WITH_CUDA
    check_launch(op, Kind::cuda(a, stream_of(x)));
    return outputs;
#else
    PD_THROW(op, ": this build has no kernel for the device of x");
#endif
  }

  // x: the normalized input, the sum where there was a residual. grad_sum may be null. Returns the gradients of x and of
  // the parameters.
  static std::vector<Tensor> backward(const Tensor& x, const Tensor& weight, const Tensors& statistics,
                                      const Tensor& grad_out, const Tensor* grad_sum) {
    const char* const op = Kind::kName;
    // CUDA adds the gradients of the parameters to zeros in float32.
    const DataType dtype = x.is_cpu() ? weight.dtype() : DataType::FLOAT32;
    std::vector<Tensor> grads{paddle::empty(x.shape(), x.dtype(), x.place())};
    for (size_t i = 0; i < kCount; ++i) {
      grads.push_back(x.is_cpu() ? paddle::empty(weight.shape(), dtype, weight.place())
                                 : paddle::full(weight.shape(), 0, dtype, weight.place()));
    }
    Backward a{};
    a.dtype = x.is_cpu() ? cpu_dtype(x, op) : kernel_dtype(x, op);
    a.x = x.data();
    a.weight = weight.data();
    a.grad_out = grad_out.data();
    a.grad_sum = grad_sum ? grad_sum->data() : nullptr;
    a.grad_x = grads[0].data();
    a.rows = leading_rows(x);
    a.width = x.shape().back();
    for (size_t i = 0; i < kCount; ++i) {
      a.statistics[i] = statistics[i]->data();
      a.grad_parameters[i] = grads[1 + i].data();
    }
    if (x.is_cpu()) {
      Kind::cpu(a);
      return grads;
    }
#ifdef PADDLEMIX_WITH_CUDA
    check_launch(op, Kind::cuda(a, stream_of(x)));
    for (size_t i = 1; i < grads.size(); ++i) grads[i] = paddle::experimental::cast(grads[i], weight.dtype());
    return grads;
#else
    PD_THROW(op, ": this build has no kernel for the device of x");
#endif
  }

  // The gradients of x, of the residual, which gets what x gets, and of the parameters.
  static std::vector<Tensor> add_backward(const Tensor& weight, const Tensor& sum, const Tensors& statistics,
                                          const Tensor& grad_out, const Tensor& grad_sum) {
    std::vector<Tensor> grads =
        backward(sum, weight, statistics, or_zeros(grad_out, sum), grad_sum.initialized() ? &grad_sum : nullptr);
    grads.insert(grads.begin(), grads.front());
    return grads;
  }

  static std::vector<Shape> shapes(const Shape& x) {
    std::vector<Shape> all{x};
    all.insert(all.end(), kCount, leading_shape(x));
    return all;
  }
  static std::vector<DataType> dtypes(DataType x) {
    std::vector<DataType> all{x};
    all.insert(all.end(), kCount, statistics_dtype(x));
    return all;
  }
  // With the sum as the second output.
  static std::vector<Shape> add_shapes(const Shape& x) {
    std::vector<Shape> all = shapes(x);
    all.insert(all.begin(), x);
    return all;
  }
  static std::vector<DataType> add_dtypes(DataType x) {
    std::vector<DataType> all = dtypes(x);
    all.insert(all.begin(), x);
    return all;
  }
};

}  // namespace norm
}  // namespace paddlemix_ops
