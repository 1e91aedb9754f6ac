// The Paddle operators of a linear layer whose weight is packed into tiles of 8 or 4 bits: for linear_w8.cc and
// linear_w4.cc paddlemix_linear_wN (x, weight, scales, bias) with a gradient to x, paddlemix_quantize_wN (w),
// paddlemix_pack_wN (q) and paddlemix_dequantize_wN (weight, scales); for linear_nf4.cc what they are made of.
#pragma once

#include "packed_gradient.h"
#include "swiglu.h"

namespace paddlemix_ops {
namespace low_bit {

constexpr int64_t kTile = 16, kGroup = 128;

using Shape = std::vector<int64_t>;

inline int64_t blocks(int64_t size, int64_t block) { return (size + block - 1) / block; }

// Format: kName, kBytesPerTile (of one input), kCuda (whether there is a CUDA kernel), Scales (a tensor or a struct of
// them), check_scales() and the C functions. Those that dequantize get the weights from the first tile on, all scales, and
// the number of that tile. A format of integers also has kLeast and kMost (of a stored weight), kScaleType and kScaleName
// (its name), and kChannelScales (whether one scale per output is allowed beside one per output and group).
// Of formats of integers.
template <typename Format>
void check_integer_scales(const Tensor& scales, const Tensor& weight, int64_t in_features, int64_t out_features) {
  const Shape per_group{blocks(out_features, kTile), blocks(in_features, kGroup), kTile};
  const Shape per_output{per_group[0], 1, kTile};
  if (!(Format::kChannelScales && scales.shape() == per_output)) {
    check_shape(Format::kName, "scales", scales, per_group);
  }
  check_dtype(Format::kName, "scales", scales, Format::kScaleType, Format::kScaleName);
  check_same_place(Format::kName, "scales", scales, weight);
}

template <typename Format>
struct LowBit {
  using Scales = typename Format::Scales;

  static Shape weight_shape(int64_t in_features, int64_t out_features) {
    const int64_t lines = blocks(in_features, kGroup) * kGroup * Format::kBytesPerTile / 64;
    return {blocks(out_features, kTile), lines, kTile, 4};
  }

  static void check_packed(const Tensor& weight, const Scales& scales, int64_t in_features, int64_t out_features) {
    PD_CHECK(in_features > 0 && out_features > 0, Format::kName,
             ": in_features and out_features must be positive, got ", in_features, " and ", out_features);
    check_shape(Format::kName, "weight", weight, weight_shape(in_features, out_features));
    check_dtype(Format::kName, "weight", weight, DataType::UINT8, "uint8 tiles");
    Format::check_scales(scales, weight, in_features, out_features);
  }

  static void check_product(const Tensor& x, const Tensor& weight, const Scales& scales, int64_t in_features,
                            int64_t out_features) {
    PD_CHECK(last_dim(Format::kName, x) == in_features, Format::kName, ": x has shape ", describe(x.shape()),
             ", expected [..., ", in_features, "]");
    check_packed(weight, scales, in_features, out_features);
    check_same_place(Format::kName, "weight", weight, x);
  }

  static std::vector<Tensor> forward(const Tensor& x, const Tensor& weight, const Scales& scales,
                                     const paddle::optional<Tensor>& bias, int64_t in_features, int64_t out_features) {
    const char* const op = Format::kName;
    check_product(x, weight, scales, in_features, out_features);
    if (bias) {
      check_shape(op, "bias", *bias, {out_features});
      check_same_dtype(op, "bias", *bias, x);
      check_same_place(op, "bias", *bias, x);
    }
    const int64_t rows = leading_rows(x);
    Shape shape = x.shape();
    shape.back() = out_features;
    if (x.is_cpu()) {
      check_dtype(op, "x", x, DataType::FLOAT32, "float32 on the CPU; cast it, or use PADDLEMIX_OPS=reference");
      Tensor out = paddle::empty(shape, x.dtype(), x.place());
      Format::cpu_linear(x.data<float>(), weight.data<uint8_t>(), scales, bias ? bias->data<float>() : nullptr,
                         out.data<float>(), rows, in_features, out_features);
      return {out};
    }
#ifdef PADDLEMIX_WITH_CUDA
    if constexpr (!Format::kCuda) PD_THROW(op, ": has no CUDA kernel; use PADDLEMIX_OPS=auto or reference");
    const int dtype = kernel_dtype(x, op);
    if (rows <= paddlemix_cuda_linear_rows(dtype, dtype, x.data(), in_features)) {
      Tensor out = paddle::empty(shape, x.dtype(), x.place());
      const void* bias_data = bias ? bias->data() : nullptr;
      check_launch(op, Format::cuda_linear(dtype, x.data(), weight.data<uint8_t>(), scales, bias_data, out.data(), rows,
                                           in_features, out_features, stream_of(x)));
      return {out};
    }
    Tensor out = paddle::matmul(x, unpacked(weight, scales, in_features, out_features, x.dtype()));
    return {bias ? paddle::add(out, *bias) : out};
#else
    PD_THROW(op, ": this build has no kernel for the device of x");
#endif
  }

