// The kernel of linear_w16 for bf16 weights and many rows with the dot products of AVX512_BF16, and what it shares with
// that of AMX. Not a header of its own: linear_w16.cc includes it after the float32 kernels, which compute anew what is
// not finite.
//
// Activations are rounded to bf16; a line of weights is one operand as it lies, a pair of activations, broadcast, the
// other: 32 products per instruction, added up in float32. Register blocks are 12 rows by two tiles, 24 sums.

constexpr int64_t kPanelRows = 12, kPanelTiles = 2;
// Inputs that are summed up in registers before the sums are added to the outputs: two tiles of weights are 32 KB, the
// first-level cache, past which the rows stream.
constexpr int64_t kBlockInputs = 512;
// Tiles whose outputs, and the rows' block of inputs, stay in the second-level cache until all inputs have been added.
constexpr int64_t kBlockTiles = 32;

// 32 floats to bf16, to nearest, ties to even.
PADDLEMIX_TARGET_AVX512_BF16 static inline __m512i round_to_bf16(__m512 low, __m512 high) {
  const __m512bh rounded = _mm512_cvtne2ps_pbh(high, low);
  __m512i bits;
  memcpy(&bits, &rounded, sizeof bits);
  return bits;
}

// Adds sums of the rows [row, row_end) and one tile, `stride` floats from row to row, over inputs [begin, end); with the
// last inputs comes the bias. Where the result is not finite, the rows and the tile are computed anew in float32: an
// activation that rounds to infinity, or the product of infinity and zero, must not spoil them.
PADDLEMIX_TARGET_AVX512_BF16 static inline void finish(const Layer& layer, int64_t row, int64_t row_end, int64_t tile,
                                                       const float* sum, int64_t stride, int64_t begin, int64_t end) {
  const __mmask16 columns = static_cast<__mmask16>((1u << layer.columns(tile)) - 1);
  const bool last = end >= layer.in_features;
  const __m512 bias =
      last && layer.bias ? _mm512_maskz_loadu_ps(columns, layer.bias + tile * kOutputTile) : _mm512_setzero_ps();
  __mmask16 not_finite = 0;
  for (int64_t r = row; r < row_end; ++r, sum += stride) {
    float* to = layer.out + r * layer.out_features + tile * kOutputTile;
    __m512 value = _mm512_loadu_ps(sum);
    if (begin > 0) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(columns, to));
    value = _mm512_add_ps(value, bias);
    _mm512_mask_storeu_ps(to, columns, value);
    not_finite |= _mm512_mask_fpclass_ps_mask(columns, value, 0x99);  // NaN and infinities
  }
  if (last && not_finite) avx512::few_rows<PADDLEMIX_BFLOAT16>(layer, row, row_end, tile, tile + 1);
}

// The kPanelRows rows from `row`, zeros where there are fewer, and inputs [begin, end), at most kBlockInputs, to
// [kPanelRows][kBlockInputs] of bf16; zeros behind the last input.
PADDLEMIX_TARGET_AVX512_BF16 void round_rows(const Layer& layer, int64_t row, int64_t begin, int64_t end,
                                             uint16_t* to) {
  for (int64_t r = 0; r < kPanelRows; ++r, to += kBlockInputs) {
    const float* x = layer.x + (row + r) * layer.x_stride;
    for (int64_t k = begin; k < end; k += 32) {
      const int64_t inputs = std::min<int64_t>(32, layer.in_features - k);
      const uint32_t wanted = inputs == 32 ? 0xffffffffu : (1u << inputs) - 1, mask = row + r < layer.rows ? wanted : 0;
      const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), x + k);
      const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), x + k + 16);
      _mm512_storeu_si512(to + k - begin, round_to_bf16(low, high));
    }
  }
}

