// y = x W + b for weights of 8 and 4 bits: one body per instruction set, shared by linear_w8.cc and linear_w4.cc.
//
// Every body computes the same numbers, to the bit: exact integer sums over groups of 128 inputs, then, group by group,
// total = fma(sum * weight_scale, activation_scale, total). A row's result hence depends neither on how many rows come
// with it, nor on the instruction set, nor on the threads.
//
// A weight W (struct) derives from Lines (low_bit_packing.h) and offers
//   kInputsPerLine, kLinesPerGroup, kParts, group(tile, index), byte(line, output, input)    from Lines
//   kZero                            what the multiplied bytes exceed the quantized values by
//   kScaleBlocks                     scales of a group and output: 1, or 2 (one per 64 inputs)
//   kGroupScales                     false: one scale per output alone
//   kPrefetchDistance                bytes between a line and the one that is prefetched with it
//   kSignedAvx2                      whether multiply() takes the quantized values themselves, without kZero
//   integer(line, output, input)     a multiplied byte, less kZero
//   scale(tile, block, output)       `block` counts over the scales of an output
//   part(line, index), scales(tile, block), channel_scales(tile)    (AVX-512) the same as vectors, parts with kZero
//   multiply(sum, line, x)           (AVX2) adds 8 outputs of the quantized line times its inputs
//   expand(lines, to)                (AMX) a group as signed bytes: two matrix tiles
#pragma once

#include <cmath>

#include "low_bit.h"

namespace paddlemix {
namespace low_bit {

template <typename W>
struct Product {
  W weight;
  Activations x;
  const float* bias;
  float* out;
  int64_t out_features;

  int64_t tiles() const { return ceil_div(out_features, kOutputTile); }
};

// Inputs that share a scale of the weights.
template <typename W>
constexpr int64_t kScaled = kGroup / W::kScaleBlocks;

// ------------------------------------------------------------------------------------------------------- portable

template <typename W>
void product_portable(const Product<W>& p, int64_t begin, int64_t end) {
  const Activations& x = p.x;
  for (int64_t tile = begin; tile < end; ++tile) {
    for (int64_t row = 0; row < x.rows; ++row) {
      const int64_t block = row / kRowBlock, line_of_row = row % kRowBlock;
      float total[kOutputTile] = {};
      for (int64_t g = 0; g < x.groups; ++g) {
        const uint8_t* lines = p.weight.group(tile, g);
        const int8_t* q = x.group(block, g) + line_of_row * kStep;
        const float x_scale = x.scales[x.entry(block, g) + line_of_row];
        for (int64_t scaled = 0; scaled < W::kScaleBlocks; ++scaled) {
          int32_t sums[kOutputTile] = {};
          for (int64_t i = scaled * kScaled<W>; i < (scaled + 1) * kScaled<W>; ++i) {
            const int32_t value = q[i / kStep * kStep * x.height + i % kStep];
            const uint8_t* line = lines + i / W::kInputsPerLine * kLine;
            for (int64_t o = 0; o < kOutputTile; ++o) sums[o] += value * W::integer(line, o, i % W::kInputsPerLine);
          }
          for (int64_t o = 0; o < kOutputTile; ++o) {
            const float scale = W::kGroupScales ? p.weight.scale(tile, g * W::kScaleBlocks + scaled, o) : 1.f;
            total[o] = std::fma(static_cast<float>(sums[o]) * scale, x_scale, total[o]);
          }
        }
      }
      for (int64_t o = 0; o < kOutputTile && tile * kOutputTile + o < p.out_features; ++o) {
        const int64_t output = tile * kOutputTile + o;
        const float scale = W::kGroupScales ? 1.f : p.weight.scale(tile, 0, o);
        p.out[row * p.out_features + output] = std::fma(total[o], scale, p.bias ? p.bias[output] : 0.f);
      }
    }
  }
}

#if PADDLEMIX_X86

// ----------------------------------------------------------------------------------------------------------- AVX2

// R rows of a block against one tile, whose two halves of 8 outputs take 2 R registers.
template <typename W, int R>
PADDLEMIX_TARGET_AVX2 void rows_avx2(const Product<W>& p, int64_t tile, int64_t block, int64_t first) {
  const Activations& x = p.x;
  float total[R][kOutputTile] = {};
  for (int64_t g = 0; g < x.groups; ++g) {
    const uint8_t* line = p.weight.group(tile, g);
    const int64_t entry = x.entry(block, g) + first;
    for (int64_t scaled = 0; scaled < W::kScaleBlocks; ++scaled) {
      const int64_t first_step = scaled * kScaled<W> / kStep, last_step = (scaled + 1) * kScaled<W> / kStep;
      __m256i sums[R][2];
      for (int r = 0; r < R; ++r) {
        const int32_t start = W::kSignedAvx2 ? 0 : -W::kZero * x.sum(block, g, first_step, last_step, first + r);
        sums[r][0] = sums[r][1] = _mm256_set1_epi32(start);
      }
      for (int64_t step = first_step; step < last_step; ++step) {
        const int8_t* q = x.group(block, g) + (step * x.height + first) * kStep;
        for (int64_t i = 0; i < kStep; i += W::kInputsPerLine, q += W::kInputsPerLine, line += kLine) {
          const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line));
          const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line + 32));
#pragma GCC unroll 4
          for (int r = 0; r < R; ++r) {
            W::multiply(sums[r][0], low, q + r * kStep);
            W::multiply(sums[r][1], high, q + r * kStep);
          }
        }
      }
      for (int half = 0; half < 2; ++half) {
        float scales[8];
        for (int o = 0; o < 8; ++o) {
          scales[o] = W::kGroupScales ? p.weight.scale(tile, g * W::kScaleBlocks + scaled, half * 8 + o) : 1.f;
        }
        for (int r = 0; r < R; ++r) {
          const __m256 sum = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[r][half]), _mm256_loadu_ps(scales));
          float* to = total[r] + half * 8;
          _mm256_storeu_ps(to, _mm256_fmadd_ps(sum, _mm256_set1_ps(x.scales[entry + r]), _mm256_loadu_ps(to)));
        }
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    float* out = p.out + (block * kRowBlock + first + r) * p.out_features;
    for (int64_t o = 0; o < kOutputTile && tile * kOutputTile + o < p.out_features; ++o) {
      const int64_t output = tile * kOutputTile + o;
      const float scale = W::kGroupScales ? 1.f : p.weight.scale(tile, 0, o);
      out[output] = __builtin_fmaf(total[r][o], scale, p.bias ? p.bias[output] : 0.f);
    }
  }
}

