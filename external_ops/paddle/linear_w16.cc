// Paddle operators of the linear layer whose weight is bfloat16 or float16, in tiles of 16 outputs
// (cpu/paddlemix_cpu.h): paddlemix_linear_w16 (x, weight, bias or none) with a gradient to x, paddlemix_swiglu_w16 (x,
// gate, up), paddlemix_pack_w16 (w) and paddlemix_dequantize_w16 (weight).
#include "direct.h"
#include "packed_gradient.h"
#include "swiglu.h"

namespace paddlemix_ops {
namespace linear_w16 {

constexpr const char* kName = "linear_w16";
constexpr int64_t kTile = 16;

using Shape = std::vector<int64_t>;

Shape packed_shape(int64_t in_features, int64_t out_features) {
  return {(out_features + 15) / 16, (in_features + 31) / 32 * 16, 16, 2};
}

void check_weight(const Tensor& weight, int64_t in_features, int64_t out_features) {
  PD_CHECK(in_features > 0 && out_features > 0, kName, ": in_features and out_features must be positive, got ",
           in_features, " and ", out_features);
  check_given(kName, "weight", weight);
  PD_CHECK(weight.dtype() == DataType::BFLOAT16 || weight.dtype() == DataType::FLOAT16, kName,
           ": weight must be bfloat16 or float16");
  check_shape(kName, "weight", weight, packed_shape(in_features, out_features));
}

// x or its gradient: float32 on the CPU, any float but double on CUDA.
void check_activations(const char* name, const Tensor& x, int64_t features, const Tensor& weight) {
  PD_CHECK(last_dim(kName, x) == features, kName, ": ", name, " has shape ", describe(x.shape()), ", expected [..., ",
           features, "]");
  PD_CHECK(x.dtype() != DataType::FLOAT64, kName, ": ", name, " is float64; cast it, or use PADDLEMIX_OPS=reference");
  if (x.is_cpu()) check_dtype(kName, name, x, DataType::FLOAT32, "float32 on the CPU; cast it");
  check_same_place(kName, "weight", weight, x);
}

const uint16_t* bits(const Tensor& weight) { return static_cast<const uint16_t*>(weight.data()); }

// In a dtype, of which the CPU has float32 only, the W [in_features, out_features] that begins with this tile.
Tensor unpack(const Tensor& weight, DataType dtype, int64_t in_features, int64_t out_features, int64_t tile = 0) {
  Tensor w = paddle::empty({in_features, out_features}, dtype, weight.place());
  const uint16_t* packed = bits(weight) + tile * weight.shape()[1] * weight.shape()[2] * weight.shape()[3];
  if (weight.is_cpu()) {
    paddlemix_cpu_dequantize_w16(kernel_dtype(weight, kName), packed, w.data<float>(), in_features, out_features);
    return w;
  }
#ifdef PADDLEMIX_WITH_CUDA
  check_launch(kName, paddlemix_cuda_dequantize_w16(kernel_dtype(w, kName), kernel_dtype(weight, kName), packed,
                                                    w.data(), in_features, out_features, stream_of(weight)));
  return w;
#else
  PD_THROW(kName, ": this build has no kernel for the device of weight");
#endif
}

std::vector<Tensor> forward(const Tensor& x, const Tensor& weight, const paddle::optional<Tensor>& bias,
                            int64_t in_features, int64_t out_features) {
  check_weight(weight, in_features, out_features);
  check_activations("x", x, in_features, weight);
  if (bias) {
    check_shape(kName, "bias", *bias, {out_features});
    check_same_dtype(kName, "bias", *bias, x);
    check_same_place(kName, "bias", *bias, x);
  }
  const int64_t rows = leading_rows(x);
  const void* bias_data = bias ? bias->data() : nullptr;
  std::vector<int64_t> shape = leading_shape(x.shape());
  shape.push_back(out_features);
  if (x.is_cpu()) {
    Tensor out = paddle::empty(shape, x.dtype(), x.place());
    paddlemix_cpu_linear_w16(kernel_dtype(weight, kName), x.data<float>(), in_features, bits(weight),
                             static_cast<const float*>(bias_data), out.data<float>(), rows, in_features, out_features);
    return {out};
  }
#ifdef PADDLEMIX_WITH_CUDA
  const int dtype = kernel_dtype(x, kName), stored = kernel_dtype(weight, kName);
  if (rows > paddlemix_cuda_linear_rows(dtype, stored, x.data(), in_features)) {
    Tensor out = paddle::experimental::matmul(x, unpack(weight, x.dtype(), in_features, out_features));
    return {bias ? paddle::experimental::add(out, *bias) : out};
  }
  Tensor out = paddle::empty(shape, x.dtype(), x.place());
  check_launch(kName, paddlemix_cuda_linear_w16(dtype, x.data(), in_features, stored, bits(weight), bias_data,
                                                out.data(), rows, in_features, out_features, stream_of(x)));
  return {out};
#else
  PD_THROW(kName, ": this build has no kernel for the device of x");
#endif
}

// silu(x gate) * (x up): by one kernel for few rows on CUDA, elsewhere product by product.
std::vector<Tensor> gated(const Tensor& x, const Tensor& gate, const Tensor& up, int64_t in_features,
                          int64_t out_features) {
  for (const Tensor* weight : {&gate, &up}) {
    check_weight(*weight, in_features, out_features);
    check_activations("x", x, in_features, *weight);
  }
#ifdef PADDLEMIX_WITH_CUDA
  const int dtype = kernel_dtype(x, kName), stored = kernel_dtype(gate, kName);
  const int64_t rows = leading_rows(x);
  if (!x.is_cpu() && gate.dtype() == up.dtype() && rows <= PADDLEMIX_CUDA_FEW_ROWS &&
      paddlemix_cuda_linear_rows(dtype, stored, x.data(), in_features) == PADDLEMIX_CUDA_MATRIX_ROWS) {
    std::vector<int64_t> shape = leading_shape(x.shape());
    shape.push_back(out_features);
    Tensor out = paddle::empty(shape, x.dtype(), x.place());
    check_launch(kName, paddlemix_cuda_swiglu_w16(dtype, x.data(), in_features, bits(gate), bits(up), out.data(), rows,
                                                  in_features, out_features, stream_of(x)));
    return {out};
  }
#endif
  return swiglu::forward(forward(x, gate, {}, in_features, out_features)[0],
                         forward(x, up, {}, in_features, out_features)[0]);
}

std::vector<Tensor> backward(const Tensor& weight, const Tensor& grad_out, int64_t in_features, int64_t out_features) {
  check_weight(weight, in_features, out_features);
  check_activations("the gradient", grad_out, out_features, weight);
  return {input_gradient(grad_out, in_features, out_features, kTile, [&](int64_t begin, int64_t end) {
    return unpack(weight, grad_out.dtype(), in_features, end - begin, begin / kTile);
  })};
}

DataType packed_dtype(const std::string& name) {
  PD_CHECK(name == "bfloat16" || name == "float16", kName, ": dtype must be bfloat16 or float16, got ", name);
  return name == "bfloat16" ? DataType::BFLOAT16 : DataType::FLOAT16;
}

std::vector<Tensor> pack(const Tensor& w, const std::string& dtype) {
  check_given(kName, "w", w);
  PD_CHECK(w.shape().size() == 2 && w.shape()[0] > 0 && w.shape()[1] > 0, kName, ": w has shape ", describe(w.shape()),
           ", expected [in_features, out_features]");
  PD_CHECK(w.is_cpu(), kName, ": weights are packed on the CPU; move w there");
  check_dtype(kName, "w", w, DataType::FLOAT32, "float32");
  const int64_t in_features = w.shape()[0], out_features = w.shape()[1];
  Tensor weight = paddle::empty(packed_shape(in_features, out_features), packed_dtype(dtype), w.place());
  paddlemix_cpu_pack_w16(kernel_dtype(weight, kName), w.data<float>(), out_features,
                         static_cast<uint16_t*>(weight.data()), in_features, out_features);
  return {weight};
}

std::vector<Tensor> dequantize(const Tensor& weight, int64_t in_features, int64_t out_features) {
  check_weight(weight, in_features, out_features);
  return {unpack(weight, DataType::FLOAT32, in_features, out_features)};
}

std::vector<Shape> shapes(const Shape& x, const Shape& weight, const paddle::optional<Shape>& bias, int64_t in_features,
                          int64_t out_features) {
  Shape out = leading_shape(x);
  out.push_back(out_features);
  return {out};
}

std::vector<DataType> dtypes(const DataType& x, const DataType& weight, const paddle::optional<DataType>& bias) {
  return {x};
}

std::vector<Shape> gated_shapes(const Shape& x, const Shape& gate, const Shape& up, int64_t in_features,
                                int64_t out_features) {
  return shapes(x, gate, {}, in_features, out_features);
}

std::vector<DataType> gated_dtypes(const DataType& x, const DataType& gate, const DataType& up) { return {x}; }

std::vector<Shape> grad_shapes(const Shape& weight, const Shape& grad_out, int64_t in_features, int64_t out_features) {
  Shape x = leading_shape(grad_out);
  x.push_back(in_features);
  return {x};
}

std::vector<DataType> grad_dtypes(const DataType& weight, const DataType& grad_out) { return {grad_out}; }

std::vector<Shape> pack_shapes(const Shape& w, const std::string& dtype) {
  if (w.size() != 2) return {w};  // the kernel says what is wrong
  return {packed_shape(w[0], w[1])};
}

std::vector<DataType> pack_dtypes(const DataType& w, const std::string& dtype) { return {packed_dtype(dtype)}; }

std::vector<Shape> dequantize_shapes(const Shape& weight, int64_t in_features, int64_t out_features) {
  return {{in_features, out_features}};
}

std::vector<DataType> dequantize_dtypes(const DataType& weight) { return {DataType::FLOAT32}; }

}  // namespace linear_w16
}  // namespace paddlemix_ops

