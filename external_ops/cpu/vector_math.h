// Arithmetic that the elementwise bodies (PADDLEMIX_BODY) share: plain operations without branches, which the compiler
// vectorizes for each instruction set, with the same bits on all of them.
#pragma once

#include <cmath>

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

// exp(x) for x <= 0, within 2 ulp down to the subnormals; NaN stays NaN.
//
// x = n ln2 + r with |r| <= ln2 / 2, and exp(r) = 1 + r + r^2 g(r) with the polynomial g of degree 4 whose relative error
// in exp(r) is least (Remez exchange in float64: 3e-9).
PADDLEMIX_BODY float exp_of_negative(float x) {
  constexpr float kToInteger = 12582912.0f;                            // 1.5 * 2^23: adding it rounds to an integer
  constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;  // n * kLn2High is exact
  x = x < -105.0f ? -105.0f : x;                                       // exp(-105) is 0
  const float shifted = x * 1.44269504f + kToInteger;
  const float n = shifted - kToInteger;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float g = 0.0013814613f;
  g = g * r + 0.00836871f;
  g = g * r + 0.04166839f;
  g = g * r + 0.16666521f;
  g = g * r + 0.49999994f;
  const float value = 1.0f + (r + r * r * g);
  // Times 2^n in two steps, because 2^n itself may be subnormal.
  uint32_t bits, base;
  memcpy(&bits, &shifted, sizeof bits);
  memcpy(&base, &kToInteger, sizeof base);
  const int32_t exponent = static_cast<int32_t>(bits - base), half = exponent >> 1;
  const uint32_t first_bits = static_cast<uint32_t>(half + 127) << 23;
  const uint32_t second_bits = static_cast<uint32_t>(exponent - half + 127) << 23;
  float first, second;
  memcpy(&first, &first_bits, sizeof first);
  memcpy(&second, &second_bits, sizeof second);
  return value * first * second;
}

PADDLEMIX_BODY double exp_of_negative(double x) { return std::exp(x); }

// The logistic function: value = 1 / (1 + exp(-x)) and complement = 1 - value, both without cancellation or overflow.
template <typename T>
struct Sigmoid {
  T value, complement;
};

template <typename T>
PADDLEMIX_BODY Sigmoid<T> sigmoid(T x) {
  const T small = exp_of_negative(-std::fabs(x));
  const T large_part = 1 / (1 + small), small_part = small * large_part;
  return {x < 0 ? small_part : large_part, x < 0 ? large_part : small_part};
}

// The standard normal distribution: probability = P(X <= x) = (1 + erf(x / sqrt 2)) / 2 and its density.
template <typename T>
struct Normal {
  T probability, density;
};

// The tail P(X > a), a = |x|, is exp(-a^2 / 2) q(a), where (a + 4) q(a) is a polynomial of degree 9 in (a - 4) / (a + 4),
// the one whose relative error over 0 <= a <= 15 is least (Remez exchange in float64: 9e-9). In float the tail's relative
// error is 3 ulp and that of exp's rounded argument, a^2 / 2 ulp; taken from 1 for x > 0, it leaves 1 ulp.
PADDLEMIX_BODY Normal<float> normal(float x) {
  float a = std::fabs(x);
  a = a > 15.0f ? 15.0f : a;  // the tail is 0 there
  const float scale = 1.0f / (a + 4.0f);
  const float u = (a - 4.0f) * scale;
  float p = -0.0001341963f;
  p = p * u + 0.0001746593f;
  p = p * u + 0.0015684083f;
  p = p * u - 0.003510211f;
  p = p * u - 0.007524004f;
  p = p * u + 0.06040349f;
  p = p * u - 0.18652366f;
  p = p * u + 0.3871369f;
  p = p * u - 0.60789657f;
  p = p * u + 0.75528514f;
  const float gauss = exp_of_negative(-0.5f * a * a);
  const float tail = gauss * (p * scale);
  return {x < 0.0f ? tail : 1.0f - tail, gauss * 0.398942280f};
}

PADDLEMIX_BODY Normal<double> normal(double x) {
  return {0.5 * std::erfc(x * -0.70710678118654752), std::exp(-0.5 * x * x) * 0.39894228040143268};
}

}  // namespace paddlemix
