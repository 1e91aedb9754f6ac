// Paddle operators of the nf4 linear layer: paddlemix_linear_nf4 (x, weight, scales, nested, bias) with a gradient to x,
// paddlemix_quantize_nf4 (w) and paddlemix_dequantize_nf4 (weight, scales, nested). cpu/paddlemix_cpu.h has the arrays.
#include "direct.h"
#include "low_bit.h"

namespace paddlemix_ops {
namespace low_bit {

struct NF4 {
  struct Scales {
    const Tensor &codes, &nested;
  };
  static constexpr const char* kName = "linear_nf4";
  static constexpr int64_t kBytesPerTile = 8;
  static constexpr bool kCuda = false;
  static constexpr int64_t kBlock = 64, kNestedBlock = 256, kNestedHeader = 257, kPadding = 16;

  static Shape scales_shape(int64_t in_features, int64_t out_features) {
    return {blocks(out_features, kTile), 2 * blocks(in_features, kGroup), kTile};
  }

  static void check_scales(const Scales& scales, const Tensor& weight, int64_t in_features, int64_t out_features) {
    check_shape(kName, "scales", scales.codes, scales_shape(in_features, out_features));
    check_dtype(kName, "scales", scales.codes, DataType::UINT8, "uint8");
    check_same_place(kName, "scales", scales.codes, weight);
    const int64_t count = blocks(out_features, kTile) * kTile * blocks(in_features, kBlock);
    PD_CHECK(count < (int64_t{1} << 31), kName, ": too many scales for one weight");
    const int64_t size = kNestedHeader + blocks(count, kNestedBlock);
    check_shape(kName, "nested", scales.nested, {blocks(size, kPadding) * kPadding});
    check_dtype(kName, "nested", scales.nested, DataType::FLOAT32, "float32");
    check_same_place(kName, "nested", scales.nested, weight);
  }

  static void cpu_linear(const float* x, const uint8_t* weight, const Scales& scales, const float* bias, float* out,
                         int64_t rows, int64_t in_features, int64_t out_features) {
    paddlemix_cpu_linear_nf4(x, in_features, weight, scales.codes.data<uint8_t>(), scales.nested.data<float>(), bias,
                             out, rows, in_features, out_features);
  }
  static void cpu_dequantize(const uint8_t* weight, const Scales& scales, int64_t tile, float* w, int64_t in_features,
                             int64_t out_features) {
    paddlemix_cpu_dequantize_nf4(weight, scales.codes.data<uint8_t>(), scales.nested.data<float>(), tile, w,
                                 in_features, out_features);
  }
#ifdef PADDLEMIX_WITH_CUDA
  // Never called: kCuda.
  static int cuda_linear(int, const void*, const uint8_t*, const Scales&, const void*, void*, int64_t, int64_t, int64_t,
                         void*) {
    return 0;
  }
  static int cuda_dequantize(int, const uint8_t*, const Scales&, int64_t, void*, int64_t, int64_t, void*) { return 0; }
#endif
};

namespace nf4 {

using Operators = LowBit<NF4>;

std::vector<Tensor> forward(const Tensor& x, const Tensor& weight, const Tensor& scales, const Tensor& nested,
                            const paddle::optional<Tensor>& bias, int64_t in_features, int64_t out_features) {
  return Operators::forward(x, weight, {scales, nested}, bias, in_features, out_features);
}

std::vector<Tensor> backward(const Tensor& weight, const Tensor& scales, const Tensor& nested, const Tensor& grad_out,
                             int64_t in_features, int64_t out_features) {
  return Operators::backward(weight, {scales, nested}, grad_out, in_features, out_features);
}

std::vector<Tensor> dequantize(const Tensor& weight, const Tensor& scales, const Tensor& nested, int64_t in_features,
                               int64_t out_features) {
  return Operators::dequantize(weight, {scales, nested}, in_features, out_features);
}

std::vector<Tensor> quantize(const Tensor& w) {
  Operators::check_matrix("w", w, DataType::FLOAT32, "float32");
  const int64_t in_features = w.shape()[0], out_features = w.shape()[1];
  Tensor weight = paddle::empty(Operators::weight_shape(in_features, out_features), DataType::UINT8, w.place());
  Tensor absmax = paddle::empty(NF4::scales_shape(in_features, out_features), DataType::FLOAT32, w.place());
  paddlemix_cpu_quantize_nf4(w.data<float>(), out_features, weight.data<uint8_t>(), absmax.data<float>(), in_features,
                             out_features);
  return {weight, absmax};
}

std::vector<Shape> forward_shapes(const Shape& x, const Shape& weight, const Shape& scales, const Shape&,
                                  const paddle::optional<Shape>& bias, int64_t in_features, int64_t out_features) {
  return Operators::forward_shapes(x, weight, scales, bias, in_features, out_features);
}
std::vector<DataType> forward_dtypes(const DataType& x, const DataType&, const DataType&, const DataType&,
                                     const paddle::optional<DataType>&) {
  return {x};
}
std::vector<Shape> backward_shapes(const Shape& weight, const Shape& scales, const Shape&, const Shape& grad_out,
                                   int64_t in_features, int64_t out_features) {
  return Operators::backward_shapes(weight, scales, grad_out, in_features, out_features);
}
std::vector<DataType> backward_dtypes(const DataType&, const DataType&, const DataType&, const DataType& grad_out) {
  return {grad_out};
}
std::vector<Shape> dequantize_shapes(const Shape&, const Shape&, const Shape&, int64_t in_features,
                                     int64_t out_features) {
  return {{in_features, out_features}};
}
std::vector<DataType> dequantize_dtypes(const DataType&, const DataType&, const DataType&) {
  return {DataType::FLOAT32};
}
std::vector<Shape> quantize_shapes(const Shape& w) {
  if (w.size() != 2) return {w, w};  // the kernel says what is wrong
  return {Operators::weight_shape(w[0], w[1]), NF4::scales_shape(w[0], w[1])};
}
std::vector<DataType> quantize_dtypes(const DataType&) { return {DataType::UINT8, DataType::FLOAT32}; }

}  // namespace nf4
}  // namespace low_bit
}  // namespace paddlemix_ops

