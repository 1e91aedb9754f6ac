// The CUDA kernels of paddlemix: a plain C interface, without any framework's headers.
//
// The functions of cpu/paddlemix_cpu.h over device memory, launched on `stream` without waiting for it; they return the
// cudaError_t of the launch as an int (0: launched). What the arguments mean is written there; what differs:
//   - dtype is FLOAT32, FLOAT16 or BFLOAT16 for x, weight, bias and out alike; statistics and tables are float32;
//   - rms_norm casts the normalized value to dtype before it meets the weight, as the original does; everything else is
//     computed in float32 and rounded once;
//   - keys and values have the dtype of the query;
//   - low-bit products take x, bias and out in dtype and do not round the activations.
#pragma once

#include <stdint.h>

#include "../cpu/paddlemix_cpu.h"

#ifdef __cplusplus
extern "C" {
#endif

int paddlemix_cuda_rms_norm(int dtype, const void* x, const void* residual, const void* weight, double epsilon,
                            void* out, void* sum, float* inverse_rms, int64_t rows, int64_t width, void* stream);
// grad_weight: float32 [width], to which the gradient is added (zero it first), in an order that depends on the shape
// alone. NULL: not wanted; so may grad_x be.
int paddlemix_cuda_rms_norm_grad(int dtype, const void* x, const void* weight, const float* inverse_rms,
                                 const void* grad_out, const void* grad_sum, void* grad_x, float* grad_weight,
                                 int64_t rows, int64_t width, void* stream);
int paddlemix_cuda_layer_norm(int dtype, const void* x, const void* residual, const void* weight, const void* bias,
                              double epsilon, void* out, void* sum, float* mean, float* inverse_std, int64_t rows,
                              int64_t width, void* stream);
// grad_weight, grad_bias: likewise.
int paddlemix_cuda_layer_norm_grad(int dtype, const void* x, const void* weight, const float* mean,
                                   const float* inverse_std, const void* grad_out, const void* grad_sum, void* grad_x,
                                   float* grad_weight, float* grad_bias, int64_t rows, int64_t width, void* stream);
int paddlemix_cuda_swiglu(int dtype, const void* gate, const void* up, int64_t stride, void* out, int64_t rows,
                          int64_t width, void* stream);
int paddlemix_cuda_swiglu_grad(int dtype, const void* gate, const void* up, int64_t stride, const void* grad_out,
                               void* grad_gate, void* grad_up, int64_t rows, int64_t width, void* stream);
int paddlemix_cuda_gelu_bias(int dtype, const void* x, const void* bias, void* out, int64_t rows, int64_t width,
                             void* stream);
// grad_bias: likewise.
int paddlemix_cuda_gelu_bias_grad(int dtype, const void* x, const void* bias, const void* grad_out, void* grad_x,
                                  float* grad_bias, int64_t rows, int64_t width, void* stream);

int paddlemix_cuda_rotary_qkv(int dtype, const void* qkv, const void* bias, const float* cos, const float* sin,
                              int64_t table_length, const int32_t* table_index, const int32_t* positions,
                              const float* logn, void* query, paddlemix_strides query_strides, const paddlemix_kv* kv,
                              const int32_t* slots, const int32_t* lengths, int64_t batch, int64_t length,
                              int64_t heads, int64_t head_dim, void* stream);
int paddlemix_cuda_rotary_qkv_grad(int dtype, const void* grad_query, const void* grad_key, const void* grad_value,
                                   const float* cos, const float* sin, int64_t table_length, const int32_t* table_index,
                                   const int32_t* positions, const float* logn, void* grad_qkv, int64_t batch,
                                   int64_t length, int64_t heads, int64_t head_dim, void* stream);

// Bytes of scratch that attention_decode needs on the current device for its partial results; may be 0. At most eight
// queries per row; head_dim is a multiple of 8, at most 256.
int64_t paddlemix_cuda_attention_decode_workspace(int64_t batch, int64_t heads, int64_t length, int64_t head_dim,
                                                  int64_t longest_kv);
// longest_kv: the largest of kv_lengths, known to the host (they lie on the device).
int paddlemix_cuda_attention_decode(int dtype, const void* query, paddlemix_strides query_strides,
                                    const paddlemix_kv* kv, const paddlemix_visibility* visibility, float scale,
                                    void* out, void* workspace, int64_t longest_kv, int64_t batch, int64_t heads,
                                    int64_t length, int64_t head_dim, void* stream);

// The architecture, such as 80, of the code that the current device runs, found by a launch. Negative: minus the
// cudaError_t that says why no kernel of the library runs there. Waits for the device: for once, before anything else.
int paddlemix_cuda_trial(void);
// What an error of these functions means.
const char* paddlemix_cuda_error(int error);

// The products for few rows: at most PADDLEMIX_CUDA_FEW_ROWS, or PADDLEMIX_CUDA_MATRIX_ROWS by matrix instructions. For
// more, dequantize to [in_features, out_features] in dtype and multiply with the vendor's matrix product.
#define PADDLEMIX_CUDA_FEW_ROWS 8
#define PADDLEMIX_CUDA_MATRIX_ROWS 64
// The most rows of this x, contiguous, that the products with packed weights take on the current device. stored: the
// dtype of 16-bit weights, dtype itself for integers. By matrix instructions (sm_80 on) where dtype has 16 bits and holds
// the weights exactly, and in_features and x are aligned to 16 bytes.
int64_t paddlemix_cuda_linear_rows(int dtype, int stored, const void* x, int64_t in_features);
int paddlemix_cuda_linear_w16(int dtype, const void* x, int64_t x_stride, int weight_dtype, const uint16_t* weight,
                              const void* bias, void* out, int64_t rows, int64_t in_features, int64_t out_features,
                              void* stream);
int paddlemix_cuda_linear_w8(int dtype, const void* x, int64_t x_stride, const uint8_t* weight, const float* scales,
                             int64_t groups, const void* bias, void* out, int64_t rows, int64_t in_features,
                             int64_t out_features, void* stream);
int paddlemix_cuda_linear_w4(int dtype, const void* x, int64_t x_stride, const uint8_t* weight, const uint16_t* scales,
                             const void* bias, void* out, int64_t rows, int64_t in_features, int64_t out_features,
                             void* stream);
// out = silu(x gate) * (x up), rounded once: at most PADDLEMIX_CUDA_FEW_ROWS rows, by matrix instructions alone, hence
// where paddlemix_cuda_linear_rows gives PADDLEMIX_CUDA_MATRIX_ROWS.
int paddlemix_cuda_swiglu_w16(int dtype, const void* x, int64_t x_stride, const uint16_t* gate, const uint16_t* up,
                              void* out, int64_t rows, int64_t in_features, int64_t out_features, void* stream);
int paddlemix_cuda_swiglu_w8(int dtype, const void* x, int64_t x_stride, const uint8_t* gate, const float* gate_scales,
                             const uint8_t* up, const float* up_scales, int64_t groups, void* out, int64_t rows,
                             int64_t in_features, int64_t out_features, void* stream);
int paddlemix_cuda_swiglu_w4(int dtype, const void* x, int64_t x_stride, const uint8_t* gate,
                             const uint16_t* gate_scales, const uint8_t* up, const uint16_t* up_scales, void* out,
                             int64_t rows, int64_t in_features, int64_t out_features, void* stream);
// A weight [in_features, out_features] of dtype, row by row: at most PADDLEMIX_CUDA_FEW_ROWS rows of a 16-bit dtype, x
// and weight aligned to 16 bytes, out_features a multiple of 8, in_features and x_stride of 4, on GPUs with matrix
// instructions (paddlemix_cuda_linear_rows).
int paddlemix_cuda_linear(int dtype, const void* x, int64_t x_stride, const void* weight, const void* bias, void* out,
                          int64_t rows, int64_t in_features, int64_t out_features, void* stream);
int paddlemix_cuda_dequantize_w16(int dtype, int weight_dtype, const uint16_t* weight, void* out, int64_t in_features,
                                  int64_t out_features, void* stream);
int paddlemix_cuda_dequantize_w8(int dtype, const uint8_t* weight, const float* scales, int64_t groups, void* out,
                                 int64_t in_features, int64_t out_features, void* stream);
int paddlemix_cuda_dequantize_w4(int dtype, const uint8_t* weight, const uint16_t* scales, void* out,
                                 int64_t in_features, int64_t out_features, void* stream);

#ifdef __cplusplus
}
#endif
