// Paddle operators paddlemix_layer_norm (x, weight, bias) and paddlemix_add_layer_norm (x, residual, weight, bias), with
// gradients.
#include "common.h"
#include "direct.h"

namespace paddlemix_ops {
namespace layer_norm {

constexpr const char* kName = "layer_norm";

DataType statistics_of(DataType x) { return x == DataType::FLOAT64 ? DataType::FLOAT64 : DataType::FLOAT32; }

void check_like(const char* name, const Tensor& tensor, const Tensor& x, const std::vector<int64_t>& shape) {
  check_shape(kName, name, tensor, shape);
  check_same_dtype(kName, name, tensor, x);
  check_same_place(kName, name, tensor, x);
}

// sum is empty without a residual. The statistics are float32, float64 for float64.
struct Outputs {
  Tensor out, sum, mean, inverse_std;
};

Outputs run(const Tensor& x, const Tensor* residual, const Tensor& weight, const Tensor& bias, double epsilon) {
  const int64_t width = last_dim(kName, x), rows = leading_rows(x);
  check_like("weight", weight, x, {width});
  check_like("bias", bias, x, {width});
  if (residual) check_like("residual", *residual, x, x.shape());
  Outputs o;
  o.out = paddle::empty(x.shape(), x.dtype(), x.place());
  o.mean = paddle::empty(leading_shape(x.shape()), statistics_of(x.dtype()), x.place());
  o.inverse_std = paddle::empty(leading_shape(x.shape()), statistics_of(x.dtype()), x.place());
  if (residual) o.sum = paddle::empty(x.shape(), x.dtype(), x.place());
  const void* residual_data = residual ? residual->data() : nullptr;
  void* sum = residual ? o.sum.data() : nullptr;
  if (x.is_cpu()) {
    paddlemix_cpu_layer_norm(cpu_dtype(x, kName), x.data(), residual_data, weight.data(), bias.data(), epsilon,
                             o.out.data(), sum, o.mean.data(), o.inverse_std.data(), rows, width);
    return o;
  }
#ifdef PADDLEMIX_WITH_CUDA
  check_launch(kName, paddlemix_cuda_layer_norm(kernel_dtype(x, kName), x.data(), residual_data, weight.data(),
                                                bias.data(), epsilon, o.out.data(), sum, o.mean.data<float>(),
                                                o.inverse_std.data<float>(), rows, width, stream_of(x)));
  return o;
#else
  PD_THROW(kName, ": this build has no kernel for the device of x");
#endif
}

// x: the normalized input, the sum where there was a residual. grad_sum may be null. Returns the gradients of x, weight
// and bias.
std::vector<Tensor> run_grad(const Tensor& x, const Tensor& weight, const Tensor& mean, const Tensor& inverse_std,
                             const Tensor& grad_out, const Tensor* grad_sum) {
  const int64_t width = x.shape().back(), rows = leading_rows(x);
  Tensor grad_x = paddle::empty(x.shape(), x.dtype(), x.place());
  const void* grad_sum_data = grad_sum ? grad_sum->data() : nullptr;
  if (x.is_cpu()) {
    Tensor grad_weight = paddle::empty(weight.shape(), weight.dtype(), weight.place());
    Tensor grad_bias = paddle::empty(weight.shape(), weight.dtype(), weight.place());
    paddlemix_cpu_layer_norm_grad(cpu_dtype(x, kName), x.data(), weight.data(), mean.data(), inverse_std.data(),
                                  grad_out.data(), grad_sum_data, grad_x.data(), grad_weight.data(), grad_bias.data(),
                                  rows, width);
    return {grad_x, grad_weight, grad_bias};
  }
#ifdef PADDLEMIX_WITH_CUDA
  Tensor grad_weight = paddle::full(weight.shape(), 0, DataType::FLOAT32, weight.place());
  Tensor grad_bias = paddle::full(weight.shape(), 0, DataType::FLOAT32, weight.place());
  check_launch(kName, paddlemix_cuda_layer_norm_grad(kernel_dtype(x, kName), x.data(), weight.data(),
                                                     mean.data<float>(), inverse_std.data<float>(), grad_out.data(),
                                                     grad_sum_data, grad_x.data(), grad_weight.data<float>(),
                                                     grad_bias.data<float>(), rows, width, stream_of(x)));
  return {grad_x, paddle::experimental::cast(grad_weight, weight.dtype()),
          paddle::experimental::cast(grad_bias, weight.dtype())};
#else
  PD_THROW(kName, ": this build has no kernel for the device of x");
#endif
}

// Programs that Paddle saves hold no attributes of type double.
std::vector<Tensor> forward(const Tensor& x, const Tensor& weight, const Tensor& bias, float epsilon) {
  Outputs o = run(x, nullptr, weight, bias, epsilon);
  return {o.out, o.mean, o.inverse_std};
}

std::vector<Tensor> backward(const Tensor& x, const Tensor& weight, const Tensor& mean, const Tensor& inverse_std,
                             const Tensor& grad_out) {
  return run_grad(x, weight, mean, inverse_std, grad_out, nullptr);
}

std::vector<Tensor> add_forward(const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias,
                                float epsilon) {
  Outputs o = run(x, &residual, weight, bias, epsilon);
  return {o.out, o.sum, o.mean, o.inverse_std};
}

// The sum hands its gradient on to both of its terms.
std::vector<Tensor> add_backward(const Tensor& weight, const Tensor& sum, const Tensor& mean, const Tensor& inverse_std,
                                 const Tensor& grad_out, const Tensor& grad_sum) {
  std::vector<Tensor> grads =
      run_grad(sum, weight, mean, inverse_std, or_zeros(grad_out, sum), grad_sum.initialized() ? &grad_sum : nullptr);
  return {grads[0], grads[0], grads[1], grads[2]};
}

using Shape = std::vector<int64_t>;

std::vector<Shape> shapes(const Shape& x, const Shape& weight, const Shape& bias) {
  return {x, leading_shape(x), leading_shape(x)};
}

std::vector<Shape> add_shapes(const Shape& x, const Shape& residual, const Shape& weight, const Shape& bias) {
  return {x, x, leading_shape(x), leading_shape(x)};
}

std::vector<DataType> dtypes(const DataType& x, const DataType& weight, const DataType& bias) {
  return {x, statistics_of(x), statistics_of(x)};
}

std::vector<DataType> add_dtypes(const DataType& x, const DataType& residual, const DataType& weight,
                                 const DataType& bias) {
  return {x, x, statistics_of(x), statistics_of(x)};
}

}  // namespace layer_norm
}  // namespace paddlemix_ops

