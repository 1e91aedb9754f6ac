// The processor's instruction sets, threads, and the conversions of half precision.
#include "runtime.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#ifdef _OPENMP
#include <omp.h>
#endif
#if PADDLEMIX_HAS_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

#if PADDLEMIX_HAS_AMX
// Linux hands out the tile registers only to processes that ask for them.
bool tiles_granted() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool has_avx512_bf16() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & (1u << 5));
}

bool has_tiles() {
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  constexpr unsigned kTileBf16 = 1u << 22, kTile = 1u << 24, kTileInt8 = 1u << 25;
  constexpr unsigned kWanted = kTileBf16 | kTile | kTileInt8;
  if ((edx & kWanted) != kWanted) return false;
  return has_avx512_bf16() && tiles_granted();
}
#endif

int detect_isa() {
#if PADDLEMIX_X86
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return PADDLEMIX_PORTABLE;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl") ||
      !__builtin_cpu_supports("avx512vnni")) {
    return PADDLEMIX_AVX2;
  }
#if PADDLEMIX_HAS_AMX
  if (has_tiles()) return PADDLEMIX_AMX;
#endif
  return PADDLEMIX_AVX512;
#else
  return PADDLEMIX_PORTABLE;
#endif
}

std::atomic<int>& isa_in_use() {
  static std::atomic<int> isa{paddlemix_cpu_best_isa()};
  return isa;
}

std::atomic<int>& thread_limit() {
  static std::atomic<int> limit{0};
  return limit;
}

std::atomic<int>& matmul_precision() {
  static std::atomic<int> precision{PADDLEMIX_BFLOAT16};
  return precision;
}

}  // namespace

int paddlemix_cpu_best_isa(void) {
  static const int best = detect_isa();
  return best;
}

int paddlemix_cpu_isa(void) { return isa_in_use().load(std::memory_order_relaxed); }

int paddlemix_cpu_limit_isa(int isa) {
  isa = std::max<int>(PADDLEMIX_PORTABLE, std::min(isa, paddlemix_cpu_best_isa()));
  isa_in_use().store(isa, std::memory_order_relaxed);
  return isa;
}

int paddlemix_cpu_set_threads(int count) { return thread_limit().exchange(count, std::memory_order_relaxed); }

int paddlemix_cpu_set_matmul_precision(int dtype) {
  return matmul_precision().exchange(dtype, std::memory_order_relaxed);
}

namespace paddlemix {

bool has_bf16_products() {
#if PADDLEMIX_HAS_AMX
  static const bool found = has_avx512_bf16();
  return found && paddlemix_cpu_isa() >= PADDLEMIX_AVX512;
#else
  return false;
#endif
}

bool rounds_to_bf16() { return matmul_precision().load(std::memory_order_relaxed) == PADDLEMIX_BFLOAT16; }

int max_threads() {
#ifdef _OPENMP
  if (omp_in_parallel()) return 1;
  const int limit = thread_limit().load(std::memory_order_relaxed);
  return limit > 0 ? limit : omp_get_max_threads();
#else
  return 1;
#endif
}

void run_pieces(int64_t count, int64_t grain, void (*task)(void* context, int64_t begin, int64_t end), void* context) {
  if (count <= 0) return;
  const int64_t pieces = std::min<int64_t>(max_threads(), ceil_div(count, std::max<int64_t>(grain, 1)));
  if (pieces <= 1) return task(context, 0, count);
#ifdef _OPENMP
#pragma omp parallel num_threads(static_cast<int>(pieces))
  {
    // The runtime may give fewer threads than were asked for.
    const int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
    const int64_t begin = count * thread / threads, end = count * (thread + 1) / threads;
    if (begin < end) task(context, begin, end);
  }
#endif
}

float fp16_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu, mantissa = bits & 0x3ffu;
  uint32_t wide;
  if (exponent == 0x1f) {
    wide = sign | 0x7f800000u | (mantissa << 13);
  } else if (exponent) {
    wide = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else {
    const float value = std::ldexp(static_cast<float>(mantissa), -24);  // zero or subnormal
    return sign ? -value : value;
  }
  float value;
  memcpy(&value, &wide, sizeof value);
  return value;
}

uint16_t float_to_fp16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;   // NaN
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // rounds to infinity
  if (magnitude < 0x38800000u) {                        // subnormal: a multiple of 2^-24, ties to even
    return sign | static_cast<uint16_t>(std::lrint(std::ldexp(std::fabs(value), 24)));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return sign | static_cast<uint16_t>((rounded - 0x38000000u) >> 13);
}

}  // namespace paddlemix
