// The linear layer over a weight of 8 or 4 bits: rounds the activations and chooses the body.
#pragma once

#include "low_bit_amx.h"
#include "low_bit_vector.h"

namespace paddlemix {
namespace low_bit {

// From this many rows on the matrix tiles, whose work is the same for 1 and for 16 rows, beat the vector body.
constexpr int64_t kAmxRows = kRowBlock;

template <typename W>
void linear(const W& weight, const float* x, int64_t x_stride, const float* bias, float* out, int64_t rows,
            int64_t in_features, int64_t out_features) {
  if (rows <= 0 || in_features <= 0 || out_features <= 0) return;
  const int isa = paddlemix_cpu_isa();
  const bool amx = isa >= PADDLEMIX_AMX && rows >= kAmxRows;
  const Product<W> product{weight, round_activations(x, x_stride, rows, in_features, amx), bias, out, out_features};
  const int64_t tiles = product.tiles();
#if PADDLEMIX_HAS_AMX
  if (amx) {
    parallel_for(ceil_div(tiles, kPanelTiles), 1,
                 [&product](int64_t begin, int64_t end) { product_amx(product, begin, end); });
    return;
  }
#endif
  // Pieces of four tiles, which one row takes at once.
  parallel_for(ceil_div(tiles, 4), 1, [&](int64_t begin, int64_t end) {
    begin *= 4;
    end = end * 4 < tiles ? end * 4 : tiles;
#if PADDLEMIX_X86
    if (isa >= PADDLEMIX_AVX512) return product_avx512(product, begin, end);
    if (isa >= PADDLEMIX_AVX2) return product_avx2(product, begin, end);
#endif
    product_portable(product, begin, end);
  });
}

}  // namespace low_bit
}  // namespace paddlemix