  // silu(x gate) * (x up): by one kernel for few rows on CUDA, elsewhere product by product.
  static std::vector<Tensor> gated(const Tensor& x, const Tensor& gate, const Tensor& gate_scales, const Tensor& up,
                                   const Tensor& up_scales, int64_t in_features, int64_t out_features) {
    check_product(x, gate, gate_scales, in_features, out_features);
    check_product(x, up, up_scales, in_features, out_features);
#ifdef PADDLEMIX_WITH_CUDA
    const int dtype = kernel_dtype(x, Format::kName);
    const int64_t rows = leading_rows(x);
    if (!x.is_cpu() && gate_scales.shape() == up_scales.shape() && rows <= PADDLEMIX_CUDA_FEW_ROWS &&
        paddlemix_cuda_linear_rows(dtype, dtype, x.data(), in_features) == PADDLEMIX_CUDA_MATRIX_ROWS) {
      Shape shape = x.shape();
      shape.back() = out_features;
      Tensor out = paddle::empty(shape, x.dtype(), x.place());
      check_launch(Format::kName,
                   Format::cuda_gated(dtype, x.data(), gate.data<uint8_t>(), gate_scales, up.data<uint8_t>(), up_scales,
                                      out.data(), rows, in_features, out_features, stream_of(x)));
      return {out};
    }
#endif
    return swiglu::forward(forward(x, gate, gate_scales, {}, in_features, out_features)[0],
                           forward(x, up, up_scales, {}, in_features, out_features)[0]);
  }

  static std::vector<Tensor> backward(const Tensor& weight, const Scales& scales, const Tensor& grad_out,
                                      int64_t in_features, int64_t out_features) {
    return {input_gradient(grad_out, in_features, out_features, kTile, [&](int64_t begin, int64_t end) {
      return unpacked(weight, scales, in_features, end - begin, grad_out.dtype(), begin / kTile);
    })};
  }

  // In `dtype`, which is float32 on the CPU, the W [in_features, out_features] that begins with this tile.
  static Tensor unpacked(const Tensor& weight, const Scales& scales, int64_t in_features, int64_t out_features,
                         DataType dtype, int64_t tile = 0) {
    Tensor w = paddle::empty({in_features, out_features}, dtype, weight.place());
    const uint8_t* packed = weight.data<uint8_t>() + tile * weight.shape()[1] * weight.shape()[2] * weight.shape()[3];
    if (weight.is_cpu()) {
      Format::cpu_dequantize(packed, scales, tile, w.data<float>(), in_features, out_features);
      return w;
    }
#ifdef PADDLEMIX_WITH_CUDA
    check_launch(Format::kName, Format::cuda_dequantize(kernel_dtype(w, Format::kName), packed, scales, tile, w.data(),
                                                        in_features, out_features, stream_of(weight)));
    return w;
#else
    PD_THROW(Format::kName, ": this build has no kernel for the device of weight");
#endif
  }

  static std::vector<Tensor> dequantize(const Tensor& weight, const Scales& scales, int64_t in_features,
                                        int64_t out_features) {
    check_packed(weight, scales, in_features, out_features);
    return {unpacked(weight, scales, in_features, out_features, DataType::FLOAT32)};
  }

