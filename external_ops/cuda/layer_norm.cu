// LayerNorm with an optional residual addition, and its gradient.
#include "norm.cuh"

using namespace paddlemix;

int paddlemix_cuda_layer_norm(int dtype, const void* x, const void* residual, const void* weight, const void* bias,
                              double epsilon, void* out, void* sum, float* mean, float* inverse_std, int64_t rows,
                              int64_t width, void* stream) {
  return launch_norm<true>(dtype, x, residual, weight, bias, epsilon, out, sum, mean, inverse_std, rows, width, stream);
}

int paddlemix_cuda_layer_norm_grad(int dtype, const void* x, const void* weight, const float* mean,
                                   const float* inverse_std, const void* grad_out, const void* grad_sum, void* grad_x,
                                   float* grad_weight, float* grad_bias, int64_t rows, int64_t width, void* stream) {
  return launch_norm_grad<true>(dtype, x, weight, mean, inverse_std, grad_out, grad_sum, grad_x, grad_weight, grad_bias,
                                rows, width, stream);
}
