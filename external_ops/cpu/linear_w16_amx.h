// The kernel of linear_w16 for bf16 weights and many rows in the matrix tiles of AMX. Not a header of its own:
// linear_w16.cc includes it after the float32 kernels, which compute anew what is not finite.
//
// kTerms: bf16 numbers that stand for an activation: 1 (rounded to bf16), or 3 (whose sum is the activation exactly).

constexpr int64_t kTileRows = 16, kStep = 32;         // rows of a tile, inputs of a step
constexpr int64_t kTileElements = kTileRows * kStep;  // a tile of activations or weights: one kilobyte

// Activations of 16 rows and 32 inputs.
template <int kTerms>
constexpr int64_t kSlice = kTerms * kTileElements;

// Lives in static memory: GCC's intrinsic tells the compiler of its first eight bytes only.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// The 16 rows from `row`, zeros where there are fewer, and inputs [begin, end) as slices [steps][terms][16][32]. One term
// is rounded to nearest. Of three, each is what is left, cut to eight bits of mantissa: exact, no term can overflow, and
// all have the sign of x.
template <int kTerms>
PADDLEMIX_TARGET_AMX void split_rows(const Layer& layer, int64_t row, int64_t begin, int64_t end, uint16_t* slices) {
  const __m512 upper_half = _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(0xffff0000u)));
  alignas(64) static const uint16_t kOdd[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                                33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  const __m512i odd = _mm512_load_si512(kOdd);
  // A row is read for kRun inputs at a time: rows often lie a multiple of 4 KB apart, where few fit into the cache.
  constexpr int64_t kRun = 256;
  for (int64_t start = begin; start < end; start += kRun) {
    for (int64_t r = 0; r < kTileRows; ++r) {
      const float* x = layer.x + (row + r) * layer.x_stride;
      uint16_t* to = slices + (start - begin) / kStep * kSlice<kTerms> + r * kStep;
      for (int64_t k = start; k < std::min(start + kRun, end); k += kStep, to += kSlice<kTerms>) {
        const int64_t inputs = row + r < layer.rows ? std::min(kStep, layer.in_features - k) : 0;
        const uint32_t mask = inputs == kStep ? 0xffffffffu : (1u << inputs) - 1;
        __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), x + k);
        __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), x + k + 16);
        if constexpr (kTerms == 1) {
          _mm512_storeu_si512(to, avx512_bf16::round_to_bf16(low, high));
        } else {
          for (int64_t term = 0; term < kTerms; ++term) {
            const __m512i cut = _mm512_permutex2var_epi16(_mm512_castps_si512(low), odd, _mm512_castps_si512(high));
            _mm512_storeu_si512(to + term * kTileElements, cut);
            low = _mm512_sub_ps(low, _mm512_and_ps(low, upper_half));
            high = _mm512_sub_ps(high, _mm512_and_ps(high, upper_half));
          }
        }
      }
    }
  }
}

// Adds the sums [2][2][16][16] of 32 rows and two tiles to the outputs, a few rows at a time: the instructions stand
// between those of the next product, so that vector unit and memory work while the tile unit does.
struct PendingSums {
  const Layer* layer = nullptr;
  int64_t row = 0, tile = 0, begin = 0, end = 0, rows = 0;  // rows: 0 where nothing is pending
  const float* sums = nullptr;
  __mmask16 columns[2] = {}, added[2] = {}, not_finite[2] = {};
  __m512 bias[2];

