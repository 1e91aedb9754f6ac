// Between the packed projection and attention: bias, split into heads, rotary embedding of query and key, log-n scaling
// of the query, key and value written to the cache; and the gradient.
//
// Floor: qkv, query and the new keys and values move once. A decode step moves 3 * 4096 floats in and out, which all lie
// in the second-level cache: there the call itself is the cost. Threads share the (row, position, head) triples; a head
// is the unit, because its two halves turn together.
#include <algorithm>
#include <type_traits>

#include "runtime.h"

namespace paddlemix {
namespace {

constexpr int64_t kGrain = 16384;  // elements per thread below which starting one costs more than it saves

template <typename T>
struct Rotary {
  const T *qkv, *bias;
  const float *cos, *sin, *logn;
  const int32_t *table_index, *positions, *slots, *lengths;
  int64_t table_length;
  T* query;
  paddlemix_strides query_strides;
  const paddlemix_kv* kv;
  int64_t length, heads, head_dim;
};

template <typename T>
struct RotaryGrad {
  const T *grad_query, *grad_key, *grad_value;
  const float *cos, *sin, *logn;
  const int32_t *table_index, *positions;
  int64_t table_length;
  T* grad_qkv;
  int64_t length, heads, head_dim;
};

template <typename T>
PADDLEMIX_BODY void store(T* place, T value) {
  *place = value;
}

PADDLEMIX_BODY void store(uint16_t* place, float value) { *place = float_to_bf16(value); }

// out = (x + bias) * cos + roll(x + bias) * sin, times scale; bias may be null.
template <typename T, typename Stored>
PADDLEMIX_BODY void rotate_head(const T* __restrict x, const T* __restrict bias, const float* __restrict cos,
                                const float* __restrict sin, T scale, int64_t head_dim, Stored* __restrict out) {
  const int64_t half = head_dim / 2;
  if (bias) {
    for (int64_t i = 0; i < half; ++i) {
      const T first = x[i] + bias[i], second = x[half + i] + bias[half + i];
      store(out + i, static_cast<T>((first * cos[i] + second * sin[i]) * scale));
      store(out + half + i, static_cast<T>((second * cos[half + i] + first * sin[half + i]) * scale));
    }
  } else {
    for (int64_t i = 0; i < half; ++i) {
      const T first = x[i], second = x[half + i];
      store(out + i, static_cast<T>((first * cos[i] + second * sin[i]) * scale));
      store(out + half + i, static_cast<T>((second * cos[half + i] + first * sin[half + i]) * scale));
    }
  }
}

template <typename T, typename Stored>
PADDLEMIX_BODY void copy_head(const T* __restrict x, const T* __restrict bias, int64_t head_dim,
                              Stored* __restrict out) {
  if (bias) {
    for (int64_t i = 0; i < head_dim; ++i) store(out + i, static_cast<T>(x[i] + bias[i]));
  } else {
    for (int64_t i = 0; i < head_dim; ++i) store(out + i, x[i]);
  }
}

// Heads [first, last) of the new position t of row r; Stored: the type of keys and values.
template <typename T, typename Stored>
PADDLEMIX_BODY void rotate_token(const Rotary<T>& a, int64_t r, int64_t t, int64_t first, int64_t last) {
  const int64_t width = a.heads * a.head_dim;
  const int64_t position = a.positions[r * a.length + t];
  const int64_t table = ((a.table_index ? a.table_index[r] : 0) * a.table_length + position) * a.head_dim;
  const T scale = a.logn ? static_cast<T>(a.logn[position]) : T(1);
  const paddlemix_kv& kv = *a.kv;
  const int64_t slot = (a.slots ? a.slots[r] : 0) + t, block = slot / kv.block_size;
  const int64_t place = (kv.block_table ? kv.block_table[r * kv.table_width + block] : r) * kv.block_stride +
                        (slot - block * kv.block_size) * kv.slot_stride;
  const T* x = a.qkv + (r * a.length + t) * 3 * width;
  T* query = a.query + r * a.query_strides.batch + t * a.query_strides.position;
  for (int64_t h = first; h < last; ++h) {
    const int64_t column = h * a.head_dim;
    const T *query_bias = nullptr, *key_bias = nullptr, *value_bias = nullptr;
    if (a.bias) query_bias = a.bias + column, key_bias = query_bias + width, value_bias = key_bias + width;
    Stored* key = static_cast<Stored*>(kv.keys) + place + h * kv.head_stride;
    Stored* value = static_cast<Stored*>(kv.values) + place + h * kv.head_stride;
    rotate_head(x + column, query_bias, a.cos + table, a.sin + table, scale, a.head_dim,
                query + h * a.query_strides.head);
    rotate_head(x + width + column, key_bias, a.cos + table, a.sin + table, T(1), a.head_dim, key);
    copy_head(x + 2 * width + column, value_bias, a.head_dim, value);
  }
}

// begin and end count (row, position, head) triples.
template <typename T>
PADDLEMIX_BODY void rotate(const Rotary<T>& a, int64_t begin, int64_t end) {
  for (int64_t token = begin / a.heads; token * a.heads < end; ++token) {
    const int64_t r = token / a.length, t = token % a.length;
    if (a.lengths && t >= a.lengths[r]) continue;
    const int64_t first = std::max<int64_t>(0, begin - token * a.heads);
    const int64_t last = std::min(a.heads, end - token * a.heads);
    if constexpr (std::is_same<T, float>::value) {
      if (a.kv->dtype == PADDLEMIX_BFLOAT16) {
        rotate_token<T, uint16_t>(a, r, t, first, last);
        continue;
      }
    }
    rotate_token<T, T>(a, r, t, first, last);
  }
}

// The inverse rotation, for the gradient: x * cos + roll(x * sin).
template <typename T>
PADDLEMIX_BODY void rotate_head_back(const T* __restrict grad, const float* __restrict cos, const float* __restrict sin,
                                     T scale, int64_t head_dim, T* __restrict out) {
  const int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const T first = grad[i] * scale, second = grad[half + i] * scale;
    out[i] = first * cos[i] + second * sin[half + i];
    out[half + i] = second * cos[half + i] + first * sin[i];
  }
}

template <typename T>
PADDLEMIX_BODY void rotate_back(const RotaryGrad<T>& a, int64_t begin, int64_t end) {
  const int64_t width = a.heads * a.head_dim;
  for (int64_t index = begin; index < end; ++index) {
    const int64_t token = index / a.heads, h = index % a.heads, r = token / a.length, t = token % a.length;
    const int64_t position = a.positions[token];
    const int64_t table = ((a.table_index ? a.table_index[r] : 0) * a.table_length + position) * a.head_dim;
    const T scale = a.logn ? static_cast<T>(a.logn[position]) : T(1);
    const int64_t from = ((r * a.heads + h) * a.length + t) * a.head_dim;
    T* grad_qkv = a.grad_qkv + token * 3 * width + h * a.head_dim;
    rotate_head_back(a.grad_query + from, a.cos + table, a.sin + table, scale, a.head_dim, grad_qkv);
    rotate_head_back(a.grad_key + from, a.cos + table, a.sin + table, T(1), a.head_dim, grad_qkv + width);
    const T* __restrict grad_value = a.grad_value + from;
    T* __restrict out = grad_qkv + 2 * width;
    for (int64_t i = 0; i < a.head_dim; ++i) out[i] = grad_value[i];
  }
}

template <typename T>
void rotary_qkv(const void* qkv, const void* bias, const float* cos, const float* sin, int64_t table_length,
                const int32_t* table_index, const int32_t* positions, const float* logn, void* query,
                paddlemix_strides query_strides, const paddlemix_kv* kv, const int32_t* slots, const int32_t* lengths,
                int64_t batch, int64_t length, int64_t heads, int64_t head_dim) {
  Rotary<T> a;
  a.qkv = static_cast<const T*>(qkv);
  a.bias = static_cast<const T*>(bias);
  a.cos = cos, a.sin = sin, a.logn = logn;
  a.table_index = table_index, a.positions = positions, a.slots = slots, a.lengths = lengths;
  a.table_length = table_length;
  a.query = static_cast<T*>(query);
  a.query_strides = query_strides;
  a.kv = kv;
  a.length = length, a.heads = heads, a.head_dim = head_dim;
  parallel_for(batch * length * heads, ceil_div(kGrain, 3 * head_dim),
               [&](int64_t begin, int64_t end) { run_body<rotate<T>>(a, begin, end); });
}

template <typename T>
void rotary_qkv_grad(const void* grad_query, const void* grad_key, const void* grad_value, const float* cos,
                     const float* sin, int64_t table_length, const int32_t* table_index, const int32_t* positions,
                     const float* logn, void* grad_qkv, int64_t batch, int64_t length, int64_t heads,
                     int64_t head_dim) {
  RotaryGrad<T> a;
  a.grad_query = static_cast<const T*>(grad_query);
  a.grad_key = static_cast<const T*>(grad_key);
  a.grad_value = static_cast<const T*>(grad_value);
  a.cos = cos, a.sin = sin, a.logn = logn;
  a.table_index = table_index, a.positions = positions;
  a.table_length = table_length;
  a.grad_qkv = static_cast<T*>(grad_qkv);
  a.length = length, a.heads = heads, a.head_dim = head_dim;
  parallel_for(batch * length * heads, ceil_div(kGrain, 3 * head_dim),
               [&](int64_t begin, int64_t end) { run_body<rotate_back<T>>(a, begin, end); });
}

}  // namespace
}  // namespace paddlemix

