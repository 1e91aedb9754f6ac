// Paddle operator paddlemix_gelu_bias (x, bias), with its gradient.
#include "common.h"

namespace paddlemix_ops {
namespace gelu_bias {

constexpr const char* kName = "gelu_bias";

std::vector<Tensor> forward(const Tensor& x, const Tensor& bias) {
  const int64_t width = last_dim(kName, x), rows = leading_rows(x);
  check_shape(kName, "bias", bias, {width});
  check_same_dtype(kName, "bias", bias, x);
  check_same_place(kName, "bias", bias, x);
  Tensor out = paddle::empty(x.shape(), x.dtype(), x.place());
  if (x.is_cpu()) {
    paddlemix_cpu_gelu_bias(cpu_dtype(x, kName), x.data(), bias.data(), out.data(), rows, width);
    return {out};
  }
#ifdef PADDLEMIX_WITH_CUDA
  check_launch(kName, paddlemix_cuda_gelu_bias(kernel_dtype(x, kName), x.data(), bias.data(), out.data(), rows, width,
                                               stream_of(x)));
  return {out};
#else
  PD_THROW(kName, ": this build has no kernel for the device of x");
#endif
}

std::vector<Tensor> backward(const Tensor& x, const Tensor& bias, const Tensor& grad_out) {
  const int64_t width = x.shape().back(), rows = leading_rows(x);
  Tensor grad_x = paddle::empty(x.shape(), x.dtype(), x.place());
  if (x.is_cpu()) {
    Tensor grad_bias = paddle::empty(bias.shape(), bias.dtype(), bias.place());
    paddlemix_cpu_gelu_bias_grad(cpu_dtype(x, kName), x.data(), bias.data(), grad_out.data(), grad_x.data(),
                                 grad_bias.data(), rows, width);
    return {grad_x, grad_bias};
  }
#ifdef PADDLEMIX_WITH_CUDA
  Tensor grad_bias = paddle::full(bias.shape(), 0, DataType::FLOAT32, bias.place());
  check_launch(kName, paddlemix_cuda_gelu_bias_grad(kernel_dtype(x, kName), x.data(), bias.data(), grad_out.data(),
                                                    grad_x.data(), grad_bias.data<float>(), rows, width,
                                                    stream_of(x)));
  return {grad_x, paddle::experimental::cast(grad_bias, bias.dtype())};
#else
  PD_THROW(kName, ": this build has no kernel for the device of x");
#endif
}

std::vector<std::vector<int64_t>> shapes(const std::vector<int64_t>& x, const std::vector<int64_t>& bias) {
  return {x};
}

std::vector<DataType> dtypes(const DataType& x, const DataType& bias) { return {x}; }

}  // namespace gelu_bias
}  // namespace paddlemix_ops

PD_BUILD_OP(paddlemix_gelu_bias)
    .Inputs({"X", "Bias"})
    .Outputs({"Out"})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::gelu_bias::forward))
    .SetInferShapeFn(PD_INFER_SHAPE(paddlemix_ops::gelu_bias::shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddlemix_ops::gelu_bias::dtypes));

PD_BUILD_GRAD_OP(paddlemix_gelu_bias)
    .Inputs({"X", "Bias", paddle::Grad("Out")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Bias")})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::gelu_bias::backward));
