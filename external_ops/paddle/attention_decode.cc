// Paddle operator paddlemix_attention_decode: one to eight queries per row over the cache.
#include "attention.h"
#include "direct.h"

namespace paddlemix_ops {
namespace attention_decode {

using attention::Optional;

std::vector<Tensor> forward(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& kv_lengths,
                            const Optional& query_starts, const Optional& kv_starts, const Optional& block_table,
                            const Optional& mask) {
  constexpr const char* kName = "attention_decode";
  const attention::Call call(kName, query, key, value, kv_lengths, query_starts, kv_starts, block_table, mask);
  Tensor out = call.empty_output();
  if (query.is_cpu()) {
    paddlemix_cpu_attention_decode(query.data<float>(), call.strides, &call.kv, &call.visibility, call.scale(),
                                   out.data<float>(), call.batch, call.heads, call.length, call.head_dim);
    return {out};
  }
#ifdef PADDLEMIX_WITH_CUDA
  // The lengths lie on the device; to fetch them would stop the host at every step. The cache grows in blocks with what
  // it holds, so that its capacity is a close bound.
  const int64_t bytes =
      paddlemix_cuda_attention_decode_workspace(call.batch, call.heads, call.length, call.head_dim, call.capacity);
  Tensor workspace = paddle::empty({bytes}, DataType::UINT8, query.place());
  check_launch(kName, paddlemix_cuda_attention_decode(kernel_dtype(query, kName), query.data(), call.strides, &call.kv,
                                                      &call.visibility, call.scale(), out.data(), workspace.data(),
                                                      call.capacity, call.batch, call.heads, call.length, call.head_dim,
                                                      stream_of(query)));
  return {out};
#else
  PD_THROW(kName, ": this build has no kernel for the device of query");
#endif
}

}  // namespace attention_decode
}  // namespace paddlemix_ops

PD_BUILD_OP(paddlemix_attention_decode)
    .Inputs({"Query", "Key", "Value", "KvLengths", paddle::Optional("QueryStarts"), paddle::Optional("KvStarts"),
             paddle::Optional("BlockTable"), paddle::Optional("Mask")})
    .Outputs({"Out"})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::attention_decode::forward))
    .SetInferShapeFn(PD_INFER_SHAPE(paddlemix_ops::attention::shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddlemix_ops::attention::dtypes));
PADDLEMIX_DIRECT(paddlemix_attention_decode, paddlemix_ops::attention_decode::forward);
