// Arithmetic that the elementwise bodies (PADDLEMIX_BODY) share: plain operations without branches, which the compiler
// vectorises for each instruction set, with the same bits on all of them.
#pragma once

#include "runtime.h"

namespace paddlemix {

// Partial sums that stand for the lanes of one vector: with their number fixed, the order of additions, hence the
// result, does not depend on the instruction set.
constexpr int kLanes = 16;

template <typename T>
PADDLEMIX_BODY T add_lanes(const T* lanes) {
  T total[kLanes];
  for (int i = 0; i < kLanes; ++i) total[i] = lanes[i];
  for (int half = kLanes / 2; half; half /= 2) {
    for (int i = 0; i < half; ++i) total[i] += total[i + half];
  }
  return total[0];
}

}  // namespace paddlemix