  static void check_matrix(const char* name, const Tensor& matrix, DataType dtype, const char* wanted) {
    check_given(Format::kName, name, matrix);
    PD_CHECK(matrix.shape().size() == 2, Format::kName, ": ", name, " has shape ", describe(matrix.shape()),
             ", expected [in_features, out_features]");
    check_dtype(Format::kName, name, matrix, dtype, wanted);
    PD_CHECK(matrix.is_cpu(), Format::kName, ": weights are packed on the CPU; move ", name, " there");
  }

  static std::vector<Tensor> quantize(const Tensor& w, int64_t groups) {
    check_matrix("w", w, DataType::FLOAT32, "float32");
    const int64_t in_features = w.shape()[0], out_features = w.shape()[1];
    Tensor weight = paddle::empty(weight_shape(in_features, out_features), DataType::UINT8, w.place());
    Tensor scales = paddle::empty({blocks(out_features, kTile), groups, kTile}, Format::kScaleType, w.place());
    Format::cpu_quantize(w.data<float>(), groups, weight.data<uint8_t>(), scales, in_features, out_features);
    return {weight, scales};
  }

  static std::vector<Tensor> pack(const Tensor& q) {
    check_matrix("q", q, DataType::INT8, "int8");
    const int64_t in_features = q.shape()[0], out_features = q.shape()[1];
    for (const int8_t *value = q.data<int8_t>(), *end = value + in_features * out_features; value < end; ++value) {
      PD_CHECK(Format::kLeast <= *value && *value <= Format::kMost, Format::kName, ": q has ", static_cast<int>(*value),
               ", expected ", Format::kLeast, " to ", Format::kMost);
    }
    Tensor weight = paddle::empty(weight_shape(in_features, out_features), DataType::UINT8, q.place());
    Format::cpu_pack(q.data<int8_t>(), weight.data<uint8_t>(), in_features, out_features);
    return {weight};
  }

  // Shapes and dtypes of the outputs.
  static std::vector<Shape> forward_shapes(const Shape& x, const Shape&, const Shape&, const paddle::optional<Shape>&,
                                           int64_t, int64_t out_features) {
    Shape out = x;
    if (!out.empty()) out.back() = out_features;
    return {out};
  }
  static std::vector<DataType> forward_dtypes(const DataType& x, const DataType&, const DataType&,
                                              const paddle::optional<DataType>&) {
    return {x};
  }
  static std::vector<Shape> gated_shapes(const Shape& x, const Shape&, const Shape&, const Shape&, const Shape&,
                                         int64_t in_features, int64_t out_features) {
    return forward_shapes(x, {}, {}, {}, in_features, out_features);
  }
  static std::vector<DataType> gated_dtypes(const DataType& x, const DataType&, const DataType&, const DataType&,
                                            const DataType&) {
    return {x};
  }
  static std::vector<Shape> backward_shapes(const Shape&, const Shape&, const Shape& grad_out, int64_t in_features,
                                            int64_t) {
    Shape grad_x = grad_out;
    if (!grad_x.empty()) grad_x.back() = in_features;
    return {grad_x};
  }
  static std::vector<DataType> backward_dtypes(const DataType&, const DataType&, const DataType& grad_out) {
    return {grad_out};
  }
  static std::vector<Shape> dequantize_shapes(const Shape&, const Shape&, int64_t in_features, int64_t out_features) {
    return {{in_features, out_features}};
  }
  static std::vector<DataType> dequantize_dtypes(const DataType&, const DataType&) { return {DataType::FLOAT32}; }
  static std::vector<Shape> quantize_shapes(const Shape& w, int64_t groups) {
    if (w.size() != 2) return {w, w};  // the kernel says what is wrong
    return {weight_shape(w[0], w[1]), {blocks(w[1], kTile), groups, kTile}};
  }
  static std::vector<DataType> quantize_dtypes(const DataType&) { return {DataType::UINT8, Format::kScaleType}; }
  static std::vector<Shape> pack_shapes(const Shape& q) {
    if (q.size() != 2) return {q};
    return {weight_shape(q[0], q[1])};
  }
  static std::vector<DataType> pack_dtypes(const DataType&) { return {DataType::UINT8}; }
};

}  // namespace low_bit
}  // namespace paddlemix_ops