PD_BUILD_OP(paddlemix_linear_w16)
    .Inputs({"X", "Weight", paddle::Optional("Bias")})
    .Outputs({"Out"})
    .Attrs({"in_features: int64_t", "out_features: int64_t"})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::linear_w16::forward))
    .SetInferShapeFn(PD_INFER_SHAPE(paddlemix_ops::linear_w16::shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddlemix_ops::linear_w16::dtypes));
PADDLEMIX_DIRECT(paddlemix_linear_w16, paddlemix_ops::linear_w16::forward);

PD_BUILD_GRAD_OP(paddlemix_linear_w16)
    .Inputs({"Weight", paddle::Grad("Out")})
    .Outputs({paddle::Grad("X")})
    .Attrs({"in_features: int64_t", "out_features: int64_t"})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::linear_w16::backward))
    .SetInferShapeFn(PD_INFER_SHAPE(paddlemix_ops::linear_w16::grad_shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddlemix_ops::linear_w16::grad_dtypes));

PD_BUILD_OP(paddlemix_swiglu_w16)
    .Inputs({"X", "Gate", "Up"})
    .Outputs({"Out"})
    .Attrs({"in_features: int64_t", "out_features: int64_t"})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::linear_w16::gated))
    .SetInferShapeFn(PD_INFER_SHAPE(paddlemix_ops::linear_w16::gated_shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddlemix_ops::linear_w16::gated_dtypes));
PADDLEMIX_DIRECT(paddlemix_swiglu_w16, paddlemix_ops::linear_w16::gated);

PD_BUILD_OP(paddlemix_pack_w16)
    .Inputs({"W"})
    .Outputs({"Weight"})
    .Attrs({"dtype: std::string"})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::linear_w16::pack))
    .SetInferShapeFn(PD_INFER_SHAPE(paddlemix_ops::linear_w16::pack_shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddlemix_ops::linear_w16::pack_dtypes));

PD_BUILD_OP(paddlemix_dequantize_w16)
    .Inputs({"Weight"})
    .Outputs({"W"})
    .Attrs({"in_features: int64_t", "out_features: int64_t"})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::linear_w16::dequantize))
    .SetInferShapeFn(PD_INFER_SHAPE(paddlemix_ops::linear_w16::dequantize_shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddlemix_ops::linear_w16::dequantize_dtypes));
