// Rounding of activations to 8 bits for the int8 and int4 linear layers.
//
// Plain loops that the compiler vectorizes for each instruction set; the maximum is taken over the bits as integers,
// which is exact, needs no order, and shows NaN and Inf as what lies beyond the largest finite value. One row of 4096
// takes about a microsecond, less than it costs to wake another thread.
#include "low_bit.h"

#include <stdlib.h>

#include <new>

namespace paddlemix {
namespace low_bit {
namespace {

struct Rounding {
  const float* x;
  int64_t stride, in_features;
  Activations out;
};

// Index: row * groups + group, over the padded rows.
PADDLEMIX_BODY void round_body(const Rounding& a, int64_t begin, int64_t end) {
  const Activations& out = a.out;
  for (int64_t index = begin; index < end; ++index) {
    const int64_t row = index / out.groups, group = index % out.groups;
    const int64_t block = row / kRowBlock, line = row % kRowBlock;
    int8_t* q = out.q + (block * out.groups + group) * kGroup * out.height + line * kStep;
    float& scale = out.scales[out.entry(block, group) + line];
    int32_t* sums = out.sums + out.entry(block, group) * kSteps + line;

    float values[kGroup];
    const int64_t left = row < out.rows ? a.in_features - group * kGroup : 0;
    const int64_t inputs = left < 0 ? 0 : left < kGroup ? left : kGroup;
    if (inputs > 0) memcpy(values, a.x + row * a.stride + group * kGroup, sizeof(float) * inputs);
    for (int64_t i = inputs; i < kGroup; ++i) values[i] = 0;

    int32_t largest = 0;
    for (int64_t i = 0; i < kGroup; ++i) {
      int32_t magnitude;
      memcpy(&magnitude, values + i, sizeof magnitude);
      magnitude &= 0x7fffffff;
      largest = magnitude > largest ? magnitude : largest;
    }
    float maximum;
    memcpy(&maximum, &largest, sizeof maximum);
    float factor = 127.f / maximum;
    scale = maximum / 127.f;
    if (largest > kLargestFinite) {
      factor = 0;
      scale = __builtin_nanf("");
    } else if (!(factor <= 3.4e38f)) {
      factor = scale = 0;
    }
    const int32_t kept = largest <= kLargestFinite ? -1 : 0;
    for (int64_t step = 0; step < kSteps; ++step) {
      int32_t total = 0;
      const float* from = values + step * kStep;
      int8_t rounded[kStep];
      for (int64_t i = 0; i < kStep; ++i) {
        const float biased = from[i] * factor + kRoundingBias;
        int32_t integer;
        memcpy(&integer, &biased, sizeof integer);
        integer = (integer - kRoundingBits) & kept;
        total += integer;
        rounded[i] = static_cast<int8_t>(integer);
      }
      memcpy(q + step * kStep * out.height, rounded, kStep);
      sums[step * out.height] = total;
    }
  }
}

// Memory that is kept for the thread's next call: a fresh megabyte costs hundreds of page faults.
class Scratch {
 public:
  ~Scratch() { free(memory_); }
  void* get(size_t bytes) {
    if (bytes > size_) {
      free(memory_);
      memory_ = nullptr;
      size_ = 0;
      if (posix_memalign(&memory_, kLine, bytes)) throw std::bad_alloc();
      size_ = bytes;
    }
    return memory_;
  }

 private:
  void* memory_ = nullptr;
  size_t size_ = 0;
};

}  // namespace

Activations round_activations(const float* x, int64_t stride, int64_t rows, int64_t in_features, bool full_blocks) {
  static thread_local Scratch scratch;
  Activations out;
  out.rows = rows;
  out.groups = ceil_div(in_features, kGroup);
  out.height = full_blocks || rows > kRowBlock ? kRowBlock : rows;
  const int64_t padded = out.blocks() * out.height, entries = padded * out.groups;
  char* memory = static_cast<char*>(scratch.get(entries * (kGroup + sizeof(float) + kSteps * sizeof(int32_t))));
  out.q = reinterpret_cast<int8_t*>(memory);
  out.scales = reinterpret_cast<float*>(memory + entries * kGroup);
  out.sums = reinterpret_cast<int32_t*>(out.scales + entries);

  const Rounding rounding{x, stride, in_features, out};
  parallel_for(entries, 512, [&rounding](int64_t begin, int64_t end) { run_body<round_body>(rounding, begin, end); });
  return out;
}

}  // namespace low_bit
}  // namespace paddlemix
