// y = x W + b and silu(x gate) * (x up) for few rows, weights stored as int8 with a scale per output or per 128 inputs;
// linear.cuh has the kernels.
#include "linear.cuh"

using namespace paddlemix;

int paddlemix_cuda_linear_w8(int dtype, const void* x, int64_t x_stride, const uint8_t* weight, const float* scales,
                             int64_t groups, const void* bias, void* out, int64_t rows, int64_t in_features,
                             int64_t out_features, void* stream) {
  return linear_few_rows(dtype, x, x_stride, weight, W8{scales, groups}, bias, out, rows, in_features, out_features,
                         stream);
}

int paddlemix_cuda_dequantize_w8(int dtype, const uint8_t* weight, const float* scales, int64_t groups, void* out,
                                 int64_t in_features, int64_t out_features, void* stream) {
  return dequantize(dtype, weight, W8{scales, groups}, out, in_features, out_features, stream);
}

int paddlemix_cuda_swiglu_w8(int dtype, const void* x, int64_t x_stride, const uint8_t* gate, const float* gate_scales,
                             const uint8_t* up, const float* up_scales, int64_t groups, void* out, int64_t rows,
                             int64_t in_features, int64_t out_features, void* stream) {
  return swiglu_few_rows(dtype, x, x_stride, gate, W8{gate_scales, groups}, up, W8{up_scales, groups}, out, rows,
                         in_features, out_features, stream);
}
