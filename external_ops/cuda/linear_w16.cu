// y = x W + b and silu(x gate) * (x up) for few rows, weights stored in bfloat16 or float16; linear.cuh has the kernels.
#include "linear.cuh"

using namespace paddlemix;

namespace {

// Calls run(format) with the format of weight_dtype.
template <typename Run>
int with_format(int weight_dtype, Run run) {
  switch (weight_dtype) {
    case PADDLEMIX_FLOAT16: return run(W16<__half>());
    case PADDLEMIX_BFLOAT16: return run(W16<__nv_bfloat16>());
    default: return static_cast<int>(cudaErrorInvalidValue);
  }
}

}  // namespace

int paddlemix_cuda_linear_w16(int dtype, const void* x, int64_t x_stride, int weight_dtype, const uint16_t* weight,
                              const void* bias, void* out, int64_t rows, int64_t in_features, int64_t out_features,
                              void* stream) {
  return with_format(weight_dtype, [&](auto format) {
    return linear_few_rows(dtype, x, x_stride, weight, format, bias, out, rows, in_features, out_features, stream);
  });
}

int paddlemix_cuda_dequantize_w16(int dtype, int weight_dtype, const uint16_t* weight, void* out, int64_t in_features,
                                  int64_t out_features, void* stream) {
  return with_format(weight_dtype, [&](auto format) {
    return dequantize(dtype, weight, format, out, in_features, out_features, stream);
  });
}

int paddlemix_cuda_swiglu_w16(int dtype, const void* x, int64_t x_stride, const uint16_t* gate, const uint16_t* up,
                              void* out, int64_t rows, int64_t in_features, int64_t out_features, void* stream) {
  return with_format(dtype, [&](auto format) {
    return swiglu_few_rows(dtype, x, x_stride, gate, format, up, format, out, rows, in_features, out_features, stream);
  });
}
