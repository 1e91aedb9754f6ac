// Paddle operators of the int8 linear layer: paddlemix_linear_w8 with its gradient, paddlemix_swiglu_w8; quantizing, packing, dequantizing.
#include "direct.h"
#include "low_bit.h"

namespace paddlemix_ops {
namespace low_bit {

struct Int8 {
  using Scales = Tensor;
  static constexpr const char* kName = "linear_w8";
  static constexpr int kLeast = -127, kMost = 127;
  static constexpr int64_t kBytesPerTile = 16;
  static constexpr DataType kScaleType = DataType::FLOAT32;
  static constexpr const char* kScaleName = "float32";
  static constexpr bool kCuda = true;
  static constexpr bool kChannelScales = true;

  static void check_scales(const Tensor& scales, const Tensor& weight, int64_t in_features, int64_t out_features) {
    check_integer_scales<Int8>(scales, weight, in_features, out_features);
  }
  static void cpu_linear(const float* x, const uint8_t* weight, const Tensor& scales, const float* bias, float* out,
                         int64_t rows, int64_t in_features, int64_t out_features) {
    paddlemix_cpu_linear_w8(x, in_features, weight, scales.data<float>(), scales.shape()[1], bias, out, rows,
                            in_features, out_features);
  }
  static const float* values(const Tensor& scales, int64_t tile) {
    return scales.data<float>() + tile * scales.shape()[1] * kTile;
  }
  static void cpu_dequantize(const uint8_t* weight, const Tensor& scales, int64_t tile, float* w, int64_t in_features,
                             int64_t out_features) {
    paddlemix_cpu_dequantize_w8(weight, values(scales, tile), scales.shape()[1], w, in_features, out_features);
  }
  static void cpu_quantize(const float* w, int64_t groups, uint8_t* weight, const Tensor& scales, int64_t in_features,
                           int64_t out_features) {
    PD_CHECK(groups == 1 || groups == blocks(in_features, kGroup), kName, ": groups is ", groups,
             ", expected 1 (a scale per output) or one per 128 inputs, ", blocks(in_features, kGroup));
    paddlemix_cpu_quantize_w8(w, out_features, groups, weight, const_cast<float*>(scales.data<float>()), in_features,
                              out_features);
  }
  static void cpu_pack(const int8_t* q, uint8_t* weight, int64_t in_features, int64_t out_features) {
    paddlemix_cpu_pack_w8(q, weight, in_features, out_features);
  }
#ifdef PADDLEMIX_WITH_CUDA
  static int cuda_linear(int dtype, const void* x, const uint8_t* weight, const Tensor& scales, const void* bias,
                         void* out, int64_t rows, int64_t in_features, int64_t out_features, void* stream) {
    return paddlemix_cuda_linear_w8(dtype, x, in_features, weight, scales.data<float>(), scales.shape()[1], bias, out,
                                    rows, in_features, out_features, stream);
  }
  static int cuda_gated(int dtype, const void* x, const uint8_t* gate, const Tensor& gate_scales, const uint8_t* up,
                        const Tensor& up_scales, void* out, int64_t rows, int64_t in_features, int64_t out_features,
                        void* stream) {
    return paddlemix_cuda_swiglu_w8(dtype, x, in_features, gate, gate_scales.data<float>(), up, up_scales.data<float>(),
                                    gate_scales.shape()[1], out, rows, in_features, out_features, stream);
  }
  static int cuda_dequantize(int dtype, const uint8_t* weight, const Tensor& scales, int64_t tile, void* w,
                             int64_t in_features, int64_t out_features, void* stream) {
    return paddlemix_cuda_dequantize_w8(dtype, weight, values(scales, tile), scales.shape()[1], w, in_features,
                                        out_features, stream);
  }
#endif
};

}  // namespace low_bit
}  // namespace paddlemix_ops

PADDLEMIX_LOW_BIT_OPERATORS(w8, Int8);
PADDLEMIX_DIRECT(paddlemix_linear_w8, paddlemix_ops::low_bit::LowBit<paddlemix_ops::low_bit::Int8>::forward);
PADDLEMIX_DIRECT(paddlemix_swiglu_w8, paddlemix_ops::low_bit::LowBit<paddlemix_ops::low_bit::Int8>::gated);