namespace nf4 = paddlemix_ops::low_bit::nf4;

PD_BUILD_OP(paddlemix_linear_nf4)
    .Inputs({"X", "Weight", "Scales", "Nested", paddle::Optional("Bias")})
    .Outputs({"Out"})
    .Attrs({"in_features: int64_t", "out_features: int64_t"})
    .SetKernelFn(PD_KERNEL(nf4::forward))
    .SetInferShapeFn(PD_INFER_SHAPE(nf4::forward_shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(nf4::forward_dtypes));
PADDLEMIX_DIRECT(paddlemix_linear_nf4, nf4::forward);

PD_BUILD_GRAD_OP(paddlemix_linear_nf4)
    .Inputs({"Weight", "Scales", "Nested", paddle::Grad("Out")})
    .Outputs({paddle::Grad("X")})
    .Attrs({"in_features: int64_t", "out_features: int64_t"})
    .SetKernelFn(PD_KERNEL(nf4::backward))
    .SetInferShapeFn(PD_INFER_SHAPE(nf4::backward_shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(nf4::backward_dtypes));

PD_BUILD_OP(paddlemix_dequantize_nf4)
    .Inputs({"Weight", "Scales", "Nested"})
    .Outputs({"W"})
    .Attrs({"in_features: int64_t", "out_features: int64_t"})
    .SetKernelFn(PD_KERNEL(nf4::dequantize))
    .SetInferShapeFn(PD_INFER_SHAPE(nf4::dequantize_shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(nf4::dequantize_dtypes));

PD_BUILD_OP(paddlemix_quantize_nf4)
    .Inputs({"W"})
    .Outputs({"Weight", "Absmax"})
    .SetKernelFn(PD_KERNEL(nf4::quantize))
    .SetInferShapeFn(PD_INFER_SHAPE(nf4::quantize_shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(nf4::quantize_dtypes));
