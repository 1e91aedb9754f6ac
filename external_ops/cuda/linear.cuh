// Launches of the products of few rows with weights in tiles: which kernel, and how many warps.
#pragma once

#include "device.cuh"
#include "linear_lanes.cuh"
#include "linear_matrix.cuh"

namespace paddlemix {

constexpr int kFewRows = PADDLEMIX_CUDA_FEW_ROWS, kMatrixRows = PADDLEMIX_CUDA_MATRIX_ROWS;

// The warps of a block: as many as let all blocks be resident at once, within `most`, at least 4, and none without a
// chunk. resident: warps that a multiprocessor has room for.
inline int warps_of(int blocks, int chunks, int most, int resident) {
  const int64_t room = static_cast<int64_t>(current_device().multiprocessors) * resident;
  int warps = most;
  while (warps > 4 && blocks * static_cast<int64_t>(warps) > room) warps /= 2;
  while (warps > 1 && warps / 2 >= chunks) warps /= 2;
  return warps;
}

template <bool kXPacked, bool kGated, typename T, typename Format>
void launch_few(const Product<T, Format>& p, void* stream) {
  const int blocks = kGated ? p.tiles : ceil_div(p.tiles, 2);
  const int warps = warps_of(blocks, p.chunks, kMatrixWarps<1>, Format::kWarps);
  PADDLEMIX_LAUNCH((few_rows_by_matrix<T, Format, kXPacked, kGated>), blocks, warps * kWarp, 0, stream, p);
}

template <int kRowTiles, typename T, typename Format>
void launch_more(const Product<T, Format>& p, void* stream) {
  const int blocks = ceil_div(p.tiles, 2);
  const int warps = warps_of(blocks, p.chunks, kMatrixWarps<kRowTiles>, kMatrixWarps<kRowTiles>);
  PADDLEMIX_LAUNCH((more_rows_by_matrix<T, Format, kRowTiles>), blocks, warps * kWarp, 0, stream, p);
}

// Up to kMatrixRows rows whose words can be read at once, else up to kFewRows.
template <typename T, typename Format>
void launch_by_matrix(const Product<T, Format>& p, void* stream) {
  const int rows = p.output.rows;
  if (!p.x_packed) {
    launch_few<false, false>(p, stream);
  } else if (rows <= kRowTile) {
    launch_few<true, false>(p, stream);
  } else if (rows <= 2 * kRowTile) {
    launch_more<2>(p, stream);
  } else if (rows <= 4 * kRowTile) {
    launch_more<4>(p, stream);
  } else {
    launch_more<8>(p, stream);
  }
}

template <typename T, typename Format>
void launch_by_lanes(const Product<T, Format>& p, void* stream) {
  const int blocks = p.tiles, warps = warps_of(blocks, p.chunks, kLaneWarps, 16);
  const auto launch = [&](auto rows) {
    PADDLEMIX_LAUNCH((few_rows_by_lanes<T, Format, decltype(rows)::value>), blocks, warps * kWarp, 0, stream, p);
  };
  if (p.output.rows == 1) {
    launch(std::integral_constant<int, 1>());
  } else if (p.output.rows == 2) {
    launch(std::integral_constant<int, 2>());
  } else if (p.output.rows <= 4) {
    launch(std::integral_constant<int, 4>());
  } else {
    launch(std::integral_constant<int, 8>());
  }
}

template <typename T, typename Format>
Product<T, Format> product_of(const void* x, int64_t x_stride, const Tiles<Format>& weight, const Tiles<Format>& up,
                              const void* bias, void* out, int64_t rows, int64_t in_features, int64_t out_features) {
  constexpr int kInputs = Format::kInputs;
  const bool x_packed = reinterpret_cast<uintptr_t>(x) % (kInputs * sizeof(T)) == 0 && x_stride % kInputs == 0 &&
                        in_features % kInputs == 0;
  return {static_cast<const T*>(x),
          x_stride,
          weight,
          up,
          {static_cast<const T*>(bias), static_cast<T*>(out), static_cast<int>(rows), static_cast<int>(out_features)},
          static_cast<int>(in_features),
          static_cast<int>(ceil_div<int64_t>(out_features, kTile)),
          chunks_of<Format>(in_features),
          x_packed};
}

template <typename Format>
int linear_few_rows(int dtype, const void* x, int64_t x_stride, const void* weight, Format format, const void* bias,
                    void* out, int64_t rows, int64_t in_features, int64_t out_features, void* stream) {
  if (rows == 0 || out_features == 0) return 0;
  if (!aligned16({weight}, {})) return static_cast<int>(cudaErrorInvalidValue);
  bool too_many = false;
  const int error = dispatch(dtype, [&](auto element) {
    using T = decltype(element);
    const Tiles<Format> tiles = {static_cast<const uint4*>(weight), format};
    const auto product = product_of<T, Format>(x, x_stride, tiles, tiles, bias, out, rows, in_features, out_features);
    if constexpr (Format::template kExact<T>) {
      if (current_device().has_matrix_code()) {
        too_many = rows > (product.x_packed ? kMatrixRows : kFewRows) || !rows_fit(rows, x_stride);
        if (!too_many) launch_by_matrix(product, stream);
        return;
      }
    }
    too_many = rows > kFewRows;
    if (!too_many) launch_by_lanes(product, stream);
  });
  return too_many ? static_cast<int>(cudaErrorInvalidValue) : error;
}

// silu(x gate) * (x up), for up to kFewRows rows whose words can be read at once, by matrix instructions alone.
template <typename Format>
int swiglu_few_rows(int dtype, const void* x, int64_t x_stride, const void* gate, Format gate_format, const void* up,
                    Format up_format, void* out, int64_t rows, int64_t in_features, int64_t out_features,
                    void* stream) {
  if (rows == 0 || out_features == 0) return 0;
  bool refused =
      rows > kFewRows || !rows_fit(rows, x_stride) || !aligned16({gate, up}, {}) || !current_device().has_matrix_code();
  const int error = dispatch(dtype, [&](auto element) {
    using T = decltype(element);
    if constexpr (Format::template kExact<T>) {
      const auto product = product_of<T, Format>(x, x_stride, {static_cast<const uint4*>(gate), gate_format},
                                                 {static_cast<const uint4*>(up), up_format}, nullptr, out, rows,
                                                 in_features, out_features);
      refused = refused || !product.x_packed;
      if (!refused) launch_few<true, true>(product, stream);
    } else {
      refused = true;
    }
  });
  return refused ? static_cast<int>(cudaErrorInvalidValue) : error;
}

}  // namespace paddlemix
