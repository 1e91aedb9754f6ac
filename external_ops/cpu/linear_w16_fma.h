// The float32 kernels of linear_w16 in vector registers. Not a header of its own: linear_w16.cc includes it once per
// instruction set, in a namespace that has defined
//   W16_TARGET                  the function attribute of the instruction set
//   Vec, kWidth                 a vector of floats and how many it holds (16, or 8: half a tile)
//   zero, broadcast, load, store, add, multiply_add (a * b + c)
//   unpack<dtype>(line, part, &even, &odd)   outputs [part * kWidth, + kWidth) of a line: its even and its odd input
//   kFewRows, kSums             rows that few_rows() takes at a time, vectors that it sums up in
//   kPanelRows                  rows of a register block of many_rows(); its columns are two vectors

constexpr int kParts = static_cast<int>(kOutputTile) / kWidth;
constexpr int64_t kPanelColumns = 2 * kWidth, kPanelTiles = kPanelColumns / kOutputTile;

// ---------------------------------------------------------------------------------------------------- one to few rows

// kRows rows by kTiles tiles. Several tiles are several streams of reads: with one, the fetch of the next page waits
// for the end of the last (24 GB/s instead of 30); asking for lines ahead of time gives another fifth.
template <int kDtype, int kRows, int kTiles>
W16_TARGET void dot_tiles(const Layer& layer, int64_t row, int64_t tile) {
  constexpr int64_t kAhead = 1024;  // weights: two kilobytes
  const float* x = layer.x + row * layer.x_stride;
  const uint16_t* weight = layer.tile(tile);
  float total[kRows][kTiles][kOutputTile] = {};
  for (int64_t begin = 0; begin < layer.in_features; begin += kSumBlock) {
    const int64_t end = std::min(begin + kSumBlock, layer.in_features & ~int64_t{1});
    Vec sum[kRows][kTiles][kParts];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int t = 0; t < kTiles; ++t) {
#pragma GCC unroll 2
        for (int part = 0; part < kParts; ++part) sum[r][t][part] = zero();
      }
    }
    for (int64_t k = begin; k < end; k += 2) {
#pragma GCC unroll 4
      for (int t = 0; t < kTiles; ++t) {
        const uint16_t* line = weight + t * layer.tile_size() + k * kOutputTile;
        _mm_prefetch(reinterpret_cast<const char*>(line + kAhead), _MM_HINT_T0);
#pragma GCC unroll 2
        for (int part = 0; part < kParts; ++part) {
          Vec even, odd;
          unpack<kDtype>(line, part, &even, &odd);
#pragma GCC unroll 8
          for (int r = 0; r < kRows; ++r) {
            const float* pair = x + r * layer.x_stride + k;
            sum[r][t][part] = multiply_add(even, broadcast(pair[0]), sum[r][t][part]);
            sum[r][t][part] = multiply_add(odd, broadcast(pair[1]), sum[r][t][part]);
          }
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < kTiles; ++t) {
        for (int part = 0; part < kParts; ++part) {
          float* to = total[r][t] + part * kWidth;
          store(to, add(load(to), sum[r][t][part]));
        }
      }
    }
  }
  for (int t = 0; t < kTiles; ++t) {
    if (layer.in_features % 2) {  // the last line's odd input does not exist, its weights are padding
      const int64_t k = layer.in_features - 1;
      for (int part = 0; part < kParts; ++part) {
        Vec even, odd;
        unpack<kDtype>(weight + t * layer.tile_size() + k * kOutputTile, part, &even, &odd);
        for (int r = 0; r < kRows; ++r) {
          float* to = total[r][t] + part * kWidth;
          store(to, multiply_add(even, broadcast(x[r * layer.x_stride + k]), load(to)));
        }
      }
    }
    for (int r = 0; r < kRows; ++r) layer.finish(row + r, tile + t, total[r][t]);
  }
}

template <int kDtype, int kRows>
W16_TARGET void dot_rows(const Layer& layer, int64_t row, int64_t tile, int64_t tile_end) {
  constexpr int kTiles = std::max(1, std::min(4, kSums / kRows / kParts));
  for (; tile + kTiles <= tile_end; tile += kTiles) dot_tiles<kDtype, kRows, kTiles>(layer, row, tile);
  for (; tile < tile_end; ++tile) dot_tiles<kDtype, kRows, 1>(layer, row, tile);
}

template <int kDtype, int kRows = kFewRows>
W16_TARGET void dot_last_rows(const Layer& layer, int64_t row, int64_t rows, int64_t tile, int64_t tile_end) {
  if (rows == kRows) return dot_rows<kDtype, kRows>(layer, row, tile, tile_end);
  if constexpr (kRows > 1) dot_last_rows<kDtype, kRows - 1>(layer, row, rows, tile, tile_end);
}

// The given rows and tiles; all rows pass over four tiles while these are in the cache.
template <int kDtype>
W16_TARGET void few_rows(const Layer& layer, int64_t row_begin, int64_t row_end, int64_t tile_begin, int64_t tile_end) {
  for (int64_t tile = tile_begin; tile < tile_end; tile += 4) {
    for (int64_t row = row_begin; row < row_end; row += kFewRows) {
      dot_last_rows<kDtype>(layer, row, std::min<int64_t>(kFewRows, row_end - row), tile, std::min(tile + 4, tile_end));
    }
  }
}

