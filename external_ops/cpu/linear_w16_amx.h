// The kernel of linear_w16 for bf16 weights and many rows in the matrix tiles of AMX. Not a header of its own:
// linear_w16.cc includes it after the float32 kernels, which finish what is not finite.

constexpr int64_t kTileRows = 16, kStep = 32;         // rows of a tile, inputs of a step
constexpr int64_t kTerms = 3;                         // bf16 numbers that add up to a float32
constexpr int64_t kTileElements = kTileRows * kStep;  // a tile of activations or weights: one kilobyte
constexpr int64_t kSlice = kTerms * kTileElements;    // activations of 16 rows and 32 inputs

// Lives in static memory: GCC's intrinsic tells the compiler of its first eight bytes only.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Splits the 16 rows from `row`, zeros where there are fewer, and inputs [begin, end) to slices [steps][terms][16][32].
// Each term is what is left, cut to eight bits of mantissa: exact, no term can overflow, and all have the sign of x.
PADDLEMIX_TARGET_AMX void split_rows(const Layer& layer, int64_t row, int64_t begin, int64_t end, uint16_t* slices) {
  const __m512 upper_half = _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(0xffff0000u)));
  alignas(64) static const uint16_t kOdd[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                                33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  const __m512i odd = _mm512_load_si512(kOdd);
  for (int64_t k = begin; k < end; k += kStep, slices += kSlice) {
    const int64_t inputs = std::min(kStep, layer.in_features - k);
    const uint32_t wanted = inputs == kStep ? 0xffffffffu : (1u << inputs) - 1;
    for (int64_t r = 0; r < kTileRows; ++r) {
      const uint32_t mask = row + r < layer.rows ? wanted : 0;
      const float* x = layer.x + (row + r) * layer.x_stride + k;
      __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), x);
      __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), x + 16);
      for (int64_t term = 0; term < kTerms; ++term) {
        const __m512i cut = _mm512_permutex2var_epi16(_mm512_castps_si512(low), odd, _mm512_castps_si512(high));
        _mm512_storeu_si512(slices + term * kTileElements + r * kStep, cut);
        low = _mm512_sub_ps(low, _mm512_and_ps(low, upper_half));
        high = _mm512_sub_ps(high, _mm512_and_ps(high, upper_half));
      }
    }
  }
}

