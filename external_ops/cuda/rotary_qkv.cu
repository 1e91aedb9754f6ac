// Splits a packed projection into heads, adds its bias, rotates q and k in float32, scales q, and writes k and v
// straight to their places in the (paged) cache; and the gradient without a cache.
//
// One block works on one token and some of its heads; a thread has N neighboring elements of a head's lower half and
// the N of the upper half that turn with them, of q, k and v.
#include "common.cuh"

namespace paddlemix {
namespace {

constexpr int kThreads = 128;

// The token, head and element that a thread works on.
struct Place {
  int row, time, head, element;
  bool inside;
};

template <int N>
__device__ __forceinline__ Place thread_place(int length, int heads, int half) {
  const int per_head = half / N;
  const int item = static_cast<int>(blockIdx.y * kThreads + threadIdx.x);
  const int token = static_cast<int>(blockIdx.x);
  return {token / length, token % length, item / per_head, item % per_head * N, item < heads * per_head};
}

// The slot's first element in both caches.
__device__ __forceinline__ int64_t slot_offset(const paddlemix_kv& kv, int row, int head, int slot) {
  int64_t block = row, within = slot;
  if (kv.block_table != nullptr) {
    block = kv.block_table[row * kv.table_width + slot / static_cast<int>(kv.block_size)];
    within = slot % static_cast<int>(kv.block_size);
  }
  return block * kv.block_stride + head * kv.head_stride + within * kv.slot_stride;
}

template <typename T>
__device__ __forceinline__ const T* nullable(const T* base, int64_t offset) {
  return base != nullptr ? base + offset : nullptr;
}

// N elements plus their bias, if there is one.
template <typename T, int N>
__device__ __forceinline__ void load_biased(const T* x, const T* bias, float (&values)[N]) {
  load(x, values);
  if (bias == nullptr) return;
  float b[N];
  load(bias, b);
#pragma unroll
  for (int j = 0; j < N; ++j) values[j] += b[j];
}

// The factors of the two halves.
template <int N>
struct Rotation {
  float cos_low[N], cos_high[N], sin_low[N], sin_high[N];

  __device__ __forceinline__ Rotation(const float* cos, const float* sin, int64_t at, int half) {
    load_floats(cos + at, cos_low);
    load_floats(cos + at + half, cos_high);
    load_floats(sin + at, sin_low);
    load_floats(sin + at + half, sin_high);
  }

  // low, high: y = x * cos + roll(x) * sin, times factor.
  __device__ __forceinline__ void turn(float (&low)[N], float (&high)[N], float factor) const {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float a = low[j], b = high[j];
      low[j] = (a * cos_low[j] + b * sin_low[j]) * factor;
      high[j] = (b * cos_high[j] + a * sin_high[j]) * factor;
    }
  }

  // The transposed of turn.
  __device__ __forceinline__ void turn_back(float (&low)[N], float (&high)[N], float factor) const {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float a = low[j], b = high[j];
      low[j] = (a * cos_low[j] + b * sin_high[j]) * factor;
      high[j] = (b * cos_high[j] + a * sin_low[j]) * factor;
    }
  }

 private:
  __device__ __forceinline__ static void load_floats(const float* address, float (&values)[N]) {
    constexpr int kStep = N < 4 ? N : 4;  // 16 bytes
#pragma unroll
    for (int j = 0; j < N; j += kStep) {
      const Pack<float, kStep> floats = load_pack<kStep>(address + j);
#pragma unroll
      for (int i = 0; i < kStep; ++i) values[j + i] = floats.values[i];
    }
  }
};

