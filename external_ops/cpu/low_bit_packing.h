// Weights of 8 and 4 bits in tiles: where their lines lie, packing, reading back, and what quantizing needs.
//
// A weight W (struct) derives from Lines and offers kZero, kScaleBlocks, value(line, output, input) and
// value_scale(tile, block, output), whose product is the weight; see low_bit_vector.h.
#pragma once

#include "low_bit.h"

namespace paddlemix {
namespace low_bit {

// The lines of a weight of which each holds kInputs of the 128 inputs of a group: one byte of the four of an output
// holds one input, or two, of which the one that is four further on lies in the upper half.
template <int64_t kInputs>
struct Lines {
  static constexpr int64_t kInputsPerLine = kInputs, kLinesPerGroup = kGroup / kInputs;
  static constexpr int64_t kPackedBytes = kLinesPerGroup * kLine;  // of a tile and group
  static constexpr int kParts = kInputs / 4;

  const uint8_t* weight;
  int64_t groups;

  const uint8_t* group(int64_t tile, int64_t index) const { return weight + (tile * groups + index) * kPackedBytes; }
  static int32_t byte(const uint8_t* line, int64_t output, int64_t input) {
    return kParts == 1 ? line[output * 4 + input] : line[output * 4 + input % 4] >> input / 4 * 4 & 15;
  }
};

// The lines of one tile and group, from quantized values.
template <typename W>
PADDLEMIX_BODY void pack_group(const int8_t (*q)[kOutputTile], uint8_t* lines) {
  for (int64_t i = 0; i < kGroup; i += W::kInputsPerLine, lines += kLine) {
    for (int64_t o = 0; o < kOutputTile; ++o) {
      for (int64_t j = 0; j < 4; ++j) {
        unsigned byte = static_cast<uint8_t>(q[i + j][o] + W::kZero);
        if constexpr (W::kParts == 2) byte |= static_cast<unsigned>(q[i + j + 4][o] + W::kZero) << 4;
        lines[o * 4 + j] = static_cast<uint8_t>(byte);
      }
    }
  }
}

// From q [in_features, out_features] to tiles.
template <typename W>
void pack(const int8_t* q, uint8_t* weight, int64_t in_features, int64_t out_features) {
  const int64_t groups = ceil_div(in_features, kGroup);
  for_groups(in_features, out_features, [=](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      for (int64_t tile = 0; tile < ceil_div(out_features, kOutputTile); ++tile) {
        int8_t block[kGroup][kOutputTile];
        read_block(q, out_features, in_features, out_features, group, tile, block);
        pack_group<W>(block, weight + (tile * groups + group) * W::kPackedBytes);
      }
    }
  });
}

template <typename W>
struct Dequantization {
  W weight;
  float* w;
  int64_t in_features, out_features;
};

template <typename W>
PADDLEMIX_BODY void dequantize_body(const Dequantization<W>& a, int64_t begin, int64_t end) {
  const int64_t tiles = ceil_div(a.out_features, kOutputTile);
  for (int64_t group = begin; group < end; ++group) {
    const int64_t inputs = at_most(a.in_features - group * kGroup, kGroup);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t outputs = at_most(a.out_features - tile * kOutputTile, kOutputTile);
      const uint8_t* lines = a.weight.group(tile, group);
      float scales[kOutputTile];
      for (int64_t i = 0; i < inputs; ++i) {
        if (i % (kGroup / W::kScaleBlocks) == 0) {
          const int64_t block = (group * kGroup + i) / (kGroup / W::kScaleBlocks);
          for (int64_t o = 0; o < kOutputTile; ++o) scales[o] = a.weight.value_scale(tile, block, o);
        }
        const uint8_t* line = lines + i / W::kInputsPerLine * kLine;
        float values[kOutputTile];
        for (int64_t o = 0; o < kOutputTile; ++o) values[o] = W::value(line, o, i % W::kInputsPerLine) * scales[o];
        memcpy(a.w + (group * kGroup + i) * a.out_features + tile * kOutputTile, values, sizeof(float) * outputs);
      }
    }
  }
}

// From tiles to W [in_features, out_features].
template <typename W>
void dequantize(const W& weight, float* w, int64_t in_features, int64_t out_features) {
  const Dequantization<W> a{weight, w, in_features, out_features};
  for_groups(in_features, out_features,
             [&a](int64_t begin, int64_t end) { run_body<dequantize_body<W>>(a, begin, end); });
}

// From W [in_features, out_features], its rows `stride` apart, to tiles and scales. scale_groups: 1 (a scale per output)
// or as many as there are groups of 128 inputs.
template <typename Scale>
struct Quantization {
  const float* w;
  int64_t stride, scale_groups;
  uint8_t* weight;
  Scale* scales;
  int64_t in_features, out_features;
};

}  // namespace low_bit
}  // namespace paddlemix