  PADDLEMIX_TARGET_AMX inline void start(const Layer& to, int64_t first_row, int64_t first_tile, int64_t tiles,
                                         const float* from, int64_t first_input, int64_t last_input) {
    layer = &to, row = first_row, tile = first_tile, begin = first_input, end = last_input, sums = from;
    rows = std::min(2 * kTileRows, to.rows - first_row);
    for (int64_t t = 0; t < 2; ++t) {
      columns[t] = t < tiles ? static_cast<__mmask16>((1u << to.columns(tile + t)) - 1) : 0;
      added[t] = begin > 0 ? columns[t] : 0;
      not_finite[t] = 0;
      bias[t] = to.bias && end >= to.in_features ? _mm512_maskz_loadu_ps(columns[t], to.bias + (tile + t) * kOutputTile)
                                                 : _mm512_setzero_ps();
    }
  }
  // The rows [first, last) of these.
  PADDLEMIX_TARGET_AMX inline void add(int64_t first, int64_t last) {
    last = std::min(last, rows);
    for (int64_t r = first; r < last; ++r) {
      const float* from = sums + r / kTileRows * 2 * 256 + r % kTileRows * kOutputTile;
      float* to = layer->out + (row + r) * layer->out_features + tile * kOutputTile;
#pragma GCC unroll 2
      for (int64_t t = 0; t < 2; ++t) {
        const __m512 sum =
            _mm512_add_ps(_mm512_load_ps(from + t * 256), _mm512_maskz_loadu_ps(added[t], to + t * kOutputTile));
        const __m512 value = _mm512_add_ps(sum, bias[t]);
        _mm512_mask_storeu_ps(to + t * kOutputTile, columns[t], value);
        not_finite[t] |= _mm512_mask_fpclass_ps_mask(columns[t], value, 0x99);  // NaN and infinities
      }
    }
  }
  // After the last rows: what is not finite is computed anew in float32.
  PADDLEMIX_TARGET_AMX inline void finish() {
    for (int64_t t = 0; t < 2 && rows > 0 && end >= layer->in_features; ++t) {
      if (!not_finite[t]) continue;
      avx512::few_rows<PADDLEMIX_BFLOAT16>(*layer, row, row + rows, tile + t, tile + t + 1);
    }
    rows = 0;
  }
};

// sum [2][2][16][16]: 32 rows by two tiles. a: slices of 16 rows, the next 16 rows `a_stride` further. Finishes what is
// pending.
template <int kTerms>
PADDLEMIX_TARGET_AMX void multiply_2x2(const uint16_t* a, int64_t a_stride, const uint16_t* b0, const uint16_t* b1,
                                       int64_t steps, float* sum, PendingSums& pending) {
  const int64_t rows_per_step = ceil_div(pending.rows, steps);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t step = 0; step < steps; ++step, a += kSlice<kTerms>, b0 += kTileElements, b1 += kTileElements) {
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
    pending.add(step * rows_per_step, (step + 1) * rows_per_step);
  }
  pending.finish();
  _tile_stored(0, sum, 64);
  _tile_stored(1, sum + 256, 64);
  _tile_stored(2, sum + 512, 64);
  _tile_stored(3, sum + 768, 64);
}

// Tile t of sums: activations in 4 (and 5, 6) times the weights at `weights`, which move on by one tile.
#define W16_MULTIPLY_COLUMN(t, weights)                                                                                \
  _tile_loadd(7, weights, 64);                                                                                         \
  _tile_dpbf16ps(t, 4, 7);                                                                                             \
  if constexpr (kTerms == 3) {                                                                                         \
    _tile_dpbf16ps(t, 5, 7);                                                                                           \
    _tile_dpbf16ps(t, 6, 7);                                                                                           \
  }                                                                                                                    \
  weights += kTileElements

// sum [4][16][16]: 16 rows by four tiles.
template <int kTerms>
PADDLEMIX_TARGET_AMX void multiply_1x4(const uint16_t* a, const uint16_t* const* b, int64_t steps, float* sum) {
  const uint16_t *b0 = b[0], *b1 = b[1], *b2 = b[2], *b3 = b[3];
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t step = 0; step < steps; ++step, a += kSlice<kTerms>) {
    _tile_loadd(4, a, 64);
    if constexpr (kTerms == 3) {
      _tile_loadd(5, a + kTileElements, 64);
      _tile_loadd(6, a + 2 * kTileElements, 64);
    }
    W16_MULTIPLY_COLUMN(0, b0);
    W16_MULTIPLY_COLUMN(1, b1);
    W16_MULTIPLY_COLUMN(2, b2);
    W16_MULTIPLY_COLUMN(3, b3);
  }
  _tile_stored(0, sum, 64);
  _tile_stored(1, sum + 256, 64);
  _tile_stored(2, sum + 512, 64);
  _tile_stored(3, sum + 768, 64);
}

// Adds a block of 16 rows by one tile.
PADDLEMIX_TARGET_AMX static inline void finish(const Layer& layer, int64_t row, int64_t tile, const float* sum,
                                               int64_t begin, int64_t end) {
  avx512_bf16::finish(layer, row, std::min(row + kTileRows, layer.rows), tile, sum, kOutputTile, begin, end);
}

