// y = x W + b for few rows of a 16-bit W [in_features, out_features] as Paddle keeps it, row by row.
//
// Bound by reading W, like linear_matrix.cuh, whose numbers of bytes under way hold here: 4 KB per warp. W's rows are
// inputs, and a matrix instruction wants pairs of inputs of one output: a lane reads eight outputs of four inputs, 16
// bytes each, and joins the halves of two rows with one instruction per pair.
#include "device.cuh"
#include "linear_matrix.cuh"

namespace paddlemix {
namespace {

constexpr int kColumns = 64;  // outputs of a block: a row of them is a cache line
constexpr int kSteps = 2;     // of 16 inputs each, read at once
constexpr int kInputs = 16 * kSteps;
constexpr int kWarps = 16;          // of a block, at most
constexpr int kResidentWarps = 24;  // per multiprocessor

template <typename T>
struct RowMajorProduct {
  const T* x;
  int64_t x_stride;
  const T* weight;
  Output<T> output;
  int in_features;
};

// Lane 4g + t works on the outputs 8g … 8g + 7 of the block, and on the inputs 4t … 4t + 3 of each 16. Outputs 8g + 2m
// and 8g + 2m + 1 are the rows g and g + 8 of matrix instruction m, column n of which is row n of x.
template <typename T>
__global__ void __launch_bounds__(kWarps* kWarp) few_rows_by_columns(const RowMajorProduct<T> p) {
#ifdef PADDLEMIX_MATRIX_CODE
  alignas(16) __shared__ float partial[kWarps][kRowTile][kColumns];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int g = lane / 4, t = lane % 4;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kColumns + 8 * g;
  const bool inside = column < p.output.out_features;
  const int row = min(g, p.output.rows - 1) * static_cast<int>(p.x_stride);  // a row too much is the last one again

  // What is read at once. Two of these take turns: to copy one into the other would wait for its loads.
  struct Fetched {
    uint4 words[kSteps][4];
    uint2 x[kSteps];
  };
  const auto fetch = [&](Fetched& to, int part) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int first = part * kInputs + step * 16 + 4 * t;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        to.words[step][i] = {};
        if (inside && first < p.in_features) {
          const T* from = p.weight + static_cast<int64_t>(first + i) * p.output.out_features + column;
          to.words[step][i] = __ldcs(reinterpret_cast<const uint4*>(from));
        }
      }
      to.x[step] = word_of_inputs<4, true>(p.x, row, first, p.in_features);
    }
  };

  float total[4][4] = {};
  const int parts = ceil_div(p.in_features, kInputs);
  const auto multiply = [&](const Fetched& now, Fetched& next, int part) {
    if (part + warps < parts) fetch(next, part + warps);
    float c[4][4] = {};
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        uint32_t w[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) w[i] = word_of(now.words[step][i], m);
        multiply_accumulate<T>(c[m], __byte_perm(w[0], w[1], 0x5410u), __byte_perm(w[0], w[1], 0x7632u),
                               __byte_perm(w[2], w[3], 0x5410u), __byte_perm(w[2], w[3], 0x7632u), now.x[step].x,
                               now.x[step].y);
      }
    }
#pragma unroll
    for (int m = 0; m < 4; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) total[m][i] += c[m][i];
    }
  };
  Fetched one = {}, other = {};
  if (warp < parts) fetch(one, warp);
  for (int part = warp; part < parts; part += 2 * warps) {
    multiply(one, other, part);
    if (part + warps < parts) multiply(other, one, part + warps);
  }
#pragma unroll
  for (int m = 0; m < 4; ++m) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      *reinterpret_cast<float2*>(&partial[warp][2 * t + i][8 * g + 2 * m]) = make_float2(total[m][i], total[m][2 + i]);
    }
  }
  write_sums(p.output, partial);
#endif
}

// The warps of a block: as many as let all blocks be resident at once, none without inputs.
int warps_of(int blocks, int parts) {
  const int64_t room = static_cast<int64_t>(current_device().multiprocessors) * kResidentWarps;
  int warps = kWarps;
  while (warps > 4 && blocks * static_cast<int64_t>(warps) > room) warps /= 2;
  while (warps > 1 && warps / 2 >= parts) warps /= 2;
  return warps;
}

}  // namespace
}  // namespace paddlemix

extern "C" int paddlemix_cuda_linear(int dtype, const void* x, int64_t x_stride, const void* weight, const void* bias,
                                     void* out, int64_t rows, int64_t in_features, int64_t out_features, void* stream) {
  using namespace paddlemix;
  if (rows == 0 || out_features == 0) return 0;
  bool refused = rows > PADDLEMIX_CUDA_FEW_ROWS || !rows_fit(rows, x_stride) || !current_device().has_matrix_code() ||
                 !aligned16({x, weight}, {out_features * 2, in_features * 4, x_stride * 4});
  const int error = dispatch(dtype, [&](auto element) {
    using T = decltype(element);
    if constexpr (!std::is_same_v<T, float>) {
      if (refused) return;
      const RowMajorProduct<T> product = {
          static_cast<const T*>(x),
          x_stride,
          static_cast<const T*>(weight),
          {static_cast<const T*>(bias), static_cast<T*>(out), static_cast<int>(rows), static_cast<int>(out_features)},
          static_cast<int>(in_features)};
      const int blocks = ceil_div(static_cast<int>(out_features), kColumns);
      const int warps = warps_of(blocks, ceil_div(static_cast<int>(in_features), kInputs));
      PADDLEMIX_LAUNCH((few_rows_by_columns<T>), blocks, warps * kWarp, 0, stream, product);
    } else {
      refused = true;
    }
  });
  return refused ? static_cast<int>(cudaErrorInvalidValue) : error;
}