void paddlemix_cpu_rotary_qkv(int dtype, const void* qkv, const void* bias, const float* cos, const float* sin,
                              int64_t table_length, const int32_t* table_index, const int32_t* positions,
                              const float* logn, void* query, paddlemix_strides query_strides, const paddlemix_kv* kv,
                              const int32_t* slots, const int32_t* lengths, int64_t batch, int64_t length,
                              int64_t heads, int64_t head_dim) {
  if (batch * length * heads * head_dim == 0) return;
  const auto run = dtype == PADDLEMIX_FLOAT64 ? paddlemix::rotary_qkv<double> : paddlemix::rotary_qkv<float>;
  run(qkv, bias, cos, sin, table_length, table_index, positions, logn, query, query_strides, kv, slots, lengths, batch,
      length, heads, head_dim);
}

void paddlemix_cpu_rotary_qkv_grad(int dtype, const void* grad_query, const void* grad_key, const void* grad_value,
                                   const float* cos, const float* sin, int64_t table_length, const int32_t* table_index,
                                   const int32_t* positions, const float* logn, void* grad_qkv, int64_t batch,
                                   int64_t length, int64_t heads, int64_t head_dim) {
  if (batch * length * heads * head_dim == 0) return;
  const auto run = dtype == PADDLEMIX_FLOAT64 ? paddlemix::rotary_qkv_grad<double> : paddlemix::rotary_qkv_grad<float>;
  run(grad_query, grad_key, grad_value, cos, sin, table_length, table_index, positions, logn, grad_qkv, batch, length,
      heads, head_dim);
}
