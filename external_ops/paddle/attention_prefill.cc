// Paddle operators paddlemix_attention_prefill, over caches or tensors, and paddlemix_attention_interleaved, over the
// ViT's packed projection. Forward only, on the CPU only: on CUDA paddlemix/ops takes Paddle's own attention.
#include "attention.h"
#include "direct.h"

namespace paddlemix_ops {
namespace attention_prefill {

using attention::Optional;

std::vector<Tensor> forward(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& kv_lengths,
                            const Optional& query_starts, const Optional& kv_starts, const Optional& block_table,
                            const Optional& mask) {
  constexpr const char* kName = "attention_prefill";
  const attention::Call call(kName, query, key, value, kv_lengths, query_starts, kv_starts, block_table, mask);
  PD_CHECK(query.is_cpu(), kName, ": there is no kernel of its own for the device of query");
  Tensor out = call.empty_output();
  paddlemix_cpu_attention_prefill(query.data<float>(), call.strides, &call.kv, &call.visibility, call.scale(),
                                  out.data<float>(), call.batch, call.heads, call.length, call.head_dim);
  return {out};
}

// qkv: [n, length, 3 * width], per head its query, key and value: [q0 k0 v0 q1 k1 v1 ...].
std::vector<Tensor> interleaved(const Tensor& qkv, int heads) {
  constexpr const char* kName = "attention_interleaved";
  check_given(kName, "qkv", qkv);
  const std::vector<int64_t> shape = qkv.shape();
  PD_CHECK(shape.size() == 3, kName, ": qkv has shape ", describe(shape), ", expected [n, length, 3 * width]");
  PD_CHECK(heads > 0 && heads <= shape[2] / 3 && shape[2] % (int64_t{3} * heads) == 0, kName, ": a width of ", shape[2],
           " is not 3 times a multiple of ", heads, " heads");
  PD_CHECK(qkv.is_cpu() && qkv.dtype() == DataType::FLOAT32, kName, ": qkv must be float32 and lie on the CPU");
  const int64_t n = shape[0], length = shape[1], head_dim = shape[2] / (int64_t{3} * heads);
  const paddlemix_strides strides{length * shape[2], 3 * head_dim, shape[2]};
  float* base = const_cast<float*>(qkv.data<float>());
  const std::vector<int32_t> lengths(n, static_cast<int32_t>(length));
  const int64_t block_size = std::max<int64_t>(length, 1);
  const paddlemix_kv kv{base + head_dim,
                        base + 2 * head_dim,
                        PADDLEMIX_FLOAT32,
                        strides.batch,
                        strides.head,
                        strides.position,
                        block_size,
                        nullptr,
                        0};
  const paddlemix_visibility everything{nullptr, nullptr, lengths.data(), nullptr, 0, 0};
  Tensor out = paddle::empty({n, length, shape[2] / 3}, qkv.dtype(), qkv.place());
  paddlemix_cpu_attention_prefill(base, strides, &kv, &everything, 1.0f / std::sqrt(static_cast<float>(head_dim)),
                                  out.data<float>(), n, heads, length, head_dim);
  return {out};
}

std::vector<std::vector<int64_t>> interleaved_shapes(const std::vector<int64_t>& qkv) {
  if (qkv.size() != 3) return {qkv};  // the kernel says what is wrong
  return {{qkv[0], qkv[1], qkv[2] < 0 ? -1 : qkv[2] / 3}};
}

std::vector<DataType> interleaved_dtypes(const DataType& qkv) { return {qkv}; }

}  // namespace attention_prefill
}  // namespace paddlemix_ops

PD_BUILD_OP(paddlemix_attention_prefill)
    .Inputs({"Query", "Key", "Value", "KvLengths", paddle::Optional("QueryStarts"), paddle::Optional("KvStarts"),
             paddle::Optional("BlockTable"), paddle::Optional("Mask")})
    .Outputs({"Out"})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::attention_prefill::forward))
    .SetInferShapeFn(PD_INFER_SHAPE(paddlemix_ops::attention::shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddlemix_ops::attention::dtypes));
PADDLEMIX_DIRECT(paddlemix_attention_prefill, paddlemix_ops::attention_prefill::forward);

PD_BUILD_OP(paddlemix_attention_interleaved)
    .Inputs({"Qkv"})
    .Outputs({"Out"})
    .Attrs({"heads: int"})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::attention_prefill::interleaved))
    .SetInferShapeFn(PD_INFER_SHAPE(paddlemix_ops::attention_prefill::interleaved_shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddlemix_ops::attention_prefill::interleaved_dtypes));
PADDLEMIX_DIRECT(paddlemix_attention_interleaved, paddlemix_ops::attention_prefill::interleaved);