// ---------------------------------------------------------------------------------------------------------- many rows

// sum[kPanelRows][kPanelColumns] = a [inputs][kPanelRows] transposed, times b [inputs][kPanelColumns].
W16_TARGET static void multiply_panels(const float* a, const float* b, int64_t inputs, float* sum) {
  Vec block[kPanelRows][2];
#pragma GCC unroll 12
  for (int r = 0; r < kPanelRows; ++r) block[r][0] = block[r][1] = zero();
  for (int64_t k = 0; k < inputs; ++k, a += kPanelRows, b += kPanelColumns) {
    const Vec left = load(b), right = load(b + kWidth);
#pragma GCC unroll 12
    for (int r = 0; r < kPanelRows; ++r) {
      const Vec x = broadcast(a[r]);
      block[r][0] = multiply_add(x, left, block[r][0]);
      block[r][1] = multiply_add(x, right, block[r][1]);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kPanelRows; ++r) {
    store(sum + r * kPanelColumns, block[r][0]);
    store(sum + r * kPanelColumns + kWidth, block[r][1]);
  }
}

// Weights of `tiles` tiles from input `begin` to panel [inputs][kPanelColumns]; `begin` is even, an odd number of
// inputs is rounded up.
template <int kDtype>
W16_TARGET void unpack_panel(const Layer& layer, int64_t tile, int64_t tiles, int64_t begin, int64_t end,
                             float* panel) {
  for (int64_t t = 0; t < tiles; ++t) {
    const uint16_t* weight = layer.tile(tile + t);
    for (int64_t k = begin; k < end; k += 2) {
      float* to = panel + (k - begin) * kPanelColumns + t * kOutputTile;
      for (int part = 0; part < kParts; ++part, to += kWidth) {
        Vec even, odd;
        unpack<kDtype>(weight + k * kOutputTile, part, &even, &odd);
        store(to, even);
        store(to + kPanelColumns, odd);
      }
    }
  }
}

// kPanelRows rows from `row`, zeros where there are fewer, and inputs [begin, end) to [inputs][kPanelRows].
static void transpose_rows(const Layer& layer, int64_t row, int64_t begin, int64_t end, float* to) {
  for (int64_t r = 0; r < kPanelRows; ++r) {
    const float* x = layer.x + (row + r) * layer.x_stride;
    for (int64_t k = begin; k < end; ++k) to[(k - begin) * kPanelRows + r] = row + r < layer.rows ? x[k] : 0.0f;
  }
}

// Inputs go in blocks of kSumBlock / 2: a panel of weights, unpacked once for all rows, then lies in the first-level
// cache (32 KB) while the rows, transposed beforehand, stream past it.
template <int kDtype>
void many_rows(const Layer& layer) {
  constexpr int64_t kInputs = kSumBlock / 2;
  const int64_t row_blocks = ceil_div(layer.rows, kPanelRows), bytes = row_blocks * kPanelRows * sizeof(float);
  const int64_t at_once = std::min(round_up(layer.in_features, kInputs), kScratchBytes / bytes / kInputs * kInputs);
  float* rows = static_cast<float*>(scratch(at_once * bytes));
  for (int64_t start = 0; start < layer.in_features; start += at_once) {
    const int64_t stop = std::min(start + at_once, layer.in_features);
    parallel_for(row_blocks, 1, [&](int64_t block, int64_t block_end) {
      for (; block < block_end; ++block) {
        transpose_rows(layer, block * kPanelRows, start, stop, rows + block * kPanelRows * at_once);
      }
    });
    parallel_for(ceil_div(layer.tiles(), kPanelTiles), 1, [&](int64_t panel_begin, int64_t panel_end) {
      alignas(64) float weights[kInputs * kPanelColumns] = {}, sum[kPanelRows * kPanelColumns];
      for (int64_t begin = start; begin < stop; begin += kInputs) {
        const int64_t end = std::min(begin + kInputs, stop);
        for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
          const int64_t tile = panel * kPanelTiles, tiles = std::min(kPanelTiles, layer.tiles() - tile);
          unpack_panel<kDtype>(layer, tile, tiles, begin, end, weights);
          for (int64_t block = 0; block < row_blocks; ++block) {
            const float* from = rows + block * kPanelRows * at_once + (begin - start) * kPanelRows;
            layer.expect(block * kPanelRows, kPanelRows, tile, tiles);
            multiply_panels(from, weights, end - begin, sum);
            for (int64_t r = 0; r < std::min<int64_t>(kPanelRows, layer.rows - block * kPanelRows); ++r) {
              for (int64_t t = 0; t < tiles; ++t) {
                const float* part = sum + r * kPanelColumns + t * kOutputTile;
                layer.accumulate(block * kPanelRows + r, tile + t, part, begin, end);
              }
            }
          }
        }
      }
    });
  }
}
