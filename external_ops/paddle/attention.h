// Shared by the attention bindings: checks of caches, lengths and block tables, and their description for the kernels.
//
// Paddle hands every tensor to an operator of this kind contiguous: it copies a view before the call. So the kernels'
// strides follow from the shapes here, and callers pass a whole cache with its lengths rather than a slice of it.
#pragma once

#include <algorithm>
#include <cmath>

#include "common.h"

namespace paddlemix_ops {
namespace attention {

using Optional = paddle::optional<Tensor>;

// The inputs of one call, checked on construction. The kernels trust every length and table: on the CPU, where they can
// be read, these are checked as well, so that no call from Python reaches memory beyond its tensors.
class Call {
 public:
  Call(const char* op, const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& kv_lengths,
       const Optional& query_starts, const Optional& kv_starts, const Optional& block_table, const Optional& mask)
      : op_(op), query_(query) {
    check_given(op, "query", query);
    check_given(op, "key", key);
    const std::vector<int64_t> shape = query.shape(), cache = key.shape();
    PD_CHECK(shape.size() == 4, op, ": query has shape ", describe(shape),
             ", expected [batch, heads, length, head_dim]");
    PD_CHECK(cache.size() == 4 && cache[1] == shape[1] && cache[3] == shape[3], op, ": key has shape ", describe(cache),
             ", expected [batch or blocks, ", shape[1], ", slots, ", shape[3], "]");
    batch = shape[0], heads = shape[1], length = shape[2], head_dim = shape[3];
    PD_CHECK(block_table || cache[0] == batch, op, ": key has ", cache[0], " rows, expected ", batch,
             " as query has; only a cache with block_table may have another number");
    check_shape(op, "value", value, cache);
    check_same_dtype(op, "value", value, key);
    check_same_place(op, "key", key, query);
    check_same_place(op, "value", value, query);
    PD_CHECK(query.dtype() == DataType::FLOAT32 || !query.is_cpu(), op, ": on the CPU query must be float32");
    PD_CHECK(key.dtype() == query.dtype() || (query.is_cpu() && key.dtype() == DataType::BFLOAT16), op,
             ": key must have the dtype of query, or bfloat16 on the CPU");

    index("kv_lengths", kv_lengths, {batch});
    if (query_starts) index("query_starts", *query_starts, {batch});
    if (kv_starts) index("kv_starts", *kv_starts, {batch});
    int64_t table_width = 0;
    capacity = cache[2];
    if (block_table) {
      const std::vector<int64_t> table = block_table->shape();
      PD_CHECK(table.size() == 2 && table[0] == batch, op, ": block_table has shape ", describe(table), ", expected [",
               batch, ", blocks of a row]");
      index("block_table", *block_table, table);
      table_width = table[1];
      capacity = table_width * cache[2];
    }
    kv = {const_cast<void*>(key.data()),
          const_cast<void*>(value.data()),
          kernel_dtype(key, op),
          heads * cache[2] * head_dim,
          cache[2] * head_dim,
          head_dim,
          std::max<int64_t>(cache[2], 1),
          block_table ? block_table->data<int32_t>() : nullptr,
          table_width};
    strides = {heads * length * head_dim, length * head_dim, head_dim};
    visibility = {query_starts ? query_starts->data<int32_t>() : nullptr,
                  kv_starts ? kv_starts->data<int32_t>() : nullptr,
                  kv_lengths.data<int32_t>(),
                  nullptr,
                  0,
                  0};
    if (mask) use_mask(*mask);
    if (query.is_cpu()) check_lengths(cache[0]);
  }

  float scale() const { return 1.0f / std::sqrt(static_cast<float>(head_dim)); }
  Tensor empty_output() const {
    return paddle::empty({batch, length, heads * head_dim}, query_.dtype(), query_.place());
  }

  int64_t batch, heads, length, head_dim;
  int64_t capacity;  // slots that a row can have
  paddlemix_strides strides;
  paddlemix_kv kv;
  paddlemix_visibility visibility;

 private:
  void index(const char* name, const Tensor& tensor, const std::vector<int64_t>& shape) const {
    check_shape(op_, name, tensor, shape);
    check_dtype(op_, name, tensor, DataType::INT32, "int32");
    check_same_place(op_, name, tensor, query_);
  }

  void use_mask(const Tensor& mask) {
    const std::vector<int64_t> shape = mask.shape();
    PD_CHECK(shape.size() == 3 && (shape[0] == batch || shape[0] == 1) && shape[1] == length, op_, ": mask has shape ",
             describe(shape), ", expected [", batch, " or 1, ", length, ", slots]");
    check_dtype(op_, "mask", mask, DataType::FLOAT32, "float32");
    check_same_place(op_, "mask", mask, query_);
    visibility.mask = mask.data<float>();
    visibility.mask_batch = shape[0];
    visibility.mask_width = shape[2];
  }

  void check_lengths(int64_t blocks) const {
    for (int64_t row = 0; row < batch; ++row) {
      const int64_t slots = visibility.kv_lengths[row];
      PD_CHECK(0 <= slots && slots <= capacity, op_, ": kv_lengths[", row, "] is ", slots, ", expected 0 to ", capacity,
               ", what the cache holds");
      PD_CHECK(!visibility.mask || slots <= visibility.mask_width, op_, ": kv_lengths[", row, "] is ", slots,
               ", but mask covers ", visibility.mask_width, " slots");
      for (int64_t page = 0; kv.block_table && page * kv.block_size < slots; ++page) {
        const int64_t block = kv.block_table[row * kv.table_width + page];
        PD_CHECK(0 <= block && block < blocks, op_, ": block_table[", row, ", ", page, "] is ", block,
                 ", expected 0 to ", blocks - 1);
      }
    }
  }

  const char* op_;
  const Tensor& query_;
};

using Shape = std::vector<int64_t>;
using OptionalShape = paddle::optional<Shape>;
using OptionalDtype = paddle::optional<DataType>;

inline std::vector<Shape> shapes(const Shape& query, const Shape&, const Shape&, const Shape&, const OptionalShape&,
                                 const OptionalShape&, const OptionalShape&, const OptionalShape&) {
  if (query.size() != 4) return {query};  // the kernel says what is wrong; an error here would end the process
  return {{query[0], query[2], query[1] < 0 || query[3] < 0 ? -1 : query[1] * query[3]}};
}

inline std::vector<DataType> dtypes(const DataType& query, const DataType&, const DataType&, const DataType&,
                                    const OptionalDtype&, const OptionalDtype&, const OptionalDtype&,
                                    const OptionalDtype&) {
  return {query};
}

}  // namespace attention
}  // namespace paddlemix_ops
