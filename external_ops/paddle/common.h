// Shared by all bindings: argument checks whose messages name the op and the argument, and dispatch by device.
#pragma once

#include <string>
#include <vector>

#include "../cpu/paddlemix_cpu.h"
#include "paddle/phi/api/all.h"
#ifdef PADDLEMIX_WITH_CUDA
#include "../cuda/paddlemix_cuda.h"
#endif

namespace paddlemix_ops {

using paddle::DataType;
using paddle::Tensor;

inline int kernel_dtype(const Tensor& tensor, const char* op) {
  switch (tensor.dtype()) {
    case DataType::FLOAT32: return PADDLEMIX_FLOAT32;
    case DataType::FLOAT64: return PADDLEMIX_FLOAT64;
    case DataType::FLOAT16: return PADDLEMIX_FLOAT16;
    case DataType::BFLOAT16: return PADDLEMIX_BFLOAT16;
    default: PD_THROW(op, ": no kernel for this dtype; expected a floating-point tensor");
  }
}

// Dtypes of the CPU kernels. 16-bit activations exist on CUDA only.
inline int cpu_dtype(const Tensor& tensor, const char* op) {
  const int dtype = kernel_dtype(tensor, op);
  PD_CHECK(dtype == PADDLEMIX_FLOAT32 || dtype == PADDLEMIX_FLOAT64, op,
           ": on the CPU x must be float32 or float64; cast it, or use PADDLEMIX_OPS=reference");
  return dtype;
}

inline std::string describe(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// Paddle's registry passes an empty handle where None was given for a tensor.
inline void check_given(const char* op, const char* name, const Tensor& tensor) {
  PD_CHECK(tensor.defined(), op, ": ", name, " must be a tensor, got None");
}

inline void check_shape(const char* op, const char* name, const Tensor& tensor, const std::vector<int64_t>& expected) {
  check_given(op, name, tensor);
  PD_CHECK(tensor.shape() == expected, op, ": ", name, " has shape ", describe(tensor.shape()), ", expected ",
           describe(expected));
}

inline void check_same_dtype(const char* op, const char* name, const Tensor& tensor, const Tensor& like) {
  PD_CHECK(tensor.dtype() == like.dtype(), op, ": ", name, " has another dtype than x; cast one of them");
}

inline void check_dtype(const char* op, const char* name, const Tensor& tensor, DataType dtype, const char* wanted) {
  PD_CHECK(tensor.dtype() == dtype, op, ": ", name, " must be ", wanted);
}

inline void check_same_place(const char* op, const char* name, const Tensor& tensor, const Tensor& like) {
  PD_CHECK(tensor.place() == like.place(), op, ": ", name, " lies on another device than x; move it");
}

inline int64_t last_dim(const char* op, const Tensor& x) {
  check_given(op, "x", x);
  PD_CHECK(!x.shape().empty(), op, ": x must have at least one axis");
  return x.shape().back();
}

// Product of all axes but the last.
inline int64_t leading_rows(const Tensor& x) {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < x.shape().size(); ++i) rows *= x.shape()[i];
  return rows;
}

inline std::vector<int64_t> leading_shape(const std::vector<int64_t>& shape) {
  return {shape.begin(), shape.empty() ? shape.end() : shape.end() - 1};
}

// Paddle passes no gradient for an output that the loss does not depend on.
inline Tensor or_zeros(const Tensor& grad, const Tensor& like) {
  return grad.initialized() ? grad : paddle::full(like.shape(), 0, like.dtype(), like.place());
}

#ifdef PADDLEMIX_WITH_CUDA
inline void* stream_of(const Tensor& tensor) { return reinterpret_cast<void*>(tensor.stream()); }

inline void check_launch(const char* op, int error) {
  PD_CHECK(error == 0, op, ": the CUDA kernel could not be launched: ", paddlemix_cuda_error(error));
}
#endif

}  // namespace paddlemix_ops
