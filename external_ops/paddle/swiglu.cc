// Paddle operators paddlemix_swiglu (gate, up) and paddlemix_swiglu_packed (x: gate, then up, in the last axis), with
// gradients.
#include "swiglu.h"

#include "direct.h"

namespace paddlemix_ops {
namespace swiglu {

constexpr const char* kName = "swiglu";

// The second half of each row of a packed tensor.
const void* second_half(const Tensor& packed, int64_t width) {
  return static_cast<const char*>(packed.data()) + width * phi::SizeOf(packed.dtype());
}

void* second_half(Tensor& packed, int64_t width) {
  return static_cast<char*>(packed.data()) + width * phi::SizeOf(packed.dtype());
}

// like: the tensor that `gate` belongs to; it has the dtype and the device of all.
void run(const Tensor& like, const void* gate, const void* up, int64_t stride, Tensor* out, int64_t rows,
         int64_t width) {
  if (like.is_cpu()) {
    paddlemix_cpu_swiglu(cpu_dtype(like, kName), gate, up, stride, out->data(), rows, width);
    return;
  }
#ifdef PADDLEMIX_WITH_CUDA
  check_launch(kName, paddlemix_cuda_swiglu(kernel_dtype(like, kName), gate, up, stride, out->data(), rows, width,
                                            stream_of(like)));
#else
  PD_THROW(kName, ": this build has no kernel for the device of x");
#endif
}

void run_grad(const Tensor& like, const void* gate, const void* up, int64_t stride, const Tensor& grad_out,
              void* grad_gate, void* grad_up, int64_t rows, int64_t width) {
  if (like.is_cpu()) {
    paddlemix_cpu_swiglu_grad(cpu_dtype(like, kName), gate, up, stride, grad_out.data(), grad_gate, grad_up, rows,
                              width);
    return;
  }
#ifdef PADDLEMIX_WITH_CUDA
  check_launch(kName, paddlemix_cuda_swiglu_grad(kernel_dtype(like, kName), gate, up, stride, grad_out.data(),
                                                 grad_gate, grad_up, rows, width, stream_of(like)));
#else
  PD_THROW(kName, ": this build has no kernel for the device of x");
#endif
}

std::vector<Tensor> forward(const Tensor& gate, const Tensor& up) {
  const int64_t width = last_dim(kName, gate);
  check_shape(kName, "up", up, gate.shape());
  check_same_dtype(kName, "up", up, gate);
  check_same_place(kName, "up", up, gate);
  Tensor out = paddle::empty(gate.shape(), gate.dtype(), gate.place());
  run(gate, gate.data(), up.data(), width, &out, leading_rows(gate), width);
  return {out};
}

std::vector<Tensor> backward(const Tensor& gate, const Tensor& up, const Tensor& grad_out) {
  const int64_t width = gate.shape().back();
  Tensor grad_gate = paddle::empty(gate.shape(), gate.dtype(), gate.place());
  Tensor grad_up = paddle::empty(gate.shape(), gate.dtype(), gate.place());
  run_grad(gate, gate.data(), up.data(), width, grad_out, grad_gate.data(), grad_up.data(), leading_rows(gate), width);
  return {grad_gate, grad_up};
}

std::vector<int64_t> half_shape(std::vector<int64_t> shape) {
  if (!shape.empty() && shape.back() > 0) shape.back() /= 2;  // negative: unknown while tracing
  return shape;
}

std::vector<Tensor> packed_forward(const Tensor& x) {
  const int64_t both = last_dim(kName, x), width = both / 2;
  PD_CHECK(both % 2 == 0, kName, ": the last axis of a packed gate and up must be even, got ", both);
  Tensor out = paddle::empty(half_shape(x.shape()), x.dtype(), x.place());
  run(x, x.data(), second_half(x, width), both, &out, leading_rows(x), width);
  return {out};
}

std::vector<Tensor> packed_backward(const Tensor& x, const Tensor& grad_out) {
  const int64_t both = x.shape().back(), width = both / 2;
  Tensor grad_x = paddle::empty(x.shape(), x.dtype(), x.place());
  run_grad(x, x.data(), second_half(x, width), both, grad_out, grad_x.data(), second_half(grad_x, width),
           leading_rows(x), width);
  return {grad_x};
}

using Shape = std::vector<int64_t>;

std::vector<Shape> shapes(const Shape& gate, const Shape& up) { return {gate}; }
std::vector<Shape> packed_shapes(const Shape& x) { return {half_shape(x)}; }
std::vector<DataType> dtypes(const DataType& gate, const DataType& up) { return {gate}; }
std::vector<DataType> packed_dtypes(const DataType& x) { return {x}; }

}  // namespace swiglu
}  // namespace paddlemix_ops

PD_BUILD_OP(paddlemix_swiglu)
    .Inputs({"Gate", "Up"})
    .Outputs({"Out"})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::swiglu::forward))
    .SetInferShapeFn(PD_INFER_SHAPE(paddlemix_ops::swiglu::shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddlemix_ops::swiglu::dtypes));
PADDLEMIX_DIRECT(paddlemix_swiglu, paddlemix_ops::swiglu::forward);

PD_BUILD_GRAD_OP(paddlemix_swiglu)
    .Inputs({"Gate", "Up", paddle::Grad("Out")})
    .Outputs({paddle::Grad("Gate"), paddle::Grad("Up")})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::swiglu::backward));

PD_BUILD_OP(paddlemix_swiglu_packed)
    .Inputs({"X"})
    .Outputs({"Out"})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::swiglu::packed_forward))
    .SetInferShapeFn(PD_INFER_SHAPE(paddlemix_ops::swiglu::packed_shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(paddlemix_ops::swiglu::packed_dtypes));
PADDLEMIX_DIRECT(paddlemix_swiglu_packed, paddlemix_ops::swiglu::packed_forward);

PD_BUILD_GRAD_OP(paddlemix_swiglu_packed)
    .Inputs({"X", paddle::Grad("Out")})
    .Outputs({paddle::Grad("X")})
    .SetKernelFn(PD_KERNEL(paddlemix_ops::swiglu::packed_backward));
