// Shared by all CPU kernels: instruction-set levels, threads, and 16-bit conversions.
#pragma once

#include <stdint.h>
#include <string.h>

#include "paddlemix_cpu.h"

// A kernel's bodies live in one file, compiled for the plain architecture; the functions below a macro may use that
// level's intrinsics. Helpers that are to be inlined into them need the same macro.
#if defined(__x86_64__)
#define PADDLEMIX_X86 1
#include <immintrin.h>
#define PADDLEMIX_TARGET_AVX2 __attribute__((target("avx2,fma,f16c")))
#define PADDLEMIX_TARGET_AVX512                                                                                        \
  __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512")))
#else
#define PADDLEMIX_X86 0
#endif

// A body written in plain loops that run_body() inlines into one function per instruction set, where the compiler
// vectorizes it for that set. Without contraction of products and sums (see setup.py) all of them give the same bits.
#define PADDLEMIX_BODY static inline __attribute__((always_inline))

// The intrinsics of tiles and bf16 products came with GCC 11.
#if PADDLEMIX_X86 && defined(__linux__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define PADDLEMIX_HAS_AMX 1
#define PADDLEMIX_TARGET_AVX512_BF16                                                                                   \
  __attribute__((                                                                                                      \
      target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,prefer-vector-width=512")))
#define PADDLEMIX_TARGET_AMX                                                                                           \
  __attribute__((                                                                                                      \
      target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,amx-tile,amx-int8,amx-bf16")))
#else
#define PADDLEMIX_HAS_AMX 0
#endif

namespace paddlemix {

constexpr int64_t kOutputTile = 16;  // outputs per tile of a packed weight
constexpr int64_t kGroup = 128;      // inputs that share a scale, of weights and of rounded activations

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Whether the instruction set in use includes AVX512_BF16. Not a set of its own: some processors with AVX-512 have it.
bool has_bf16_products();

// Whether activations may be rounded to bf16 where that is faster, see paddlemix_cpu_set_matmul_precision.
bool rounds_to_bf16();

// Threads that a parallel region would use; 1 inside of one.
int max_threads();

// Calls task(context, begin, end) for pieces that together cover [0, count), at least `grain` indices in each, on at
// most max_threads() threads. A task must compute each index in the same way whatever piece it comes in: only so are
// results independent of the number of threads.
void run_pieces(int64_t count, int64_t grain, void (*task)(void* context, int64_t begin, int64_t end), void* context);

template <typename Function>  // void(int64_t begin, int64_t end)
void parallel_for(int64_t count, int64_t grain, const Function& function) {
  run_pieces(
      count, grain,
      [](void* context, int64_t begin, int64_t end) { (*static_cast<const Function*>(context))(begin, end); },
      const_cast<void*>(static_cast<const void*>(&function)));
}

// Runs Body, a PADDLEMIX_BODY that takes (const Arguments&, begin, end), as compiled for the instruction set in use.
#if PADDLEMIX_X86
template <auto Body, typename Arguments>
PADDLEMIX_TARGET_AVX2 void body_avx2(const Arguments& arguments, int64_t begin, int64_t end) {
  Body(arguments, begin, end);
}
template <auto Body, typename Arguments>
PADDLEMIX_TARGET_AVX512 void body_avx512(const Arguments& arguments, int64_t begin, int64_t end) {
  Body(arguments, begin, end);
}
#endif
template <auto Body, typename Arguments>
void run_body(const Arguments& arguments, int64_t begin, int64_t end) {
#if PADDLEMIX_X86
  const int isa = paddlemix_cpu_isa();
  if (isa >= PADDLEMIX_AVX512) return body_avx512<Body>(arguments, begin, end);
  if (isa >= PADDLEMIX_AVX2) return body_avx2<Body>(arguments, begin, end);
#endif
  Body(arguments, begin, end);
}

inline float bf16_to_float(uint16_t bits) {
  uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  memcpy(&value, &wide, sizeof value);
  return value;
}

// Round to nearest, ties to even; a NaN stays one.
inline uint16_t float_to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float fp16_to_float(uint16_t bits);
uint16_t float_to_fp16(float value);

}  // namespace paddlemix