// The operators of one format; NAME is w4 or w8.
#define PADDLEMIX_LOW_BIT_OPERATORS(NAME, FORMAT)                                                                      \
  using FORMAT##Operators = paddlemix_ops::low_bit::LowBit<paddlemix_ops::low_bit::FORMAT>;                            \
  PD_BUILD_OP(paddlemix_linear_##NAME)                                                                                 \
      .Inputs({"X", "Weight", "Scales", paddle::Optional("Bias")})                                                     \
      .Outputs({"Out"})                                                                                                \
      .Attrs({"in_features: int64_t", "out_features: int64_t"})                                                        \
      .SetKernelFn(PD_KERNEL(FORMAT##Operators::forward))                                                              \
      .SetInferShapeFn(PD_INFER_SHAPE(FORMAT##Operators::forward_shapes))                                              \
      .SetInferDtypeFn(PD_INFER_DTYPE(FORMAT##Operators::forward_dtypes));                                             \
  PD_BUILD_GRAD_OP(paddlemix_linear_##NAME)                                                                            \
      .Inputs({"Weight", "Scales", paddle::Grad("Out")})                                                               \
      .Outputs({paddle::Grad("X")})                                                                                    \
      .Attrs({"in_features: int64_t", "out_features: int64_t"})                                                        \
      .SetKernelFn(PD_KERNEL(FORMAT##Operators::backward))                                                             \
      .SetInferShapeFn(PD_INFER_SHAPE(FORMAT##Operators::backward_shapes))                                             \
      .SetInferDtypeFn(PD_INFER_DTYPE(FORMAT##Operators::backward_dtypes));                                            \
  PD_BUILD_OP(paddlemix_swiglu_##NAME)                                                                                 \
      .Inputs({"X", "Gate", "GateScales", "Up", "UpScales"})                                                           \
      .Outputs({"Out"})                                                                                                \
      .Attrs({"in_features: int64_t", "out_features: int64_t"})                                                        \
      .SetKernelFn(PD_KERNEL(FORMAT##Operators::gated))                                                                \
      .SetInferShapeFn(PD_INFER_SHAPE(FORMAT##Operators::gated_shapes))                                                \
      .SetInferDtypeFn(PD_INFER_DTYPE(FORMAT##Operators::gated_dtypes));                                               \
  PD_BUILD_OP(paddlemix_dequantize_##NAME)                                                                             \
      .Inputs({"Weight", "Scales"})                                                                                    \
      .Outputs({"W"})                                                                                                  \
      .Attrs({"in_features: int64_t", "out_features: int64_t"})                                                        \
      .SetKernelFn(PD_KERNEL(FORMAT##Operators::dequantize))                                                           \
      .SetInferShapeFn(PD_INFER_SHAPE(FORMAT##Operators::dequantize_shapes))                                           \
      .SetInferDtypeFn(PD_INFER_DTYPE(FORMAT##Operators::dequantize_dtypes));                                          \
  PD_BUILD_OP(paddlemix_quantize_##NAME)                                                                               \
      .Inputs({"W"})                                                                                                   \
      .Outputs({"Weight", "Scales"})                                                                                   \
      .Attrs({"groups: int64_t"})                                                                                      \
      .SetKernelFn(PD_KERNEL(FORMAT##Operators::quantize))                                                             \
      .SetInferShapeFn(PD_INFER_SHAPE(FORMAT##Operators::quantize_shapes))                                             \
      .SetInferDtypeFn(PD_INFER_DTYPE(FORMAT##Operators::quantize_dtypes));                                            \
  PD_BUILD_OP(paddlemix_pack_##NAME)                                                                                   \
      .Inputs({"Q"})                                                                                                   \
      .Outputs({"Weight"})                                                                                             \
      .SetKernelFn(PD_KERNEL(FORMAT##Operators::pack))                                                                 \
      .SetInferShapeFn(PD_INFER_SHAPE(FORMAT##Operators::pack_shapes))                                                 \
      .SetInferDtypeFn(PD_INFER_DTYPE(FORMAT##Operators::pack_dtypes))
