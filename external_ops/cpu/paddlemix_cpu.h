// The CPU kernels of paddlemix: a plain C interface, without any framework's headers.
//
// Every function trusts its arguments: shapes, dtypes and alignment are checked by the callers (external_ops/paddle and
// paddlemix/ops). Pointers need no more than the natural alignment of their element. Sizes are in elements, never bytes.
// A size of 0 is allowed everywhere and does nothing. Results do not depend on the number of threads.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  PADDLEMIX_FLOAT32 = 0,
  PADDLEMIX_FLOAT64 = 1,
  PADDLEMIX_FLOAT16 = 2,
  PADDLEMIX_BFLOAT16 = 3,
} paddlemix_dtype;

// ---------------------------------------------------------------------------------------------------- the processor

// Instruction sets, each including those before it. AVX512 stands for F, BW, DQ, VL and VNNI; AMX for AVX512 with the
// int8 and bf16 tile instructions.
typedef enum {
  PADDLEMIX_PORTABLE = 0,
  PADDLEMIX_AVX2 = 1,
  PADDLEMIX_AVX512 = 2,
  PADDLEMIX_AMX = 3,
} paddlemix_isa;

// The best set that processor and operating system offer, and the one in use (at most the best).
int paddlemix_cpu_best_isa(void);
int paddlemix_cpu_isa(void);
// Use at most this set; returns the one now in use. For tests and measurements.
int paddlemix_cpu_limit_isa(int isa);

// Use at most this many threads, 0: as many as OpenMP would. Returns what was set before; 0 at first.
int paddlemix_cpu_set_threads(int count);

// BFLOAT16 (at first): linear_w16 over bf16 weights rounds the activations of many rows to bf16 where the processor
// multiplies bf16 faster than float32. FLOAT32: its products are as exact as float32 ones everywhere. Returns what was set
// before.
int paddlemix_cpu_set_matmul_precision(int dtype);

// ---------------------------------------------------------------------------------------------- norms, activations

// out = x / sqrt(mean(x^2) + epsilon) * weight over the last axis, where x is first replaced by x + residual if a
// residual is given; that sum goes to `sum`. dtype: FLOAT32 or FLOAT64, of all arrays.
//   x, residual (or NULL), out, sum (NULL without residual): [rows, width]; weight: [width]
//   inverse_rms: [rows], for the gradient, or NULL
void paddlemix_cpu_rms_norm(int dtype, const void* x, const void* residual, const void* weight, double epsilon,
                            void* out, void* sum, void* inverse_rms, int64_t rows, int64_t width);
// x: the normalized input (the sum, where there was a residual); grad_sum (or NULL): gradient that reaches the sum from
// elsewhere and is added to grad_x; grad_x, grad_weight: either may be NULL (not wanted).
void paddlemix_cpu_rms_norm_grad(int dtype, const void* x, const void* weight, const void* inverse_rms,
                                 const void* grad_out, const void* grad_sum, void* grad_x, void* grad_weight,
                                 int64_t rows, int64_t width);

// The same with mean and bias: out = (x - mean) / sqrt(variance + epsilon) * weight + bias.
//   mean, inverse_std: [rows], for the gradient, or NULL
void paddlemix_cpu_layer_norm(int dtype, const void* x, const void* residual, const void* weight, const void* bias,
                              double epsilon, void* out, void* sum, void* mean, void* inverse_std, int64_t rows,
                              int64_t width);
// grad_x, grad_weight, grad_bias: each may be NULL (not wanted).
void paddlemix_cpu_layer_norm_grad(int dtype, const void* x, const void* weight, const void* mean,
                                   const void* inverse_std, const void* grad_out, const void* grad_sum, void* grad_x,
                                   void* grad_weight, void* grad_bias, int64_t rows, int64_t width);

// out = silu(gate) * up. FLOAT32 or FLOAT64. gate, up: [rows, width], their rows `stride` elements apart (2 * width
// when both are halves of one packed array); out: [rows, width], contiguous.
void paddlemix_cpu_swiglu(int dtype, const void* gate, const void* up, int64_t stride, void* out, int64_t rows,
                          int64_t width);
// grad_gate, grad_up: rows `stride` apart as well.
void paddlemix_cpu_swiglu_grad(int dtype, const void* gate, const void* up, int64_t stride, const void* grad_out,
                               void* grad_gate, void* grad_up, int64_t rows, int64_t width);

// out = gelu(x + bias) with the exact (erf) GELU. FLOAT32 or FLOAT64. x, out: [rows, width]; bias: [width] or NULL.
void paddlemix_cpu_gelu_bias(int dtype, const void* x, const void* bias, void* out, int64_t rows, int64_t width);
// grad_x: [rows, width]; grad_bias: [width] or NULL (not wanted).
void paddlemix_cpu_gelu_bias_grad(int dtype, const void* x, const void* bias, const void* grad_out, void* grad_x,
                                  void* grad_bias, int64_t rows, int64_t width);

