// What the CUDA kernels share: dtypes, 16-byte loads and stores, reductions, launches.
//
// Kernels are written once for nvcc and for g++ with harness/emulate/, which runs them on the CPU for the tests. So
// they use CUDA's own headers only, launch with PADDLEMIX_LAUNCH, take dynamic shared memory with
// PADDLEMIX_DYNAMIC_SHARED, and put inline assembly under `#ifndef PADDLEMIX_EMULATION`.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>
#include <string.h>

#include <initializer_list>
#include <type_traits>

#include "paddlemix_cuda.h"

#ifndef PADDLEMIX_EMULATION
// kernel<<<…>>>(arguments…); a kernel with several template arguments goes into parentheses.
#define PADDLEMIX_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                               \
  kernel<<<(grid), (block), (shared_bytes), static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
// type* name: the block's dynamic shared memory, aligned to 16 bytes.
#define PADDLEMIX_DYNAMIC_SHARED(type, name)                                                                           \
  extern __shared__ __align__(16) unsigned char paddlemix_shared_bytes[];                                              \
  type* const name = reinterpret_cast<type*>(paddlemix_shared_bytes)
#endif

namespace paddlemix {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// ------------------------------------------------------------------------------------------------------------ dtypes

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

// Rounded to the nearest, ties to even.
template <typename T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(x);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(x);
  } else {
    return x;
  }
}

// x as T would hold it.
template <typename T>
__device__ __forceinline__ float round_to(float x) {
  return to_float(from_float<T>(x));
}

// Calls launch(T()) with the type of dtype; returns the error of the launches in it.
template <typename Launch>
int dispatch(int dtype, Launch launch) {
  switch (dtype) {
    case PADDLEMIX_FLOAT32: launch(float()); break;
    case PADDLEMIX_FLOAT16: launch(__half()); break;
    case PADDLEMIX_BFLOAT16: launch(__nv_bfloat16()); break;
    default: return static_cast<int>(cudaErrorInvalidValue);
  }
  return static_cast<int>(cudaGetLastError());
}

// --------------------------------------------------------------------------------------------------- loads and stores

// N neighboring elements, read and written at once; the address is a multiple of their size.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T values[N];
};

// Elements in 16 bytes, the most that one thread reads at once.
template <typename T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));

// The word of so many bytes that one instruction moves.
template <int bytes>
using Word =
    std::conditional_t<bytes == 16, uint4,
                       std::conditional_t<bytes == 8, uint2, std::conditional_t<bytes == 4, uint32_t, uint16_t>>>;

template <typename To, typename From>
__device__ __forceinline__ To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

// From global or shared memory.
template <int N, typename T>
__device__ __forceinline__ Pack<T, N> load_pack(const T* address) {
  return *reinterpret_cast<const Pack<T, N>*>(address);
}

// To global memory. The compiler writes the elements of a pack that was computed one by one with as many stores of two
// and four bytes, even through a pointer to a word of 16; an instruction that is written out stays whole.
template <int N, typename T>
__device__ __forceinline__ void store_pack(T* address, const Pack<T, N>& pack) {
#ifndef PADDLEMIX_EMULATION
  if constexpr (sizeof(pack) == 16) {
    const uint4 word = bits_as<uint4>(pack);
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};"
                 :
                 : "l"(__cvta_generic_to_global(address)), "r"(word.x), "r"(word.y), "r"(word.z), "r"(word.w)
                 : "memory");
    return;
  }
#endif
  *reinterpret_cast<Pack<T, N>*>(address) = pack;
}

template <typename T, int N>
__device__ __forceinline__ void unpack(const Pack<T, N>& pack, float (&values)[N]) {
#pragma unroll
  for (int j = 0; j < N; ++j) values[j] = to_float(pack.values[j]);
}

template <typename T, int N>
__device__ __forceinline__ Pack<T, N> pack(const float (&values)[N]) {
  Pack<T, N> packed;
#pragma unroll
  for (int j = 0; j < N; ++j) packed.values[j] = from_float<T>(values[j]);
  return packed;
}

template <typename T, int N>
__device__ __forceinline__ void load(const T* address, float (&values)[N]) {
  unpack(load_pack<N>(address), values);
}

template <typename T, int N>
__device__ __forceinline__ void store(T* address, const float (&values)[N]) {
  store_pack(address, pack<T>(values));
}

// Whether all pointers (NULL included) and all distances, in bytes, are multiples of 16.
inline bool aligned16(std::initializer_list<const void*> pointers, std::initializer_list<int64_t> distances) {
  for (const void* pointer : pointers) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) return false;
  }
  for (int64_t distance : distances) {
    if (distance % 16 != 0) return false;
  }
  return true;
}

// Calls launch(n) with the width of one access as a compile-time integer: 16 bytes' worth of T, or 1.
template <typename T, typename Launch>
void with_vector(bool aligned, Launch launch) {
  if (aligned) {
    launch(std::integral_constant<int, kVector<T>>());
  } else {
    launch(std::integral_constant<int, 1>());
  }
}

// --------------------------------------------------------------------------------------------------------- reductions

// Of `lanes` neighboring lanes (a power of two), to each of them. All lanes of the warp take part.
template <int lanes = kWarp>
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int distance = lanes / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(kAllLanes, value, distance);
  return value;
}

template <int lanes = kWarp>
__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
  return value;
}

// Of the whole block, to each thread. The block is one-dimensional and of whole warps; all its threads take part.
__device__ __forceinline__ float block_sum(float value) {
  __shared__ float partial[kWarp];
  value = warp_sum(value);
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  if (warps == 1) return value;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  __syncthreads();  // the readers of the last call are done
  if (lane == 0) partial[threadIdx.x / kWarp] = value;
  __syncthreads();
  return warp_sum(lane < warps ? partial[lane] : 0.f);
}

// ----------------------------------------------------------------------------------------------------------- launches

template <typename Integer>
__host__ __device__ constexpr Integer ceil_div(Integer a, Integer b) {
  return (a + b - 1) / b;
}

template <typename Integer>
__host__ __device__ constexpr Integer round_up(Integer a, Integer multiple) {
  return ceil_div(a, multiple) * multiple;
}

}  // namespace paddlemix
