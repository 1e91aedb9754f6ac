// Paddle operators of the int4 linear layer: paddlemix_linear_w4 with its gradient, paddlemix_swiglu_w4; quantizing, packing, dequantizing.
#include "direct.h"
#include "low_bit.h"

namespace paddlemix_ops {
namespace low_bit {

struct Int4 {
  using Scales = Tensor;
  static constexpr const char* kName = "linear_w4";
  static constexpr int kLeast = -8, kMost = 7;
  static constexpr int64_t kBytesPerTile = 8;
  static constexpr DataType kScaleType = DataType::FLOAT16;
  static constexpr const char* kScaleName = "float16";
  static constexpr bool kCuda = true;
  static constexpr bool kChannelScales = false;

  static void check_scales(const Tensor& scales, const Tensor& weight, int64_t in_features, int64_t out_features) {
    check_integer_scales<Int4>(scales, weight, in_features, out_features);
  }
  static uint16_t* bits(const Tensor& scales, int64_t tile = 0) {
    return reinterpret_cast<uint16_t*>(const_cast<void*>(scales.data())) + tile * scales.shape()[1] * kTile;
  }
  static void cpu_linear(const float* x, const uint8_t* weight, const Tensor& scales, const float* bias, float* out,
                         int64_t rows, int64_t in_features, int64_t out_features) {
    paddlemix_cpu_linear_w4(x, in_features, weight, bits(scales), bias, out, rows, in_features, out_features);
  }
  static void cpu_dequantize(const uint8_t* weight, const Tensor& scales, int64_t tile, float* w, int64_t in_features,
                             int64_t out_features) {
    paddlemix_cpu_dequantize_w4(weight, bits(scales, tile), w, in_features, out_features);
  }
  static void cpu_quantize(const float* w, int64_t groups, uint8_t* weight, const Tensor& scales, int64_t in_features,
                           int64_t out_features) {
    PD_CHECK(groups == blocks(in_features, kGroup), kName, ": groups is ", groups, ", expected one per 128 inputs, ",
             blocks(in_features, kGroup));
    paddlemix_cpu_quantize_w4(w, out_features, weight, bits(scales), in_features, out_features);
  }
  static void cpu_pack(const int8_t* q, uint8_t* weight, int64_t in_features, int64_t out_features) {
    paddlemix_cpu_pack_w4(q, weight, in_features, out_features);
  }
#ifdef PADDLEMIX_WITH_CUDA
  static int cuda_linear(int dtype, const void* x, const uint8_t* weight, const Tensor& scales, const void* bias,
                         void* out, int64_t rows, int64_t in_features, int64_t out_features, void* stream) {
    return paddlemix_cuda_linear_w4(dtype, x, in_features, weight, bits(scales), bias, out, rows, in_features,
                                    out_features, stream);
  }
  static int cuda_gated(int dtype, const void* x, const uint8_t* gate, const Tensor& gate_scales, const uint8_t* up,
                        const Tensor& up_scales, void* out, int64_t rows, int64_t in_features, int64_t out_features,
                        void* stream) {
    return paddlemix_cuda_swiglu_w4(dtype, x, in_features, gate, bits(gate_scales), up, bits(up_scales), out, rows,
                                    in_features, out_features, stream);
  }
  static int cuda_dequantize(int dtype, const uint8_t* weight, const Tensor& scales, int64_t tile, void* w,
                             int64_t in_features, int64_t out_features, void* stream) {
    return paddlemix_cuda_dequantize_w4(dtype, weight, bits(scales, tile), w, in_features, out_features, stream);
  }
#endif
};

}  // namespace low_bit
}  // namespace paddlemix_ops

PADDLEMIX_LOW_BIT_OPERATORS(w4, Int4);
PADDLEMIX_DIRECT(paddlemix_linear_w4, paddlemix_ops::low_bit::LowBit<paddlemix_ops::low_bit::Int4>::forward);
PADDLEMIX_DIRECT(paddlemix_swiglu_w4, paddlemix_ops::low_bit::LowBit<paddlemix_ops::low_bit::Int4>::gated);