template <typename W>
void product_avx2(const Product<W>& p, int64_t begin, int64_t end) {
  for (int64_t tile = begin; tile < end; ++tile) {
    for (int64_t block = 0; block < p.x.blocks(); ++block) {
      const int64_t rows = p.x.rows_of(block);
      int64_t row = 0;
      for (; row + 4 <= rows; row += 4) rows_avx2<W, 4>(p, tile, block, row);
      if (rows - row == 3) rows_avx2<W, 3>(p, tile, block, row);
      if (rows - row == 2) rows_avx2<W, 2>(p, tile, block, row);
      if (rows - row == 1) rows_avx2<W, 1>(p, tile, block, row);
    }
  }
}

// -------------------------------------------------------------------------------------------------------- AVX-512

template <typename W>
PADDLEMIX_TARGET_AVX512 static inline void finish_avx512(const Product<W>& p, int64_t tile, int64_t row, __m512 total) {
  const int64_t first = tile * kOutputTile, left = p.out_features - first;
  const __mmask16 mask = left >= kOutputTile ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
  const __m512 scale = W::kGroupScales ? _mm512_set1_ps(1.f) : p.weight.channel_scales(tile);
  const __m512 bias = p.bias ? _mm512_maskz_loadu_ps(mask, p.bias + first) : _mm512_setzero_ps();
  _mm512_mask_storeu_ps(p.out + row * p.out_features + first, mask, _mm512_fmadd_ps(total, scale, bias));
}

