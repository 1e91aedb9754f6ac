// The int8 product of many rows on matrix tiles (AMX), for linear_w8.cc and linear_w4.cc.
//
// A panel of 32 outputs is unpacked, 512 inputs at a time, to signed bytes in the first-level cache (16 KB), and meets
// all rows, 32 at a time: 2 x 2 accumulator tiles, so that each loaded tile is used twice. Per group of 128 inputs the
// four tiles of integer sums are stored, and those of four groups are scaled and added to the float totals at once. The
// inputs are cut so that the rounded activations of one cut stay in the second-level cache while all panels pass by.
//
// The tile products alone could do 2.7 times the work: what costs is storing sums and scaling them every 128 inputs.
// Scaling one block of rows while the matrix unit works on the next needs a second buffer of sums, which no longer fits
// into the first-level cache; interleaved by hand with smaller buffers it gains a tenth. Fetching the next activations
// ahead is slower: the loads of whole tiles already keep all misses in flight.
#pragma once

#include <algorithm>

#include "low_bit_vector.h"

#if PADDLEMIX_HAS_AMX

namespace paddlemix {
namespace low_bit {

constexpr int64_t kPanelTiles = 2;  // tiles of 16 outputs
constexpr int64_t kPanel = kPanelTiles * kOutputTile;
// Groups that are unpacked at once: four, or two where each has two scales, so that panel and sums fit into 32 KB.
template <typename W>
constexpr int64_t kChunkGroups = 4 / W::kScaleBlocks;
constexpr int64_t kChunkBlocks = 4;                    // scales of an output in them
constexpr int64_t kGroupBytes = kGroup * kOutputTile;  // of one tile, unpacked
constexpr int64_t kPairRows = 2 * kRowBlock;
constexpr int64_t kMostRows = 512;               // per pass over the weights; their totals take 64 KB
constexpr int64_t kCachedActivations = 5 << 18;  // bytes: of a second-level cache of 2 MB

// Integer sums [block of inputs with one scale][row block][tile][16 rows][16 outputs].
typedef int32_t Sums[kChunkBlocks][2][kPanelTiles][kRowBlock][kOutputTile];

struct alignas(64) AmxMemory {
  int8_t panel[kPanelTiles][kChunkBlocks][kGroupBytes];
  float weight_scales[kChunkBlocks][kPanelTiles][kOutputTile];
  Sums sums;
  float totals[kMostRows][kPanel];
};

// The compiler takes ldtilecfg to read eight bytes and tileloadd to read nothing: what they read must not be a local
// variable that it could leave unwritten, and must be written before a barrier.
struct alignas(64) TileConfiguration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

PADDLEMIX_TARGET_AMX static inline void configure_tiles() {
  static const TileConfiguration configuration;
  _tile_loadconfig(&configuration);
}

static inline void written() { __asm__ volatile("" ::: "memory"); }

// The inputs of one scale, `Steps` times 64 of a group, of 16 or 32 rows: tiles 0-3 sums, 4-5 activations, 6-7 weights.
template <int Blocks, int Steps>
PADDLEMIX_TARGET_AMX static inline void multiply_steps(const int8_t* x0, const int8_t* x1, const int8_t* w0,
                                                       const int8_t* w1, Sums& sums, int g) {
  _tile_zero(0);
  _tile_zero(1);
  if (Blocks == 2) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int step = 0; step < Steps; ++step) {
    const int64_t at = step * kStep * kRowBlock;
    _tile_loadd(6, w0 + at, kLine);
    _tile_loadd(4, x0 + at, kLine);
    _tile_dpbssd(0, 4, 6);
    _tile_loadd(7, w1 + at, kLine);
    _tile_dpbssd(1, 4, 7);
    if (Blocks == 2) {
      _tile_loadd(5, x1 + at, kLine);
      _tile_dpbssd(2, 5, 6);
      _tile_dpbssd(3, 5, 7);
    }
  }
  _tile_stored(0, sums[g][0][0], kLine);
  _tile_stored(1, sums[g][0][1], kLine);
  if (Blocks == 2) {
    _tile_stored(2, sums[g][1][0], kLine);
    _tile_stored(3, sums[g][1][1], kLine);
  }
}

// Adds the sums of G blocks of inputs of the first `rows` rows of a pair of blocks to their totals.
template <typename W, int G>
PADDLEMIX_TARGET_AMX static inline void scale_sums(const Activations& x, int64_t block, int64_t group,
                                                   const AmxMemory& memory, float (*totals)[kPanel], int64_t rows) {
  const Sums& sums = memory.sums;
  __m512 weight_scales[G][kPanelTiles];
#pragma GCC unroll 4
  for (int g = 0; g < G; ++g) {
    weight_scales[g][0] = _mm512_load_ps(memory.weight_scales[g][0]);
    weight_scales[g][1] = _mm512_load_ps(memory.weight_scales[g][1]);
  }
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t half = row / kRowBlock, line = row % kRowBlock;
    const float* scales = x.scales + x.entry(block + half, group) + line;
    __m512 first = _mm512_load_ps(totals[row]), second = _mm512_load_ps(totals[row] + kOutputTile);
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) {
      const __m512 scale = _mm512_set1_ps(scales[g / W::kScaleBlocks * kRowBlock]);
      __m512 a = _mm512_cvtepi32_ps(_mm512_load_si512(sums[g][half][0][line]));
      __m512 b = _mm512_cvtepi32_ps(_mm512_load_si512(sums[g][half][1][line]));
      if (W::kGroupScales) {
        a = _mm512_mul_ps(a, weight_scales[g][0]);
        b = _mm512_mul_ps(b, weight_scales[g][1]);
      }
      first = _mm512_fmadd_ps(a, scale, first);
      second = _mm512_fmadd_ps(b, scale, second);
    }
    _mm512_store_ps(totals[row], first);
    _mm512_store_ps(totals[row] + kOutputTile, second);
  }
}