// sum [2][2][16][16]: 32 rows by two tiles. a: slices of 16 rows, the next 16 rows `a_stride` further.
PADDLEMIX_TARGET_AMX void multiply_2x2(const uint16_t* a, int64_t a_stride, const uint16_t* b0, const uint16_t* b1,
                                       int64_t steps, float* sum) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t step = 0; step < steps; ++step, a += kSlice, b0 += kTileElements, b1 += kTileElements) {
    _tile_loadd(6, b0, 64);
    _tile_loadd(7, b1, 64);
    for (int64_t term = 0; term < kTerms; ++term) {
      _tile_loadd(4, a + term * kTileElements, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, a + a_stride + term * kTileElements, 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sum, 64);
  _tile_stored(1, sum + 256, 64);
  _tile_stored(2, sum + 512, 64);
  _tile_stored(3, sum + 768, 64);
}

// sum [4][16][16]: 16 rows by four tiles.
PADDLEMIX_TARGET_AMX void multiply_1x4(const uint16_t* a, const uint16_t* const* b, int64_t steps, float* sum) {
  const uint16_t *b0 = b[0], *b1 = b[1], *b2 = b[2], *b3 = b[3];
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t step = 0; step < steps; ++step, a += kSlice) {
    _tile_loadd(4, a, 64);
    _tile_loadd(5, a + kTileElements, 64);
    _tile_loadd(6, a + 2 * kTileElements, 64);
    _tile_loadd(7, b0, 64);
    _tile_dpbf16ps(0, 4, 7);
    _tile_dpbf16ps(0, 5, 7);
    _tile_dpbf16ps(0, 6, 7);
    _tile_loadd(7, b1, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(1, 5, 7);
    _tile_dpbf16ps(1, 6, 7);
    _tile_loadd(7, b2, 64);
    _tile_dpbf16ps(2, 4, 7);
    _tile_dpbf16ps(2, 5, 7);
    _tile_dpbf16ps(2, 6, 7);
    _tile_loadd(7, b3, 64);
    _tile_dpbf16ps(3, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
    _tile_dpbf16ps(3, 6, 7);
    b0 += kTileElements;
    b1 += kTileElements;
    b2 += kTileElements;
    b3 += kTileElements;
  }
  _tile_stored(0, sum, 64);
  _tile_stored(1, sum + 256, 64);
  _tile_stored(2, sum + 512, 64);
  _tile_stored(3, sum + 768, 64);
}

// Adds a block of 16 rows by one tile; where the result is not finite, computes it anew in float32.
PADDLEMIX_TARGET_AMX void finish(const Layer& layer, int64_t row, int64_t tile, const float* sum, int64_t begin,
                                 int64_t end) {
  const __mmask16 columns = static_cast<__mmask16>((1u << layer.columns(tile)) - 1);
  const bool last = end >= layer.in_features;
  const __m512 bias =
      last && layer.bias ? _mm512_maskz_loadu_ps(columns, layer.bias + tile * kOutputTile) : _mm512_setzero_ps();
  __mmask16 not_finite = 0;
  const int64_t row_end = std::min(row + kTileRows, layer.rows);
  for (int64_t r = row; r < row_end; ++r, sum += kOutputTile) {
    float* to = layer.out + r * layer.out_features + tile * kOutputTile;
    __m512 value = _mm512_loadu_ps(sum);
    if (begin > 0) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(columns, to));
    value = _mm512_add_ps(value, bias);
    _mm512_mask_storeu_ps(to, columns, value);
    not_finite |= _mm512_mask_fpclass_ps_mask(columns, value, 0x99);  // NaN and infinities
  }
  if (last && not_finite) avx512::few_rows<PADDLEMIX_BFLOAT16>(layer, row, row_end, tile, tile + 1);
}

// Inputs by tiles of a block of weights that all rows pass over: one megabyte, half of the second-level cache. The sums
// go to memory once per block. 512 to 2048 inputs and 16 to 64 tiles differ by less than the noise.
constexpr int64_t kBlockInputs = 1024, kBlockTiles = 32;

// All rows by the given tiles, over inputs [begin, end). slices: of these inputs; the next 16 rows `row_stride` later.
PADDLEMIX_TARGET_AMX void multiply(const Layer& layer, const uint16_t* slices, int64_t row_stride, int64_t begin,
                                   int64_t end, int64_t tile_begin, int64_t tile_end) {
  static const TileConfig config;
  _tile_loadconfig(&config);
  alignas(64) float sum[4][kTileRows * kOutputTile];
  const int64_t steps = (end - begin) / kStep;
  const uint16_t* last_tile = layer.tile(tile_end - 1) + begin * kOutputTile;
  for (int64_t first = tile_begin; first < tile_end; first += kBlockTiles) {
    const int64_t block_end = std::min(first + kBlockTiles, tile_end);
    int64_t row = 0;
    for (; row + kTileRows < layer.rows; row += 2 * kTileRows) {
      const uint16_t* a = slices + row / kTileRows * row_stride;
      for (int64_t tile = first; tile < block_end; tile += 2) {
        const uint16_t* b = layer.tile(tile) + begin * kOutputTile;
        const int64_t tiles = std::min<int64_t>(2, block_end - tile);
        layer.expect(row, 2 * kTileRows, tile, tiles);
        multiply_2x2(a, row_stride, b, tiles > 1 ? b + layer.tile_size() : last_tile, steps, sum[0]);
        for (int64_t t = 0; t < tiles; ++t) {
          finish(layer, row, tile + t, sum[t], begin, end);
          finish(layer, row + kTileRows, tile + t, sum[2 + t], begin, end);
        }
      }
    }
    if (row < layer.rows) {
      const uint16_t* a = slices + row / kTileRows * row_stride;
      for (int64_t tile = first; tile < block_end; tile += 4) {
        const uint16_t* b[4];
        for (int64_t t = 0; t < 4; ++t) b[t] = layer.tile(std::min(tile + t, tile_end - 1)) + begin * kOutputTile;
        for (int64_t k = begin; k < end; k += kBlockInputs) {
          const int64_t k_end = std::min(k + kBlockInputs, end);
          multiply_1x4(a + (k - begin) / kStep * kSlice, b, (k_end - k) / kStep, sum[0]);
          for (int64_t t = 0; t < 4; ++t) {
            if (tile + t < block_end) finish(layer, row, tile + t, sum[t], k, k_end);
            b[t] += kBlockInputs * kOutputTile;
          }
        }
      }
    }
  }
  _tile_release();
}

// More than 16 rows pass over the weights block by block of inputs; up to 16 go through them in one stream.
void many_rows(const Layer& layer) {
  const int64_t padded = round_up(layer.in_features, kStep), row_tiles = ceil_div(layer.rows, kTileRows);
  const int64_t block_inputs = row_tiles == 1 ? padded : kBlockInputs, bytes = row_tiles * kSlice * 2 / kStep;
  const int64_t at_once = std::min(padded, std::max(int64_t{1}, kScratchBytes / bytes / block_inputs) * block_inputs);
  uint16_t* slices = static_cast<uint16_t*>(scratch(at_once * bytes));
  for (int64_t begin = 0; begin < padded; begin += at_once) {
    const int64_t end = std::min(begin + at_once, padded), row_stride = (end - begin) / kStep * kSlice;
    parallel_for(row_tiles, 1, [&](int64_t first, int64_t last) {
      for (; first < last; ++first) split_rows(layer, first * kTileRows, begin, end, slices + first * row_stride);
    });
    parallel_for(layer.tiles(), 2, [&](int64_t first, int64_t last) {
      for (int64_t k = begin; k < end; k += block_inputs) {
        const uint16_t* from = slices + (k - begin) / kStep * kSlice;
        multiply(layer, from, row_stride, k, std::min(k + block_inputs, end), first, last);
      }
    });
  }
}
