// CUDA on the CPU, as far as the kernels of ../../cuda use it: the tests run those very files with g++ alone.
//
// A launch runs at once: the blocks one after another, the threads of a block as fibers that give way to each other at
// barriers and warp exchanges only. What this proves: arithmetic, indexing, that every thread reaches its barriers, and
// (under AddressSanitizer) that no access leaves its array. What it cannot prove: speed, and the absence of races. To
// catch a missing barrier nevertheless, blocks and threads run in ascending or in descending order
// (paddlemix_emulation_descending), and dynamic shared memory starts as NaN.
#pragma once

#define PADDLEMIX_EMULATION 1

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <functional>

// ------------------------------------------------------------------------------------------------------- the language

#define __global__
#define __device__
#define __host__
#define __constant__ const
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define __shared__ static  // one block runs at a time

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Those of the fiber that runs.
extern dim3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

template <int bytes, typename T>
struct alignas(bytes) paddlemix_vector2 {
  T x, y;
};
template <int bytes, typename T>
struct alignas(bytes) paddlemix_vector4 {
  T x, y, z, w;
};
using float2 = paddlemix_vector2<8, float>;
using float4 = paddlemix_vector4<16, float>;
using int2 = paddlemix_vector2<8, int>;
using int4 = paddlemix_vector4<16, int>;
using uint2 = paddlemix_vector2<8, unsigned>;
using uint4 = paddlemix_vector4<16, unsigned>;
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// -------------------------------------------------------------------------------------------------------- the runtime

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719,
};
using cudaStream_t = void*;
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16, cudaDevAttrComputeCapabilityMajor = 75 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

enum cudaMemcpyKind { cudaMemcpyDeviceToHost = 2 };

cudaError_t cudaGetLastError();
inline const char* cudaGetErrorString(cudaError_t) { return "an error of the emulation"; }
inline cudaError_t cudaMalloc(void** address, size_t bytes) { return *address = malloc(bytes), cudaSuccess; }
inline cudaError_t cudaFree(void* address) { return free(address), cudaSuccess; }
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  return memcpy(to, from, bytes), cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t stream);
// The emulated device; the kernels choose their grid by its multiprocessors, and their instructions by its capability.
extern int paddlemix_emulation_multiprocessors, paddlemix_emulation_capability;
// Another setting is another device: what is known of one device may be kept.
inline cudaError_t cudaGetDevice(int* device) {
  return *device = paddlemix_emulation_capability * 1000 + paddlemix_emulation_multiprocessors, cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const bool capability = attribute == cudaDevAttrComputeCapabilityMajor;
  *value = capability ? paddlemix_emulation_capability : paddlemix_emulation_multiprocessors;
  return cudaSuccess;
}
struct cudaFuncAttributes {
  int ptxVersion;
};
template <typename Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel) {
  return attributes->ptxVersion = paddlemix_emulation_capability * 10, cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int) {
  return cudaSuccess;
}

namespace paddlemix_emulation {

void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread);
void* dynamic_shared();
void sync_block();
// Bits of every lane of the warp, after all lanes of `mask` have given theirs.
const uint64_t* exchange(unsigned mask, uint64_t bits);
int lane();

template <typename T>
T shuffle(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves at most 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  const uint64_t* lanes = exchange(mask, bits);
  memcpy(&value, &lanes[source], sizeof(T));
  return value;
}

}  // namespace paddlemix_emulation

#define PADDLEMIX_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ((void)(stream), paddlemix_emulation::launch((grid), (block), (shared_bytes), [&]() { (kernel)(__VA_ARGS__); }))
#define PADDLEMIX_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(paddlemix_emulation::dynamic_shared())

// ------------------------------------------------------------------------------------------- barriers, warps, atomics

inline void __syncthreads() { paddlemix_emulation::sync_block(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { paddlemix_emulation::exchange(mask, 0); }
inline void __threadfence() {}

// The width must be a power of two; a source outside its segment gives the lane's own value, as on the device.
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int distance, int width = 32) {
  const int self = paddlemix_emulation::lane(), source = self ^ distance;
  return paddlemix_emulation::shuffle(mask, value, source / width > self / width ? self : source);
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int self = paddlemix_emulation::lane();
  return paddlemix_emulation::shuffle(mask, value, self / width * width + (source & (width - 1)));
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  const int self = paddlemix_emulation::lane(), source = self + static_cast<int>(distance);
  return paddlemix_emulation::shuffle(mask, value, source / width == self / width ? source : self);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  const int self = paddlemix_emulation::lane(), source = self - static_cast<int>(distance);
  return paddlemix_emulation::shuffle(mask, value, source >= self / width * width ? source : self);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const uint64_t* lanes = paddlemix_emulation::exchange(mask, predicate != 0);
  unsigned ballot = 0;
  for (int i = 0; i < 32; ++i) {
    if (mask >> i & 1) ballot |= static_cast<unsigned>(lanes[i]) << i;
  }
  return ballot;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }

template <typename T>
T atomicAdd(T* address, T value) {
  const T old = *address;
  *address = old + value;
  return old;
}

// --------------------------------------------------------------------------------------------- arithmetic, bits, loads

template <typename T>
T __ldg(const T* address) { return *address; }
template <typename T>
T __ldcs(const T* address) { return *address; }
template <typename T>
T __ldcg(const T* address) { return *address; }
template <typename T>
void __stcs(T* address, T value) { *address = value; }

inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __frcp_rn(float x) { return 1.f / x; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

inline float __uint_as_float(unsigned bits) {
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}
inline float __int_as_float(int bits) { return __uint_as_float(static_cast<unsigned>(bits)); }
inline int __float_as_int(float x) { return static_cast<int>(__float_as_uint(x)); }

// Byte i of the result is byte (selector >> 4 i & 7) of the eight bytes y:x.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) result |= static_cast<unsigned>(bytes >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  return result;
}

#include "cuda_emulation_half.h"