// -------------------------------------------------------------------------------------------- keys, values, attention

// Where the keys and values of each row of a batch lie. The slot s of row r, head h starts at
//   base + block * block_stride + h * head_stride + (s % block_size) * slot_stride,
//   block = block_table ? block_table[r * table_width + s / block_size] : r,
// so that the same description covers a contiguous cache [batch, heads, capacity, head_dim] (block_size = capacity), a
// paged one [blocks, heads, block_size, head_dim] with a table, and views of a packed projection.
typedef struct {
  void* keys;
  void* values;
  int dtype;                                       // FLOAT32 or BFLOAT16 (FLOAT64 where the kernel says so), of both
  int64_t block_stride, head_stride, slot_stride;  // elements; head_dim elements are contiguous
  int64_t block_size;
  const int32_t* block_table;  // [batch, table_width] or NULL
  int64_t table_width;
} paddlemix_kv;

// Strides in elements of a [batch, heads, length, head_dim] array whose head_dim elements are contiguous.
typedef struct {
  int64_t batch, head, position;
} paddlemix_strides;

// Splits a packed projection into heads, adds its bias, rotates q and k (half-split: i turns with i + head_dim / 2),
// scales q, and writes k and v to their places. FLOAT32 or FLOAT64; `kv` is written in its own dtype.
//   qkv: [batch, length, 3 * heads * head_dim], q then k then v; bias: [3 * heads * head_dim] or NULL
//   cos, sin: float32 [tables, table_length, head_dim]; the sines' first half is negated: y = x*cos + roll(x)*sin
//   table_index: [batch], which table each row uses, or NULL: the first
//   positions: [batch, length], each in [0, table_length)
//   logn: float32 [table_length], factor of q by position, or NULL
//   query: out, [batch, heads, length, head_dim] by query_strides
//   slots: [batch], slot of each row's first new position, or NULL: 0
//   lengths: [batch], how many of the new positions are real; the rest is neither written to kv nor to query; NULL: all
void paddlemix_cpu_rotary_qkv(int dtype, const void* qkv, const void* bias, const float* cos, const float* sin,
                              int64_t table_length, const int32_t* table_index, const int32_t* positions,
                              const float* logn, void* query, paddlemix_strides query_strides, const paddlemix_kv* kv,
                              const int32_t* slots, const int32_t* lengths, int64_t batch, int64_t length,
                              int64_t heads, int64_t head_dim);
// The gradient without a cache: grad_query, grad_key, grad_value [batch, heads, length, head_dim], contiguous, to
// grad_qkv [batch, length, 3 * heads * head_dim]. (The bias' gradient is its sum over batch and length.)
void paddlemix_cpu_rotary_qkv_grad(int dtype, const void* grad_query, const void* grad_key, const void* grad_value,
                                   const float* cos, const float* sin, int64_t table_length, const int32_t* table_index,
                                   const int32_t* positions, const float* logn, void* grad_qkv, int64_t batch,
                                   int64_t length, int64_t heads, int64_t head_dim);

// What each query may see. Query t of row r stands at slot query_starts[r] + t and sees the slots s with
//   kv_starts[r] <= s < kv_lengths[r]   and, if query_starts is given (causal),   s <= query_starts[r] + t,
// with mask[r, t, s] added to the score if there is a mask. One that sees nothing (or only -inf) gives zeros.
typedef struct {
  const int32_t* query_starts;  // [batch] or NULL: not causal
  const int32_t* kv_starts;     // [batch] or NULL: 0
  const int32_t* kv_lengths;    // [batch]
  const float* mask;            // additive [mask_batch, length, mask_width], or NULL
  int64_t mask_batch;           // 1 or batch
  int64_t mask_width;           // at least every kv_lengths[r]
} paddlemix_visibility;

// out = softmax(scale * query keys^T + mask) values, the softmax in float32; query and out FLOAT32.
//   query: [batch, heads, length, head_dim] by query_strides; out: [batch, length, heads * head_dim], contiguous
// attention_prefill tiles over queries and keys; attention_decode splits the slots of each (row, head) for few queries.
void paddlemix_cpu_attention_prefill(const float* query, paddlemix_strides query_strides, const paddlemix_kv* kv,
                                     const paddlemix_visibility* visibility, float scale, float* out, int64_t batch,
                                     int64_t heads, int64_t length, int64_t head_dim);
void paddlemix_cpu_attention_decode(const float* query, paddlemix_strides query_strides, const paddlemix_kv* kv,
                                    const paddlemix_visibility* visibility, float scale, float* out, int64_t batch,
                                    int64_t heads, int64_t length, int64_t head_dim);

