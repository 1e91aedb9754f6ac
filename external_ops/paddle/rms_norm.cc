// Paddle operators paddlemix_rms_norm (x, weight) and paddlemix_add_rms_norm (x, residual, weight), with gradients.
#include "common.h"
#include "direct.h"

namespace paddlemix_ops {
namespace rms_norm {

constexpr const char* kName = "rms_norm";

void check(const Tensor& x, const Tensor* residual, const Tensor& weight) {
  check_shape(kName, "weight", weight, {last_dim(kName, x)});
  check_same_dtype(kName, "weight", weight, x);
  check_same_place(kName, "weight", weight, x);
  if (residual) {
    check_shape(kName, "residual", *residual, x.shape());
    check_same_dtype(kName, "residual", *residual, x);
    check_same_place(kName, "residual", *residual, x);
  }
}

// Returns {out, sum, inverse_rms}; sum is empty without a residual. The statistics are float32, float64 for float64.
struct Outputs {
  Tensor out, sum, inverse_rms;
};

Outputs run(const Tensor& x, const Tensor* residual, const Tensor& weight, double epsilon) {
  check(x, residual, weight);
  const int64_t width = x.shape().back(), rows = leading_rows(x);
  const DataType statistics = x.dtype() == DataType::FLOAT64 ? DataType::FLOAT64 : DataType::FLOAT32;
  Outputs o;
  o.out = paddle::empty(x.shape(), x.dtype(), x.place());
  o.inverse_rms = paddle::empty(leading_shape(x.shape()), statistics, x.place());
  if (residual) o.sum = paddle::empty(x.shape(), x.dtype(), x.place());
  const void* residual_data = residual ? residual->data() : nullptr;
  void* sum = residual ? o.sum.data() : nullptr;
  if (x.is_cpu()) {
    paddlemix_cpu_rms_norm(cpu_dtype(x, kName), x.data(), residual_data, weight.data(), epsilon, o.out.data(), sum,
                           o.inverse_rms.data(), rows, width);
    return o;
  }
#ifdef PADDLEMIX_WITH_CUDA
  check_launch(kName,
               paddlemix_cuda_rms_norm(kernel_dtype(x, kName), x.data(), residual_data, weight.data(), epsilon,
                                       o.out.data(), sum, o.inverse_rms.data<float>(), rows, width, stream_of(x)));
  return o;
#else
  PD_THROW(kName, ": this build has no kernel for the device of x");
#endif
}

// x: the normalized input, the sum where there was a residual. grad_sum may be null.
std::vector<Tensor> run_grad(const Tensor& x, const Tensor& weight, const Tensor& inverse_rms, const Tensor& grad_out,
                             const Tensor* grad_sum) {
  const int64_t width = x.shape().back(), rows = leading_rows(x);
  Tensor grad_x = paddle::empty(x.shape(), x.dtype(), x.place());
  const void* grad_sum_data = grad_sum ? grad_sum->data() : nullptr;
  if (x.is_cpu()) {
    Tensor grad_weight = paddle::empty(weight.shape(), weight.dtype(), weight.place());
    paddlemix_cpu_rms_norm_grad(cpu_dtype(x, kName), x.data(), weight.data(), inverse_rms.data(), grad_out.data(),
                                grad_sum_data, grad_x.data(), grad_weight.data(), rows, width);
    return {grad_x, grad_weight};
  }
#ifdef PADDLEMIX_WITH_CUDA
  Tensor grad_weight = paddle::full(weight.shape(), 0, DataType::FLOAT32, weight.place());
  check_launch(kName, paddlemix_cuda_rms_norm_grad(
                          kernel_dtype(x, kName), x.data(), weight.data(), inverse_rms.data<float>(), grad_out.data(),
                          grad_sum_data, grad_x.data(), grad_weight.data<float>(), rows, width, stream_of(x)));
  return {grad_x, paddle::experimental::cast(grad_weight, weight.dtype())};
#else
  PD_THROW(kName, ": this build has no kernel for the device of x");
#endif
}

// Programs that Paddle saves hold no attributes of type double.
std::vector<Tensor> forward(const Tensor& x, const Tensor& weight, float epsilon) {
  Outputs o = run(x, nullptr, weight, epsilon);
  return {o.out, o.inverse_rms};
}

std::vector<Tensor> backward(const Tensor& x, const Tensor& weight, const Tensor& inverse_rms, const Tensor& grad_out) {
  return run_grad(x, weight, inverse_rms, grad_out, nullptr);
}

std::vector<Tensor> add_forward(const Tensor& x, const Tensor& residual, const Tensor& weight, float epsilon) {
  Outputs o = run(x, &residual, weight, epsilon);
  return {o.out, o.sum, o.inverse_rms};
}

// The sum hands its gradient on to both of its terms.
std::vector<Tensor> add_backward(const Tensor& weight, const Tensor& sum, const Tensor& inverse_rms,
                                 const Tensor& grad_out, const Tensor& grad_sum) {
  std::vector<Tensor> grads =
      run_grad(sum, weight, inverse_rms, or_zeros(grad_out, sum), grad_sum.initialized() ? &grad_sum : nullptr);
  return {grads[0], grads[0], grads[1]};
}

using Shape = std::vector<int64_t>;

std::vector<Shape> shapes(const Shape& x, const Shape& weight) { return {x, leading_shape(x)}; }

std::vector<Shape> add_shapes(const Shape& x, const Shape& residual, const Shape& weight) {
  return {x, x, leading_shape(x)};
}

DataType statistics_of(DataType x) { return x == DataType::FLOAT64 ? DataType::FLOAT64 : DataType::FLOAT32; }

std::vector<DataType> dtypes(const DataType& x, const DataType& weight) { return {x, statistics_of(x)}; }

std::vector<DataType> add_dtypes(const DataType& x, const DataType& residual, const DataType& weight) {
  return {x, x, statistics_of(x)};
}

}  // namespace rms_norm
}  // namespace paddlemix_ops

PD_BUILD_OP(paddlemix_rms_norm)
    .Inputs({"X", "Weight"})
    .Outputs({"Out", "InverseRms"})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::rms_norm::forward))
    .SetInferShapeFn(PD_INFER_SHAPE(paddlemix_ops::rms_norm::shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddlemix_ops::rms_norm::dtypes));
PADDLEMIX_DIRECT(paddlemix_rms_norm, paddlemix_ops::rms_norm::forward);

PD_BUILD_GRAD_OP(paddlemix_rms_norm)
    .Inputs({"X", "Weight", "InverseRms", paddle::Grad("Out")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Weight")})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::rms_norm::backward));

PD_BUILD_OP(paddlemix_add_rms_norm)
    .Inputs({"X", "Residual", "Weight"})
    .Outputs({"Out", "Sum", "InverseRms"})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::rms_norm::add_forward))
    .SetInferShapeFn(PD_INFER_SHAPE(paddlemix_ops::rms_norm::add_shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddlemix_ops::rms_norm::add_dtypes));
PADDLEMIX_DIRECT(paddlemix_add_rms_norm, paddlemix_ops::rms_norm::add_forward);

PD_BUILD_GRAD_OP(paddlemix_add_rms_norm)
    .Inputs({"Weight", "Sum", "InverseRms", paddle::Grad("Out"), paddle::Grad("Sum")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Residual"), paddle::Grad("Weight")})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::rms_norm::add_backward));
