// y = x W + b and silu(x gate) * (x up) for few rows, weights stored as int4 with a float16 scale per 128 inputs;
// linear.cuh has the kernels.
#include "linear.cuh"

using namespace paddlemix;

namespace {

W4 format_of(const uint16_t* scales, int64_t in_features) {
  return {reinterpret_cast<const __half*>(scales), chunks_of<W4>(in_features)};
}

}  // namespace

int paddlemix_cuda_linear_w4(int dtype, const void* x, int64_t x_stride, const uint8_t* weight, const uint16_t* scales,
                             const void* bias, void* out, int64_t rows, int64_t in_features, int64_t out_features,
                             void* stream) {
  return linear_few_rows(dtype, x, x_stride, weight, format_of(scales, in_features), bias, out, rows, in_features,
                         out_features, stream);
}

int paddlemix_cuda_dequantize_w4(int dtype, const uint8_t* weight, const uint16_t* scales, void* out,
                                 int64_t in_features, int64_t out_features, void* stream) {
  return dequantize(dtype, weight, format_of(scales, in_features), out, in_features, out_features, stream);
}

int paddlemix_cuda_swiglu_w4(int dtype, const void* x, int64_t x_stride, const uint8_t* gate,
                             const uint16_t* gate_scales, const uint8_t* up, const uint16_t* up_scales, void* out,
                             int64_t rows, int64_t in_features, int64_t out_features, void* stream) {
  return swiglu_few_rows(dtype, x, x_stride, gate, format_of(gate_scales, in_features), up,
                         format_of(up_scales, in_features), out, rows, in_features, out_features, stream);
}
