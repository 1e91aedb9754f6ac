// Paddle operators paddlemix_layer_norm (x, weight, bias) and paddlemix_add_layer_norm (x, residual, weight, bias), with
// gradients.
#include "norm.h"

namespace paddlemix_ops {
namespace layer_norm {

using norm::Backward;
using norm::Forward;
using norm::Shape;

struct Kind {
  static constexpr const char* kName = "layer_norm";
  static constexpr size_t kParameters = 2;
  static constexpr const char* kParameterNames[] = {"weight", "bias"};

  static void cpu(const Forward& a) {
    paddlemix_cpu_layer_norm(a.dtype, a.x, a.residual, a.parameters[0], a.parameters[1], a.epsilon, a.out, a.sum,
                             a.statistics[0], a.statistics[1], a.rows, a.width);
  }
  static void cpu(const Backward& a) {
    paddlemix_cpu_layer_norm_grad(a.dtype, a.x, a.weight, a.statistics[0], a.statistics[1], a.grad_out, a.grad_sum,
                                  a.grad_x, a.grad_parameters[0], a.grad_parameters[1], a.rows, a.width);
  }
#ifdef PADDLEMIX_WITH_CUDA
  static int cuda(const Forward& a, void* stream) {
    return paddlemix_cuda_layer_norm(a.dtype, a.x, a.residual, a.parameters[0], a.parameters[1], a.epsilon, a.out,
                                     a.sum, static_cast<float*>(a.statistics[0]), static_cast<float*>(a.statistics[1]),
                                     a.rows, a.width, stream);
  }
  static int cuda(const Backward& a, void* stream) {
    return paddlemix_cuda_layer_norm_grad(a.dtype, a.x, a.weight, static_cast<const float*>(a.statistics[0]),
                                          static_cast<const float*>(a.statistics[1]), a.grad_out, a.grad_sum, a.grad_x,
                                          static_cast<float*>(a.grad_parameters[0]),
                                          static_cast<float*>(a.grad_parameters[1]), a.rows, a.width, stream);
  }
#endif
};
using Norm = norm::Norm<Kind>;

// Programs that Paddle saves hold no attributes of type double.
std::vector<Tensor> forward(const Tensor& x, const Tensor& weight, const Tensor& bias, float epsilon) {
  return Norm::forward(x, nullptr, {&weight, &bias}, epsilon);
}

std::vector<Tensor> backward(const Tensor& x, const Tensor& weight, const Tensor& mean, const Tensor& inverse_std,
                             const Tensor& grad_out) {
  return Norm::backward(x, weight, {&mean, &inverse_std}, grad_out, nullptr);
}

std::vector<Tensor> add_forward(const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias,
                                float epsilon) {
  return Norm::forward(x, &residual, {&weight, &bias}, epsilon);
}

std::vector<Tensor> add_backward(const Tensor& weight, const Tensor& sum, const Tensor& mean, const Tensor& inverse_std,
                                 const Tensor& grad_out, const Tensor& grad_sum) {
  return Norm::add_backward(weight, sum, {&mean, &inverse_std}, grad_out, grad_sum);
}

std::vector<Shape> shapes(const Shape& x, const Shape&, const Shape&) { return Norm::shapes(x); }
std::vector<Shape> add_shapes(const Shape& x, const Shape&, const Shape&, const Shape&) { return Norm::add_shapes(x); }
std::vector<DataType> dtypes(const DataType& x, const DataType&, const DataType&) { return Norm::dtypes(x); }
std::vector<DataType> add_dtypes(const DataType& x, const DataType&, const DataType&, const DataType&) {
  return Norm::add_dtypes(x);
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
