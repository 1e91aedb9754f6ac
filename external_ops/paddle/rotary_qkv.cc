// Paddle operators paddlemix_rotary_qkv, with the gradient of qkv, and paddlemix_rotary_qkv_cache, which writes the
// caches in place.
#include "common.h"
#include "direct.h"

namespace paddlemix_ops {
namespace rotary_qkv {

constexpr const char* kName = "rotary_qkv";

using Optional = paddle::optional<Tensor>;

template <typename T>
const T* data_or_null(const Optional& tensor) {
  return tensor ? tensor->data<T>() : nullptr;
}

// What both operators read: sizes, and the tables by position.
struct Sizes {
  int64_t batch, length, heads, head_dim, tables, table_length;
};

void check_index(const char* name, const Tensor& index, const std::vector<int64_t>& shape, const Tensor& qkv) {
  check_shape(kName, name, index, shape);
  check_dtype(kName, name, index, DataType::INT32, "int32");
  check_same_place(kName, name, index, qkv);
}

void check_table(const char* name, const Tensor& table, const std::vector<int64_t>& shape, const Tensor& qkv) {
  check_shape(kName, name, table, shape);
  check_dtype(kName, name, table, DataType::FLOAT32, "float32");
  check_same_place(kName, name, table, qkv);
}

// Shapes, dtypes and devices of everything but the caches.
Sizes check_inputs(const Tensor& qkv, const Optional& bias, const Tensor& cos, const Tensor& sin,
                   const Tensor& positions, const Optional& logn, const Optional& table_index, int64_t heads) {
  check_given(kName, "qkv", qkv);
  check_given(kName, "cos", cos);
  const std::vector<int64_t> shape = qkv.shape(), tables = cos.shape();
  PD_CHECK(shape.size() == 3, kName, ": qkv must be [batch, length, 3 * heads * head_dim], got ", describe(shape));
  PD_CHECK(heads > 0 && heads <= shape[2] / 6 && shape[2] % (6 * heads) == 0, kName,
           ": the last axis of qkv must be 3 * heads * head_dim with ", heads, " heads and an even head_dim, got ",
           shape[2]);
  const int64_t head_dim = shape[2] / (3 * heads);
  PD_CHECK(tables.size() == 3 && tables[2] == head_dim, kName, ": cos must be [tables, table_length, ", head_dim,
           "], got ", describe(tables));
  check_table("cos", cos, tables, qkv);
  check_table("sin", sin, tables, qkv);
  check_index("positions", positions, {shape[0], shape[1]}, qkv);
  if (bias) {
    check_shape(kName, "bias", *bias, {shape[2]});
    PD_CHECK(bias->dtype() == qkv.dtype(), kName, ": bias has another dtype than qkv; cast one of them");
    check_same_place(kName, "bias", *bias, qkv);
  }
  if (logn) check_table("logn", *logn, {tables[1]}, qkv);
  if (table_index) check_index("table_index", *table_index, {shape[0]}, qkv);
  return {shape[0], shape[1], heads, head_dim, tables[0], tables[1]};
}

// Every index lies in [0, limit). On the CPU only: to look into tensors of a GPU is to wait for it.
void check_range(const char* name, const int32_t* index, int64_t count, int64_t limit) {
  for (int64_t i = 0; i < count; ++i) {
    PD_CHECK(index[i] >= 0 && index[i] < limit, kName, ": ", name, " has ", index[i], ", expected 0 to ", limit - 1);
  }
}

// New positions of row r that are real; the rest is skipped.
int64_t real_length(const Sizes& n, const int32_t* lengths, int64_t r) {
  return lengths ? std::min<int64_t>(lengths[r], n.length) : n.length;
}

void check_positions(const Sizes& n, const Tensor& positions, const Optional& table_index, const int32_t* lengths) {
  for (int64_t r = 0; r < n.batch; ++r) {
    check_range("positions", positions.data<int32_t>() + r * n.length, real_length(n, lengths, r), n.table_length);
  }
  if (table_index) check_range("table_index", table_index->data<int32_t>(), n.batch, n.tables);
}

paddlemix_strides contiguous_strides(const Sizes& n) {
  return {n.heads * n.length * n.head_dim, n.length * n.head_dim, n.head_dim};
}

// slots and lengths may be null.
void run(const Sizes& n, const Tensor& qkv, const Optional& bias, const Tensor& cos, const Tensor& sin,
         const Tensor& positions, const Optional& logn, const Optional& table_index, Tensor* query,
         const paddlemix_kv& kv, const int32_t* slots, const int32_t* lengths) {
  const void* bias_data = bias ? bias->data() : nullptr;
  if (qkv.is_cpu()) {
    paddlemix_cpu_rotary_qkv(cpu_dtype(qkv, kName), qkv.data(), bias_data, cos.data<float>(), sin.data<float>(),
                             n.table_length, data_or_null<int32_t>(table_index), positions.data<int32_t>(),
                             data_or_null<float>(logn), query->data(), contiguous_strides(n), &kv, slots, lengths,
                             n.batch, n.length, n.heads, n.head_dim);
    return;
  }
#ifdef PADDLEMIX_WITH_CUDA
  check_launch(kName, paddlemix_cuda_rotary_qkv(kernel_dtype(qkv, kName), qkv.data(), bias_data, cos.data<float>(),
                                                sin.data<float>(), n.table_length, data_or_null<int32_t>(table_index),
                                                positions.data<int32_t>(), data_or_null<float>(logn), query->data(),
                                                contiguous_strides(n), &kv, slots, lengths, n.batch, n.length, n.heads,
                                                n.head_dim, stream_of(qkv)));
#else
  PD_THROW(kName, ": this build has no kernel for the device of x");
#endif
}

std::vector<Tensor> forward(const Tensor& qkv, const Optional& bias, const Tensor& cos, const Tensor& sin,
                            const Tensor& positions, const Optional& logn, const Optional& table_index, int64_t heads) {
  const Sizes n = check_inputs(qkv, bias, cos, sin, positions, logn, table_index, heads);
  if (qkv.is_cpu()) check_positions(n, positions, table_index, nullptr);
  const std::vector<int64_t> shape = {n.batch, n.heads, n.length, n.head_dim};
  Tensor query = paddle::empty(shape, qkv.dtype(), qkv.place());
  Tensor key = paddle::empty(shape, qkv.dtype(), qkv.place());
  Tensor value = paddle::empty(shape, qkv.dtype(), qkv.place());
  const paddlemix_strides strides = contiguous_strides(n);
  const paddlemix_kv kv = {key.data(),    value.data(), kernel_dtype(qkv, kName),
                           strides.batch, strides.head, strides.position,
                           n.length,      nullptr,      0};
  run(n, qkv, bias, cos, sin, positions, logn, table_index, &query, kv, nullptr, nullptr);
  return {query, key, value};
}

std::vector<Tensor> backward(const Tensor& cos, const Tensor& sin, const Tensor& positions, const Optional& logn,
                             const Optional& table_index, const Tensor& query_or_none, const Tensor& key_or_none,
                             const Tensor& value_or_none, int64_t heads) {
  const Tensor& given = query_or_none.initialized() ? query_or_none
                        : key_or_none.initialized() ? key_or_none
                                                    : value_or_none;
  const Tensor grad_query = or_zeros(query_or_none, given), grad_key = or_zeros(key_or_none, given),
               grad_value = or_zeros(value_or_none, given);
  const std::vector<int64_t> shape = grad_query.shape();
  const int64_t batch = shape[0], length = shape[2], head_dim = shape[3], table_length = cos.shape()[1];
  Tensor grad_qkv = paddle::empty({batch, length, 3 * heads * head_dim}, grad_query.dtype(), grad_query.place());
  if (grad_query.is_cpu()) {
    paddlemix_cpu_rotary_qkv_grad(cpu_dtype(grad_query, kName), grad_query.data(), grad_key.data(), grad_value.data(),
                                  cos.data<float>(), sin.data<float>(), table_length,
                                  data_or_null<int32_t>(table_index), positions.data<int32_t>(),
                                  data_or_null<float>(logn), grad_qkv.data(), batch, length, heads, head_dim);
    return {grad_qkv};
  }
#ifdef PADDLEMIX_WITH_CUDA
  check_launch(kName, paddlemix_cuda_rotary_qkv_grad(
                          kernel_dtype(grad_query, kName), grad_query.data(), grad_key.data(), grad_value.data(),
                          cos.data<float>(), sin.data<float>(), table_length, data_or_null<int32_t>(table_index),
                          positions.data<int32_t>(), data_or_null<float>(logn), grad_qkv.data(), batch, length, heads,
                          head_dim, stream_of(grad_query)));
  return {grad_qkv};
#else
  PD_THROW(kName, ": this build has no kernel for the device of x");
#endif
}

// Where the new keys and values go; shapes and dtypes are checked, and on the CPU every slot and block.
paddlemix_kv check_cache(const Sizes& n, const Tensor& qkv, Tensor& key_cache, Tensor& value_cache, const Tensor& slots,
                         const int32_t* lengths, const Optional& block_table) {
  check_given(kName, "key_cache", key_cache);
  const std::vector<int64_t> shape = key_cache.shape();
  PD_CHECK(shape.size() == 4 && shape[1] == n.heads && shape[3] == n.head_dim, kName, ": key_cache must be [",
           block_table ? "blocks, " : "batch, ", n.heads, block_table ? ", block_size, " : ", capacity, ", n.head_dim,
           "], got ", describe(shape));
  check_shape(kName, "value_cache", value_cache, shape);
  PD_CHECK(key_cache.dtype() == qkv.dtype() ||
               (qkv.dtype() == DataType::FLOAT32 && key_cache.dtype() == DataType::BFLOAT16 && qkv.is_cpu()),
           kName, ": key_cache must have the dtype of qkv", qkv.is_cpu() ? ", or be bfloat16 for float32" : "");
  PD_CHECK(value_cache.dtype() == key_cache.dtype(), kName, ": value_cache has another dtype than key_cache");
  check_same_place(kName, "key_cache", key_cache, qkv);
  check_same_place(kName, "value_cache", value_cache, qkv);
  check_index("slots", slots, {n.batch}, qkv);
  const int64_t block_size = shape[2];
  int64_t table_width = 0, capacity = block_size;
  if (block_table) {
    PD_CHECK(block_table->shape().size() == 2, kName, ": block_table must be [batch, width], got ",
             describe(block_table->shape()));
    table_width = block_table->shape()[1];
    check_index("block_table", *block_table, {n.batch, table_width}, qkv);
    capacity = table_width * block_size;
  } else {
    PD_CHECK(shape[0] == n.batch, kName, ": key_cache has ", shape[0], " rows, expected ", n.batch);
  }
  const int32_t* blocks = data_or_null<int32_t>(block_table);
  if (qkv.is_cpu()) {
    for (int64_t r = 0; r < n.batch; ++r) {
      const int64_t count = real_length(n, lengths, r), slot = slots.data<int32_t>()[r];
      if (count <= 0) continue;
      PD_CHECK(slot >= 0 && slot + count <= capacity, kName, ": row ", r, " writes slots ", slot, " to ",
               slot + count - 1, ", the cache holds ", capacity);
      if (!blocks) continue;
      const int64_t first = slot / block_size, last = (slot + count - 1) / block_size;
      check_range("block_table", blocks + r * table_width + first, last - first + 1, shape[0]);
    }
  }
  return {key_cache.data(),
          value_cache.data(),
          kernel_dtype(key_cache, kName),
          shape[1] * shape[2] * shape[3],
          shape[2] * shape[3],
          shape[3],
          block_size,
          blocks,
          table_width};
}

std::vector<Tensor> cache_forward(const Tensor& qkv, const Optional& bias, const Tensor& cos, const Tensor& sin,
                                  const Tensor& positions, Tensor& key_cache, Tensor& value_cache, const Tensor& slots,
                                  const Optional& lengths, const Optional& block_table, const Optional& logn,
                                  const Optional& table_index, int64_t heads) {
  const Sizes n = check_inputs(qkv, bias, cos, sin, positions, logn, table_index, heads);
  if (lengths) check_index("lengths", *lengths, {n.batch}, qkv);
  const int32_t* real = data_or_null<int32_t>(lengths);
  if (qkv.is_cpu()) check_positions(n, positions, table_index, real);
  const paddlemix_kv kv = check_cache(n, qkv, key_cache, value_cache, slots, real, block_table);
  const std::vector<int64_t> shape = {n.batch, n.heads, n.length, n.head_dim};
  // Queries beyond a row's length are not written: zeros, so that nothing depends on old memory.
  Tensor query =
      real ? paddle::full(shape, 0, qkv.dtype(), qkv.place()) : paddle::empty(shape, qkv.dtype(), qkv.place());
  run(n, qkv, bias, cos, sin, positions, logn, table_index, &query, kv, slots.data<int32_t>(), real);
  return {query};
}

using Shape = std::vector<int64_t>;
using OptionalShape = paddle::optional<Shape>;
using OptionalDtype = paddle::optional<DataType>;

Shape head_shape(const Shape& qkv, int64_t heads) {
  if (qkv.size() != 3) return qkv;  // the kernel says what is wrong
  return {qkv[0], heads, qkv[1], qkv[2] < 0 ? -1 : qkv[2] / (3 * heads)};
}

std::vector<Shape> shapes(const Shape& qkv, const OptionalShape& bias, const Shape& cos, const Shape& sin,
                          const Shape& positions, const OptionalShape& logn, const OptionalShape& table_index,
                          const int64_t& heads) {
  const Shape shape = head_shape(qkv, heads);
  return {shape, shape, shape};
}

std::vector<DataType> dtypes(const DataType& qkv, const OptionalDtype& bias, const DataType& cos, const DataType& sin,
                             const DataType& positions, const OptionalDtype& logn, const OptionalDtype& table_index) {
  return {qkv, qkv, qkv};
}

std::vector<Shape> cache_shapes(const Shape& qkv, const OptionalShape& bias, const Shape& cos, const Shape& sin,
                                const Shape& positions, const Shape& key_cache, const Shape& value_cache,
                                const Shape& slots, const OptionalShape& lengths, const OptionalShape& block_table,
                                const OptionalShape& logn, const OptionalShape& table_index, const int64_t& heads) {
  return {head_shape(qkv, heads)};
}

std::vector<DataType> cache_dtypes(const DataType& qkv, const OptionalDtype& bias, const DataType& cos,
                                   const DataType& sin, const DataType& positions, const DataType& key_cache,
                                   const DataType& value_cache, const DataType& slots, const OptionalDtype& lengths,
                                   const OptionalDtype& block_table, const OptionalDtype& logn,
                                   const OptionalDtype& table_index) {
  return {qkv};
}

}  // namespace rotary_qkv
}  // namespace paddlemix_ops