PD_BUILD_OP(paddlemix_layer_norm)
    .Inputs({"X", "Weight", "Bias"})
    .Outputs({"Out", "Mean", "InverseStd"})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::layer_norm::forward))
    .SetInferShapeFn(PD_INFER_SHAPE(paddlemix_ops::layer_norm::shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddlemix_ops::layer_norm::dtypes));
PADDLEMIX_DIRECT(paddlemix_layer_norm, paddlemix_ops::layer_norm::forward);

PD_BUILD_GRAD_OP(paddlemix_layer_norm)
    .Inputs({"X", "Weight", "Mean", "InverseStd", paddle::Grad("Out")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Weight"), paddle::Grad("Bias")})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::layer_norm::backward));

PD_BUILD_OP(paddlemix_add_layer_norm)
    .Inputs({"X", "Residual", "Weight", "Bias"})
    .Outputs({"Out", "Sum", "Mean", "InverseStd"})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::layer_norm::add_forward))
    .SetInferShapeFn(PD_INFER_SHAPE(paddlemix_ops::layer_norm::add_shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddlemix_ops::layer_norm::add_dtypes));
PADDLEMIX_DIRECT(paddlemix_add_layer_norm, paddlemix_ops::layer_norm::add_forward);

PD_BUILD_GRAD_OP(paddlemix_add_layer_norm)
    .Inputs({"Weight", "Sum", "Mean", "InverseStd", paddle::Grad("Out"), paddle::Grad("Sum")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Residual"), paddle::Grad("Weight"), paddle::Grad("Bias")})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::layer_norm::add_backward));