// G groups, from `group` on, of the unpacked panel against the row blocks [first, last).
template <typename W, int G>
PADDLEMIX_TARGET_AMX void multiply_chunk(const Activations& x, int64_t group, int64_t first, int64_t last,
                                         AmxMemory& memory) {
  const auto& panel = memory.panel;
  constexpr int kScales = W::kScaleBlocks, kStepsPerScale = static_cast<int>(kSteps) / kScales;
  for (int64_t block = first; block < last; block += 2) {
    const bool pair = block + 1 < last;
#pragma GCC unroll 4
    for (int g = 0; g < G * kScales; ++g) {
      const int64_t at = g % kScales * kStepsPerScale * kStep * kRowBlock;
      const int8_t *x0 = x.group(block, group + g / kScales) + at, *x1 = x.group(block + 1, group + g / kScales) + at;
      const int8_t *w0 = panel[0][g / kScales] + at, *w1 = panel[1][g / kScales] + at;
      if (pair) {
        multiply_steps<2, kStepsPerScale>(x0, x1, w0, w1, memory.sums, g);
      } else {
        multiply_steps<1, kStepsPerScale>(x0, nullptr, w0, w1, memory.sums, g);
      }
    }
    scale_sums<W, G * kScales>(x, block, group, memory, memory.totals + (block - first) * kRowBlock,
                               pair ? kPairRows : kRowBlock);
  }
}

// The groups [first_group, last_group) for the row blocks [first, last) and one panel. Totals begin at zero or, after
// the first cut of the inputs, at what `out` holds; with the last cut, channel scales and bias are applied.
template <typename W>
PADDLEMIX_TARGET_AMX void panel_amx(const Product<W>& p, int64_t tile, int64_t first, int64_t last, int64_t first_group,
                                    int64_t last_group, AmxMemory& memory) {
  const Activations& x = p.x;
  const int64_t row0 = first * kRowBlock, rows = (last * kRowBlock < x.rows ? last * kRowBlock : x.rows) - row0;
  const int64_t tiles = p.tiles() - tile < kPanelTiles ? p.tiles() - tile : kPanelTiles;
  __mmask16 masks[kPanelTiles] = {};
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t left = p.out_features - (tile + t) * kOutputTile;
    masks[t] = left >= kOutputTile ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
  }
  for (int64_t row = 0; row < (last - first) * kRowBlock; ++row) {
    const float* from = p.out + (row0 + row) * p.out_features + tile * kOutputTile;
    for (int64_t t = 0; t < kPanelTiles; ++t) {
      const __m512 start =
          first_group && row < rows ? _mm512_maskz_loadu_ps(masks[t], from + t * kOutputTile) : _mm512_setzero_ps();
      _mm512_store_ps(memory.totals[row] + t * kOutputTile, start);
    }
  }
  for (int64_t group = first_group; group < last_group; group += kChunkGroups<W>) {
    const int64_t count = std::min(last_group - group, kChunkGroups<W>);
    for (int64_t t = 0; t < kPanelTiles; ++t) {
      const int64_t source = t < tiles ? tile + t : tile;  // a panel of one tile computes it twice, stores it once
      for (int64_t g = 0; g < count; ++g) {
        W::expand(p.weight.group(source, group + g), memory.panel[t][g]);
        for (int64_t scaled = 0; W::kGroupScales && scaled < W::kScaleBlocks; ++scaled) {
          const int64_t index = g * W::kScaleBlocks + scaled;
          _mm512_store_ps(memory.weight_scales[index][t], p.weight.scales(source, group * W::kScaleBlocks + index));
        }
      }
    }
    written();
    if (count == 1) {
      multiply_chunk<W, 1>(x, group, first, last, memory);
    } else if (count == 2) {
      multiply_chunk<W, 2>(x, group, first, last, memory);
    } else if constexpr (kChunkGroups<W> == 4) {
      if (count == 3) {
        multiply_chunk<W, 3>(x, group, first, last, memory);
      } else {
        multiply_chunk<W, 4>(x, group, first, last, memory);
      }
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t t = 0; t < tiles; ++t) {
      const __m512 total = _mm512_load_ps(memory.totals[row] + t * kOutputTile);
      if (last_group == x.groups) {
        finish_avx512(p, tile + t, row0 + row, total);
      } else {
        _mm512_mask_storeu_ps(p.out + (row0 + row) * p.out_features + (tile + t) * kOutputTile, masks[t], total);
      }
    }
  }
}

// Index: a panel.
template <typename W>
PADDLEMIX_TARGET_AMX void product_amx(const Product<W>& p, int64_t begin, int64_t end) {
  const Activations& x = p.x;
  AmxMemory memory;
  configure_tiles();
  constexpr int64_t kMostBlocks = kMostRows / kRowBlock;
  for (int64_t first = 0; first < x.blocks(); first += kMostBlocks) {
    const int64_t last = first + kMostBlocks < x.blocks() ? first + kMostBlocks : x.blocks();
    const int64_t cuts = ceil_div((last - first) * kRowBlock * x.groups * kGroup, kCachedActivations);
    const int64_t length = round_up(ceil_div(x.groups, cuts), kChunkGroups<W>);
    for (int64_t group = 0; group < x.groups; group += length) {
      const int64_t stop = group + length < x.groups ? group + length : x.groups;
      for (int64_t panel = begin; panel < end; ++panel) {
        panel_amx(p, panel * kPanelTiles, first, last, group, stop, memory);
      }
    }
  }
  _tile_release();
}

}  // namespace low_bit
}  // namespace paddlemix

#endif