PD_BUILD_OP(paddlemix_rotary_qkv)
    .Inputs({"QKV", paddle::Optional("Bias"), "Cos", "Sin", "Positions", paddle::Optional("Logn"),
             paddle::Optional("TableIndex")})
    .Outputs({"Query", "Key", "Value"})
    .Attrs({"heads: int64_t"})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::rotary_qkv::forward))
    .SetInferShapeFn(PD_INFER_SHAPE(paddlemix_ops::rotary_qkv::shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddlemix_ops::rotary_qkv::dtypes));
PADDLEMIX_DIRECT(paddlemix_rotary_qkv, paddlemix_ops::rotary_qkv::forward);

PD_BUILD_GRAD_OP(paddlemix_rotary_qkv)
    .Inputs({"Cos", "Sin", "Positions", paddle::Optional("Logn"), paddle::Optional("TableIndex"), paddle::Grad("Query"),
             paddle::Grad("Key"), paddle::Grad("Value")})
    .Outputs({paddle::Grad("QKV")})
    .Attrs({"heads: int64_t"})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::rotary_qkv::backward));

PD_BUILD_OP(paddlemix_rotary_qkv_cache)
    .Inputs({"QKV", paddle::Optional("Bias"), "Cos", "Sin", "Positions", "KeyCache", "ValueCache", "Slots",
             paddle::Optional("Lengths"), paddle::Optional("BlockTable"), paddle::Optional("Logn"),
             paddle::Optional("TableIndex")})
    .Outputs({"Query", "KeyCacheOut", "ValueCacheOut"})
    .Attrs({"heads: int64_t"})
    .SetInplaceMap({{"KeyCache", "KeyCacheOut"}, {"ValueCache", "ValueCacheOut"}})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::rotary_qkv::cache_forward))
    .SetInferShapeFn(PD_INFER_SHAPE(paddlemix_ops::rotary_qkv::cache_shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddlemix_ops::rotary_qkv::cache_dtypes));
PADDLEMIX_DIRECT(paddlemix_rotary_qkv_cache, paddlemix_ops::rotary_qkv::cache_forward);