// ---------------------------------------------------------------------------------------------------- linear layers
//
// y = x W + b with W [in_features, out_features] stored in tiles of 16 outputs, the last tile padded with zero weights:
//   w16  uint16  [tiles, in / 2, 16, 2]     bf16 or fp16 bits; in_features padded to a multiple of 32
//   w8   uint8   [tiles, in / 4, 16, 4]     q + 128, q in [-127, 127]; in_features padded to a multiple of 128
//   w4   uint8   [tiles, in / 8, 16, 4]     q + 8, q in [-8, 7]: of the 8 inputs of a block, byte j holds input j in its
//                                           low half and input j + 4 in its high half; padded to a multiple of 128
//   nf4  uint8   [tiles, in / 8, 16, 4]     codes 0 to 15, laid out as in w4; padded to a multiple of 128 (code 7: level 0)
// One 64-byte line is thus one vector of weights for a dot-product instruction and one row of a matrix tile. Scales:
//   w8   float32 [tiles, groups, 16]        groups = 1 (one scale per output), or in / 128
//   w4   float16 [tiles, in / 128, 16]
// and W = q * scale; for nf4 W = level * scale, one of 16 levels from -1 to 1 times a scale per output and 64 inputs:
//   scales  uint8 [tiles, 2 * (in / 128), 16]    codes of the scales
//   nested  float32 [1 + 256 + n]                offset, value of each code, factors of 256 scales each; n is padded:
//   scale = values[code] * factors[(output * ceil(in_features / 64) + block) / 256] + offset; n covers all tiles' outputs
// x, bias and out are float32; the activations of w8, w4 and nf4 are rounded to 8 bits in groups of 128 inputs (symmetric,
// scale = max |x| / 127), a non-finite activation makes its row's outputs NaN. nf4's levels are rounded to n / 112.
//   x: [rows, in_features], its rows x_stride apart; bias: [out_features] or NULL; out: [rows, out_features]
void paddlemix_cpu_linear_w16(int weight_dtype, const float* x, int64_t x_stride, const uint16_t* weight,
                              const float* bias, float* out, int64_t rows, int64_t in_features, int64_t out_features);
void paddlemix_cpu_linear_w8(const float* x, int64_t x_stride, const uint8_t* weight, const float* scales,
                             int64_t groups, const float* bias, float* out, int64_t rows, int64_t in_features,
                             int64_t out_features);
void paddlemix_cpu_linear_w4(const float* x, int64_t x_stride, const uint8_t* weight, const uint16_t* scales,
                             const float* bias, float* out, int64_t rows, int64_t in_features, int64_t out_features);

void paddlemix_cpu_linear_nf4(const float* x, int64_t x_stride, const uint8_t* weight, const uint8_t* scales,
                              const float* nested, const float* bias, float* out, int64_t rows, int64_t in_features,
                              int64_t out_features);

// From float32 W [in_features, out_features], rows w_stride apart, to the tiles above. `weight` and `scales` hold
// ceil(out_features / 16) tiles. w8: round to nearest, one scale per output (groups = 1) or per 128 inputs. w4: round to
// nearest with, per group, the clipping factor of the grid 1.00, 0.95 … 0.60 whose squared error is least.
void paddlemix_cpu_pack_w16(int weight_dtype, const float* w, int64_t w_stride, uint16_t* weight, int64_t in_features,
                            int64_t out_features);
void paddlemix_cpu_quantize_w8(const float* w, int64_t w_stride, int64_t groups, uint8_t* weight, float* scales,
                               int64_t in_features, int64_t out_features);
void paddlemix_cpu_quantize_w4(const float* w, int64_t w_stride, uint8_t* weight, uint16_t* scales, int64_t in_features,
                               int64_t out_features);
// nf4: to the nearest level times absmax, float32 [tiles, 2 * (in / 128), 16], the largest magnitude of each output and 64
// inputs, which the caller quantizes in turn.
void paddlemix_cpu_quantize_nf4(const float* w, int64_t w_stride, uint8_t* weight, float* absmax, int64_t in_features,
                                int64_t out_features);
// From quantized values to tiles: q int8 [in_features, out_features].
void paddlemix_cpu_pack_w8(const int8_t* q, uint8_t* weight, int64_t in_features, int64_t out_features);
void paddlemix_cpu_pack_w4(const int8_t* q, uint8_t* weight, int64_t in_features, int64_t out_features);
// From tiles to float32 W [in_features, out_features].
void paddlemix_cpu_dequantize_w16(int weight_dtype, const uint16_t* weight, float* w, int64_t in_features,
                                  int64_t out_features);
void paddlemix_cpu_dequantize_w8(const uint8_t* weight, const float* scales, int64_t groups, float* w,
                                 int64_t in_features, int64_t out_features);
void paddlemix_cpu_dequantize_w4(const uint8_t* weight, const uint16_t* scales, float* w, int64_t in_features,
                                 int64_t out_features);
// `weight` begins with tile first_tile of the weight that `scales` and `nested` belong to.
void paddlemix_cpu_dequantize_nf4(const uint8_t* weight, const uint8_t* scales, const float* nested, int64_t first_tile,
                                  float* w, int64_t in_features, int64_t out_features);

#ifdef __cplusplus
}
#endif