template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    rotary_qkv_kernel(const T* qkv, const T* bias, const float* cos, const float* sin, int64_t table_length,
                      const int32_t* table_index, const int32_t* positions, const float* logn, T* query,
                      paddlemix_strides query_strides, paddlemix_kv kv, const int32_t* slots, const int32_t* lengths,
                      int length, int heads, int head_dim) {
  const int half = head_dim / 2;
  const Place place = thread_place<N>(length, heads, half);
  if (!place.inside || (lengths != nullptr && place.time >= lengths[place.row])) return;

  const int64_t width = static_cast<int64_t>(heads) * head_dim;
  const int64_t column = static_cast<int64_t>(place.head) * head_dim + place.element;
  const T* const token = qkv + static_cast<int64_t>(blockIdx.x) * 3 * width + column;
  const T* const added = nullable(bias, column);
  float q_low[N], q_high[N], k_low[N], k_high[N], v_low[N], v_high[N];
  load_biased(token, added, q_low);
  load_biased(token + half, nullable(added, half), q_high);
  load_biased(token + width, nullable(added, width), k_low);
  load_biased(token + width + half, nullable(added, width + half), k_high);
  load_biased(token + 2 * width, nullable(added, 2 * width), v_low);
  load_biased(token + 2 * width + half, nullable(added, 2 * width + half), v_high);

  const int position = positions[blockIdx.x];
  const int64_t table = table_index != nullptr ? table_index[place.row] : 0;
  const Rotation<N> rotation(cos, sin, (table * table_length + position) * head_dim + place.element, half);
  rotation.turn(q_low, q_high, logn != nullptr ? logn[position] : 1.f);
  rotation.turn(k_low, k_high, 1.f);

  T* const q = query + place.row * query_strides.batch + place.head * query_strides.head +
               place.time * query_strides.position + place.element;
  store(q, q_low);
  store(q + half, q_high);
  const int slot = (slots != nullptr ? slots[place.row] : 0) + place.time;
  const int64_t at = slot_offset(kv, place.row, place.head, slot) + place.element;
  T* const k = static_cast<T*>(kv.keys) + at;
  T* const v = static_cast<T*>(kv.values) + at;
  store(k, k_low);
  store(k + half, k_high);
  store(v, v_low);
  store(v + half, v_high);
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    rotary_qkv_grad_kernel(const T* grad_query, const T* grad_key, const T* grad_value, const float* cos,
                           const float* sin, int64_t table_length, const int32_t* table_index, const int32_t* positions,
                           const float* logn, T* grad_qkv, int length, int heads, int head_dim) {
  const int half = head_dim / 2;
  const Place place = thread_place<N>(length, heads, half);
  if (!place.inside) return;

  const int64_t head_row = (static_cast<int64_t>(place.row) * heads + place.head) * length + place.time;
  const int64_t from = head_row * head_dim + place.element;
  float q_low[N], q_high[N], k_low[N], k_high[N], v_low[N], v_high[N];
  load(grad_query + from, q_low);
  load(grad_query + from + half, q_high);
  load(grad_key + from, k_low);
  load(grad_key + from + half, k_high);
  load(grad_value + from, v_low);
  load(grad_value + from + half, v_high);

  const int position = positions[blockIdx.x];
  const int64_t table = table_index != nullptr ? table_index[place.row] : 0;
  const Rotation<N> rotation(cos, sin, (table * table_length + position) * head_dim + place.element, half);
  rotation.turn_back(q_low, q_high, logn != nullptr ? logn[position] : 1.f);
  rotation.turn_back(k_low, k_high, 1.f);

  const int64_t width = static_cast<int64_t>(heads) * head_dim;
  T* const to = grad_qkv + static_cast<int64_t>(blockIdx.x) * 3 * width + static_cast<int64_t>(place.head) * head_dim +
                place.element;
  store(to, q_low);
  store(to + half, q_high);
  store(to + width, k_low);
  store(to + width + half, k_high);
  store(to + 2 * width, v_low);
  store(to + 2 * width + half, v_high);
}

// Tokens along x, the heads of a token along y.
inline dim3 token_grid(int64_t tokens, int64_t heads, int64_t head_dim, int pack_size) {
  return dim3(static_cast<unsigned>(tokens),
              static_cast<unsigned>(ceil_div<int64_t>(heads * (head_dim / 2 / pack_size), kThreads)));
}

}  // namespace
}  // namespace paddlemix

extern "C" int paddlemix_cuda_rotary_qkv(int dtype, const void* qkv, const void* bias, const float* cos,
                                         const float* sin, int64_t table_length, const int32_t* table_index,
                                         const int32_t* positions, const float* logn, void* query,
                                         paddlemix_strides query_strides, const paddlemix_kv* kv, const int32_t* slots,
                                         const int32_t* lengths, int64_t batch, int64_t length, int64_t heads,
                                         int64_t head_dim, void* stream) {
  using namespace paddlemix;
  if (batch == 0 || length == 0 || heads == 0 || head_dim == 0) return 0;
  return dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int64_t kBytes = sizeof(T);
    const bool aligned = aligned16({qkv, bias, cos, sin, query, kv->keys, kv->values},
                                   {head_dim / 2 * kBytes, query_strides.batch * kBytes, query_strides.head * kBytes,
                                    query_strides.position * kBytes, kv->block_stride * kBytes,
                                    kv->head_stride * kBytes, kv->slot_stride * kBytes});
    with_vector<T>(aligned, [&](auto vector) {
      constexpr int N = decltype(vector)::value;
      PADDLEMIX_LAUNCH((rotary_qkv_kernel<T, N>), token_grid(batch * length, heads, head_dim, N), kThreads, 0, stream,
                       static_cast<const T*>(qkv), static_cast<const T*>(bias), cos, sin, table_length, table_index,
                       positions, logn, static_cast<T*>(query), query_strides, *kv, slots, lengths,
                       static_cast<int>(length), static_cast<int>(heads), static_cast<int>(head_dim));
    });
  });
}

extern "C" int paddlemix_cuda_rotary_qkv_grad(int dtype, const void* grad_query, const void* grad_key,
                                              const void* grad_value, const float* cos, const float* sin,
                                              int64_t table_length, const int32_t* table_index,
                                              const int32_t* positions, const float* logn, void* grad_qkv,
                                              int64_t batch, int64_t length, int64_t heads, int64_t head_dim,
                                              void* stream) {
  using namespace paddlemix;
  if (batch == 0 || length == 0 || heads == 0 || head_dim == 0) return 0;
  return dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    const bool aligned = aligned16({grad_query, grad_key, grad_value, cos, sin, grad_qkv},
                                   {head_dim / 2 * static_cast<int64_t>(sizeof(T))});
    with_vector<T>(aligned, [&](auto vector) {
      constexpr int N = decltype(vector)::value;
      PADDLEMIX_LAUNCH((rotary_qkv_grad_kernel<T, N>), token_grid(batch * length, heads, head_dim, N), kThreads, 0,
                       stream, static_cast<const T*>(grad_query), static_cast<const T*>(grad_key),
                       static_cast<const T*>(grad_value), cos, sin, table_length, table_index, positions, logn,
                       static_cast<T*>(grad_qkv), static_cast<int>(length), static_cast<int>(heads),
                       static_cast<int>(head_dim));
    });
  });
}