// Inputs that are summed up in the tiles before the sums are added to the outputs, and tiles whose outputs stay in the
// second-level cache until all inputs have been added. A quarter of these inputs takes half as long again: the sums, not
// the activations, decide.
constexpr int64_t kBlockInputs = 1024, kBlockTiles = 16;

// All rows by the tiles [first, last), at most kBlockTiles, over inputs [begin, end). slices: of these inputs; the next 16
// rows `row_stride` later.
template <int kTerms>
PADDLEMIX_TARGET_AMX void multiply_block(const Layer& layer, const uint16_t* slices, int64_t row_stride, int64_t begin,
                                         int64_t end, int64_t first, int64_t last) {
  alignas(64) float sums[2][4][kTileRows * kOutputTile];
  PendingSums pending;
  const int64_t steps = (end - begin) / kStep;
  int64_t row = 0, done = 0;
  for (; row + kTileRows < layer.rows; row += 2 * kTileRows) {
    const uint16_t* a = slices + row / kTileRows * row_stride;
    for (int64_t tile = first; tile < last; tile += 2, ++done) {
      const int64_t tiles = std::min<int64_t>(2, last - tile);
      const uint16_t* b = layer.tile(tile) + begin * kOutputTile;
      multiply_2x2<kTerms>(a, row_stride, b, tiles > 1 ? b + layer.tile_size() : b, steps, sums[done % 2][0], pending);
      pending.start(layer, row, tile, tiles, sums[done % 2][0], begin, end);
    }
  }
  pending.add(0, pending.rows);
  pending.finish();
  if (row >= layer.rows) return;
  const uint16_t* a = slices + row / kTileRows * row_stride;
  for (int64_t tile = first; tile < last; tile += 4) {
    const uint16_t* b[4];
    for (int64_t t = 0; t < 4; ++t) b[t] = layer.tile(std::min(tile + t, last - 1)) + begin * kOutputTile;
    for (int64_t k = begin; k < end; k += kBlockInputs) {
      const int64_t k_end = std::min(k + kBlockInputs, end);
      multiply_1x4<kTerms>(a + (k - begin) / kStep * kSlice<kTerms>, b, (k_end - k) / kStep, sums[0][0]);
      for (int64_t t = 0; t < 4; ++t) {
        if (tile + t < last) finish(layer, row, tile + t, sums[0][t], k, k_end);
        b[t] += kBlockInputs * kOutputTile;
      }
    }
  }
}

// The tiles [first, last) over inputs [begin, end), block by block of inputs.
template <int kTerms>
PADDLEMIX_TARGET_AMX void multiply(const Layer& layer, const uint16_t* slices, int64_t row_stride, int64_t begin,
                                   int64_t end, int64_t block_inputs, int64_t first, int64_t last) {
  static const TileConfig config;
  _tile_loadconfig(&config);
  for (int64_t tile = first; tile < last; tile += kBlockTiles) {
    for (int64_t k = begin; k < end; k += block_inputs) {
      multiply_block<kTerms>(layer, slices + (k - begin) / kStep * kSlice<kTerms>, row_stride, k,
                             std::min(k + block_inputs, end), tile, std::min(tile + kBlockTiles, last));
    }
  }
  _tile_release();
}

// More than 16 rows pass over the weights block by block of inputs; up to 16 go through them in one stream.
template <int kTerms>
void many_rows(const Layer& layer) {
  const int64_t padded = round_up(layer.in_features, kStep), row_tiles = ceil_div(layer.rows, kTileRows);
  const int64_t block_inputs = row_tiles == 1 ? padded : kBlockInputs;
  const int64_t bytes = row_tiles * kSlice<kTerms> * 2 / kStep;
  const int64_t at_once = std::min(padded, std::max(int64_t{1}, kScratchBytes / bytes / block_inputs) * block_inputs);
  uint16_t* slices = static_cast<uint16_t*>(scratch(at_once * bytes));
  for (int64_t begin = 0; begin < padded; begin += at_once) {
    const int64_t end = std::min(begin + at_once, padded), row_stride = (end - begin) / kStep * kSlice<kTerms>;
    parallel_for(row_tiles, 1, [&](int64_t first, int64_t last) {
      for (; first < last; ++first) {
        split_rows<kTerms>(layer, first * kTileRows, begin, end, slices + first * row_stride);
      }
    });
    parallel_for(layer.tiles(), 2, [&](int64_t first, int64_t last) {
      multiply<kTerms>(layer, slices, row_stride, begin, end, block_inputs, first, last);
    });
  }
}