// sum[kPanelRows][2][16] = a [kPanelRows][kBlockInputs] times two tiles.
PADDLEMIX_TARGET_AVX512_BF16 void multiply_panel(const uint16_t* a, const uint16_t* b0, const uint16_t* b1,
                                                 int64_t inputs, float* sum) {
  __m512 block[kPanelRows][kPanelTiles];
#pragma GCC unroll 12
  for (int r = 0; r < kPanelRows; ++r) block[r][0] = block[r][1] = _mm512_setzero_ps();
  for (int64_t k = 0; k < inputs; k += 2, a += 2, b0 += kLine, b1 += kLine) {
    __m512bh left, right;
    memcpy(&left, b0, sizeof left);
    memcpy(&right, b1, sizeof right);
#pragma GCC unroll 12
    for (int r = 0; r < kPanelRows; ++r) {
      int32_t pair;
      memcpy(&pair, a + r * kBlockInputs, sizeof pair);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
      block[r][0] = _mm512_dpbf16_ps(block[r][0], left, x);
      block[r][1] = _mm512_dpbf16_ps(block[r][1], right, x);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kPanelRows; ++r) {
    _mm512_storeu_ps(sum + r * kPanelTiles * kOutputTile, block[r][0]);
    _mm512_storeu_ps(sum + r * kPanelTiles * kOutputTile + kOutputTile, block[r][1]);
  }
}

// The tiles [first, last), at most kBlockTiles, over inputs [begin, end), at most kBlockInputs. rows: of these inputs;
// the next panel of rows `panel_stride` later.
PADDLEMIX_TARGET_AVX512_BF16 void multiply_block(const Layer& layer, const uint16_t* rows, int64_t panel_stride,
                                                 int64_t begin, int64_t end, int64_t first, int64_t last) {
  alignas(64) float sum[kPanelRows * kPanelTiles * kOutputTile];
  for (int64_t tile = first; tile < last; tile += kPanelTiles) {
    const int64_t tiles = std::min(kPanelTiles, last - tile);
    const uint16_t* b = layer.tile(tile) + begin * kOutputTile;
    for (int64_t row = 0, panel = 0; row < layer.rows; row += kPanelRows, ++panel) {
      layer.expect(row, kPanelRows, tile, tiles);
      multiply_panel(rows + panel * panel_stride, b, tiles > 1 ? b + layer.tile_size() : b, end - begin, sum);
      for (int64_t t = 0; t < tiles; ++t) {
        finish(layer, row, std::min(row + kPanelRows, layer.rows), tile + t, sum + t * kOutputTile,
               kPanelTiles * kOutputTile, begin, end);
      }
    }
  }
}

void many_rows(const Layer& layer) {
  const int64_t padded = round_up(layer.in_features, kInputPadding), panels = ceil_div(layer.rows, kPanelRows);
  const int64_t block_size = kPanelRows * kBlockInputs, blocks = ceil_div(padded, kBlockInputs);
  const int64_t at_once = std::max(int64_t{1}, kScratchBytes / (panels * block_size * int64_t{sizeof(uint16_t)}));
  const int64_t panel_stride = std::min(at_once, blocks) * block_size;
  uint16_t* rows = static_cast<uint16_t*>(scratch(panels * panel_stride * sizeof(uint16_t)));
  for (int64_t start = 0; start < padded; start += at_once * kBlockInputs) {
    const int64_t stop = std::min(start + at_once * kBlockInputs, padded);
    parallel_for(panels, 1, [&](int64_t panel, int64_t panel_end) {
      for (; panel < panel_end; ++panel) {
        uint16_t* to = rows + panel * panel_stride;
        for (int64_t k = start; k < stop; k += kBlockInputs, to += block_size) {
          round_rows(layer, panel * kPanelRows, k, std::min(k + kBlockInputs, stop), to);
        }
      }
    });
    parallel_for(ceil_div(layer.tiles(), kPanelTiles), 1, [&](int64_t first, int64_t last) {
      last = std::min(last * kPanelTiles, layer.tiles());
      for (int64_t tile = first * kPanelTiles; tile < last; tile += kBlockTiles) {
        for (int64_t k = start; k < stop; k += kBlockInputs) {
          multiply_block(layer, rows + (k - start) / kBlockInputs * block_size, panel_stride, k,
                         std::min(k + kBlockInputs, stop), tile, std::min(tile + kBlockTiles, last));
        }
      }
    });
  }
}
