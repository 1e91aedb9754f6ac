// Paddle operator paddlemix_linear (x, weight [in_features, out_features], bias or none), without a gradient: a kernel of
// our own for few rows of 16-bit activations on CUDA, Paddle's product elsewhere.
#include "direct.h"

namespace paddlemix_ops {
namespace linear {

constexpr const char* kName = "linear";

#ifdef PADDLEMIX_WITH_CUDA
// Whether the kernel takes these; see paddlemix_cuda_linear.
bool is_taken(const Tensor& x, const Tensor& weight, int64_t rows, int64_t in_features, int64_t out_features) {
  if (x.is_cpu() || rows > PADDLEMIX_CUDA_FEW_ROWS || in_features % 8 != 0 || out_features % 8 != 0) return false;
  const int dtype = kernel_dtype(x, kName);
  return reinterpret_cast<uintptr_t>(weight.data()) % 16 == 0 &&
         paddlemix_cuda_linear_rows(dtype, dtype, x.data(), in_features) == PADDLEMIX_CUDA_MATRIX_ROWS;
}
#endif

std::vector<Tensor> forward(const Tensor& x, const Tensor& weight, const paddle::optional<Tensor>& bias) {
  const int64_t in_features = last_dim(kName, x);
  check_given(kName, "weight", weight);
  PD_CHECK(weight.shape().size() == 2 && weight.shape()[0] == in_features, kName, ": weight has shape ",
           describe(weight.shape()), ", expected [", in_features, ", out_features]");
  const int64_t out_features = weight.shape()[1];
  check_same_dtype(kName, "weight", weight, x);
  check_same_place(kName, "weight", weight, x);
  if (bias) {
    check_shape(kName, "bias", *bias, {out_features});
    check_same_dtype(kName, "bias", *bias, x);
    check_same_place(kName, "bias", *bias, x);
  }
#ifdef PADDLEMIX_WITH_CUDA
  const int64_t rows = leading_rows(x);
  if (is_taken(x, weight, rows, in_features, out_features)) {
    std::vector<int64_t> shape = leading_shape(x.shape());
    shape.push_back(out_features);
    Tensor out = paddle::empty(shape, x.dtype(), x.place());
    check_launch(kName, paddlemix_cuda_linear(kernel_dtype(x, kName), x.data(), in_features, weight.data(),
                                              bias ? bias->data() : nullptr, out.data(), rows, in_features,
                                              out_features, stream_of(x)));
    return {out};
  }
#endif
  Tensor out = paddle::experimental::matmul(x, weight);
  return {bias ? paddle::experimental::add(out, *bias) : out};
}

using Shape = std::vector<int64_t>;

std::vector<Shape> shapes(const Shape& x, const Shape& weight, const paddle::optional<Shape>& bias) {
  Shape out = leading_shape(x);
  out.push_back(weight.size() == 2 ? weight[1] : -1);  // the kernel says what is wrong
  return {out};
}

std::vector<DataType> dtypes(const DataType& x, const DataType& weight, const paddle::optional<DataType>& bias) {
  return {x};
}

}  // namespace linear
}  // namespace paddlemix_ops

PD_BUILD_OP(paddlemix_linear)
    .Inputs({"X", "Weight", paddle::Optional("Bias")})
    .Outputs({"Out"})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::linear::forward))
    .SetInferShapeFn(PD_INFER_SHAPE(paddlemix_ops::linear::shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddlemix_ops::linear::dtypes));
PADDLEMIX_DIRECT(paddlemix_linear, paddlemix_ops::linear::forward);
