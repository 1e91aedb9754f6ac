// Paddle operator paddlemix_linear_w32 (x, weight, bias), on the CPU alone and without a gradient: for generation.
#include "common.h"
#include "direct.h"

namespace paddlemix_ops {
namespace linear_w32 {

constexpr const char* kName = "linear_w32";

std::vector<Tensor> forward(const Tensor& x, const Tensor& weight, const paddle::optional<Tensor>& bias) {
  const std::vector<int64_t> sizes = weight.shape();
  PD_CHECK(sizes.size() == 2, kName, ": weight must be [in_features, out_features], got ", describe(sizes));
  PD_CHECK(last_dim(kName, x) == sizes[0], kName, ": x has shape ", describe(x.shape()), ", expected [..., ", sizes[0],
           "]");
  check_same_dtype(kName, "weight", weight, x);
  check_same_place(kName, "weight", weight, x);
  if (bias) {
    check_shape(kName, "bias", *bias, {sizes[1]});
    check_same_dtype(kName, "bias", *bias, x);
    check_same_place(kName, "bias", *bias, x);
  }
  PD_CHECK(x.is_cpu(), kName, ": x must lie on the CPU");
  std::vector<int64_t> shape = x.shape();
  shape.back() = sizes[1];
  Tensor out = paddle::empty(shape, x.dtype(), x.place());
  paddlemix_cpu_linear_w32(cpu_dtype(x, kName), x.data(), weight.data(), bias ? bias->data() : nullptr, out.data(),
                           leading_rows(x), sizes[0], sizes[1]);
  return {out};
}

using Shape = std::vector<int64_t>;

std::vector<Shape> shapes(const Shape& x, const Shape& weight, const paddle::optional<Shape>& bias) {
  Shape shape = x;
  if (!shape.empty() && weight.size() == 2) shape.back() = weight[1];
  return {shape};
}

std::vector<DataType> dtypes(const DataType& x, const DataType& weight, const paddle::optional<DataType>& bias) {
  return {x};
}

}  // namespace linear_w32
}  // namespace paddlemix_ops

PD_BUILD_OP(paddlemix_linear_w32)
    .Inputs({"X", "Weight", paddle::Optional("Bias")})
    .Outputs({"Out"})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::linear_w32::forward))
    .SetInferShapeFn(PD_INFER_SHAPE(paddlemix_ops::linear_w32::shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddlemix_ops::linear_w32::dtypes));
PADDLEMIX_DIRECT(paddlemix_linear_w32, paddlemix_ops::linear_w32::forward);
