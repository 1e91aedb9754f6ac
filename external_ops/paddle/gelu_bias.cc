// Paddle operators paddlemix_gelu_bias (x, bias) and paddlemix_gelu (x), with gradients.
#include "common.h"
#include "direct.h"

namespace paddlemix_ops {
namespace gelu_bias {

constexpr const char* kName = "gelu_bias";

// bias may be null.
Tensor run(const Tensor& x, const Tensor* bias) {
  const int64_t width = last_dim(kName, x), rows = leading_rows(x);
  if (bias) {
    check_shape(kName, "bias", *bias, {width});
    check_same_dtype(kName, "bias", *bias, x);
    check_same_place(kName, "bias", *bias, x);
  }
  const void* bias_data = bias ? bias->data() : nullptr;
  Tensor out = paddle::empty(x.shape(), x.dtype(), x.place());
  if (x.is_cpu()) {
    paddlemix_cpu_gelu_bias(cpu_dtype(x, kName), x.data(), bias_data, out.data(), rows, width);
    return out;
  }
#ifdef PADDLEMIX_WITH_CUDA
  check_launch(kName, paddlemix_cuda_gelu_bias(kernel_dtype(x, kName), x.data(), bias_data, out.data(), rows, width,
                                               stream_of(x)));
  return out;
#else
  PD_THROW(kName, ": this build has no kernel for the device of x");
#endif
}

// Returns {grad_x} or {grad_x, grad_bias}.
std::vector<Tensor> run_grad(const Tensor& x, const Tensor* bias, const Tensor& grad_out) {
  const int64_t width = x.shape().back(), rows = leading_rows(x);
  const void* bias_data = bias ? bias->data() : nullptr;
  std::vector<Tensor> grads = {paddle::empty(x.shape(), x.dtype(), x.place())};
  if (x.is_cpu()) {
    if (bias) grads.push_back(paddle::empty(bias->shape(), bias->dtype(), bias->place()));
    paddlemix_cpu_gelu_bias_grad(cpu_dtype(x, kName), x.data(), bias_data, grad_out.data(), grads[0].data(),
                                 bias ? grads[1].data() : nullptr, rows, width);
    return grads;
  }
#ifdef PADDLEMIX_WITH_CUDA
  if (bias) grads.push_back(paddle::full(bias->shape(), 0, DataType::FLOAT32, bias->place()));
  check_launch(kName, paddlemix_cuda_gelu_bias_grad(kernel_dtype(x, kName), x.data(), bias_data, grad_out.data(),
                                                    grads[0].data(), bias ? grads[1].data<float>() : nullptr, rows,
                                                    width, stream_of(x)));
  if (bias) grads[1] = paddle::experimental::cast(grads[1], bias->dtype());
  return grads;
#else
  PD_THROW(kName, ": this build has no kernel for the device of x");
#endif
}

std::vector<Tensor> forward(const Tensor& x, const Tensor& bias) { return {run(x, &bias)}; }

std::vector<Tensor> backward(const Tensor& x, const Tensor& bias, const Tensor& grad_out) {
  return run_grad(x, &bias, grad_out);
}

std::vector<Tensor> plain_forward(const Tensor& x) { return {run(x, nullptr)}; }

std::vector<Tensor> plain_backward(const Tensor& x, const Tensor& grad_out) { return run_grad(x, nullptr, grad_out); }

std::vector<std::vector<int64_t>> shapes(const std::vector<int64_t>& x, const std::vector<int64_t>& bias) {
  return {x};
}

std::vector<DataType> dtypes(const DataType& x, const DataType& bias) { return {x}; }

std::vector<std::vector<int64_t>> plain_shapes(const std::vector<int64_t>& x) { return {x}; }

std::vector<DataType> plain_dtypes(const DataType& x) { return {x}; }

}  // namespace gelu_bias
}  // namespace paddlemix_ops

PD_BUILD_OP(paddlemix_gelu_bias)
    .Inputs({"X", "Bias"})
    .Outputs({"Out"})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::gelu_bias::forward))
    .SetInferShapeFn(PD_INFER_SHAPE(paddlemix_ops::gelu_bias::shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddlemix_ops::gelu_bias::dtypes));
PADDLEMIX_DIRECT(paddlemix_gelu_bias, paddlemix_ops::gelu_bias::forward);

PD_BUILD_GRAD_OP(paddlemix_gelu_bias)
    .Inputs({"X", "Bias", paddle::Grad("Out")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Bias")})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::gelu_bias::backward));

PD_BUILD_OP(paddlemix_gelu)
    .Inputs({"X"})
    .Outputs({"Out"})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::gelu_bias::plain_forward))
    .SetInferShapeFn(PD_INFER_SHAPE(paddlemix_ops::gelu_bias::plain_shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddlemix_ops::gelu_bias::plain_dtypes));
PADDLEMIX_DIRECT(paddlemix_gelu, paddlemix_ops::gelu_bias::plain_forward);

PD_BUILD_GRAD_OP(paddlemix_gelu)
    .Inputs({"X", paddle::Grad("Out")})
    .Outputs({paddle::Grad("X")})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::gelu_bias::plain_backward));