// R rows of a block against T tiles. The weights are read in T streams, prefetched by the kernel: the hardware's
// prefetching ends at each page of 4 KB.
template <typename W, int R, int T>
PADDLEMIX_TARGET_AVX512 void rows_avx512(const Product<W>& p, int64_t tile, int64_t block, int64_t first) {
  const Activations& x = p.x;
  __m512 totals[R][T];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) totals[r][t] = _mm512_setzero_ps();
  }
  const uint8_t* lines[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) lines[t] = p.weight.group(tile + t, 0);
  for (int64_t g = 0; g < x.groups; ++g) {
    const int64_t entry = x.entry(block, g) + first;
#pragma GCC unroll 2
    for (int64_t scaled = 0; scaled < W::kScaleBlocks; ++scaled) {
      const int64_t first_step = scaled * kScaled<W> / kStep, last_step = (scaled + 1) * kScaled<W> / kStep;
      __m512i sums[R][T];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m512i start = _mm512_set1_epi32(-W::kZero * x.sum(block, g, first_step, last_step, first + r));
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) sums[r][t] = start;
      }
      for (int64_t step = first_step; step < last_step; ++step) {
        const int8_t* q = x.group(block, g) + (step * x.height + first) * kStep;
#pragma GCC unroll 2
        for (int64_t i = 0; i < kStep; i += W::kInputsPerLine, q += W::kInputsPerLine) {
          __m512i line[T];
#pragma GCC unroll 8
          for (int t = 0; t < T; ++t) {
            line[t] = _mm512_loadu_si512(lines[t]);
            _mm_prefetch(lines[t] + W::kPrefetchDistance, _MM_HINT_T0);
            lines[t] += kLine;
          }
#pragma GCC unroll 2
          for (int part = 0; part < W::kParts; ++part) {
            __m512i bytes[T];
#pragma GCC unroll 8
            for (int t = 0; t < T; ++t) bytes[t] = W::part(line[t], part);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
              int32_t four;
              memcpy(&four, q + r * kStep + part * 4, sizeof four);
              const __m512i inputs = _mm512_set1_epi32(four);
#pragma GCC unroll 8
              for (int t = 0; t < T; ++t) sums[r][t] = _mm512_dpbusd_epi32(sums[r][t], bytes[t], inputs);
            }
          }
        }
      }
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const __m512 scale =
            W::kGroupScales ? p.weight.scales(tile + t, g * W::kScaleBlocks + scaled) : _mm512_setzero_ps();
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          __m512 sum = _mm512_cvtepi32_ps(sums[r][t]);
          if (W::kGroupScales) sum = _mm512_mul_ps(sum, scale);
          totals[r][t] = _mm512_fmadd_ps(sum, _mm512_set1_ps(x.scales[entry + r]), totals[r][t]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) finish_avx512(p, tile + t, block * kRowBlock + first + r, totals[r][t]);
  }
}

// Up to 16 rows in one or two pieces of up to 8.
template <typename W, int T>
void block_avx512(const Product<W>& p, int64_t tile, int64_t block) {
  for (int64_t row = 0, left = p.x.rows_of(block); left > 0;) {
    const int64_t piece = left > 8 ? (left + 1) / 2 : left;
    switch (piece) {
      case 1: rows_avx512<W, 1, T>(p, tile, block, row); break;
      case 2: rows_avx512<W, 2, T>(p, tile, block, row); break;
      case 3: rows_avx512<W, 3, T>(p, tile, block, row); break;
      case 4: rows_avx512<W, 4, T>(p, tile, block, row); break;
      case 5: rows_avx512<W, 5, T>(p, tile, block, row); break;
      case 6: rows_avx512<W, 6, T>(p, tile, block, row); break;
      case 7: rows_avx512<W, 7, T>(p, tile, block, row); break;
      default: rows_avx512<W, 8, T>(p, tile, block, row);
    }
    row += piece;
    left -= piece;
  }
}

// Index: a pair of tiles, or four of them for a single row.
template <typename W>
void product_avx512(const Product<W>& p, int64_t begin, int64_t end) {
  constexpr int kTogether = 2;
  int64_t tile = begin;
  if (p.x.rows == 1) {
    for (; tile + 4 <= end; tile += 4) rows_avx512<W, 1, 4>(p, tile, 0, 0);
  }
  for (; tile < end; tile += kTogether) {
    for (int64_t block = 0; block < p.x.blocks(); ++block) {
      if (tile + kTogether <= end) {
        block_avx512<W, kTogether>(p, tile, block);
      } else {
        block_avx512<W, 1>(p, tile, block);
      }
    }
  }
}

#endif
}  // namespace low_bit
}  // namespace paddlemix
