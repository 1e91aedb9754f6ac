// LayerNorm with an optional residual addition before it, and its gradient; see norm.h.
#include "norm.h"

using namespace paddlemix;

void paddlemix_cpu_layer_norm(int dtype, const void* x, const void* residual, const void* weight, const void* bias,
                              double epsilon, void* out, void* sum, void* mean, void* inverse_std, int64_t rows,
                              int64_t width) {
  const auto run = dtype == PADDLEMIX_FLOAT64 ? normalize<true, double> : normalize<true, float>;
  run(x, residual, weight, bias, epsilon, out, sum, mean, inverse_std, rows, width);
}

void paddlemix_cpu_layer_norm_grad(int dtype, const void* x, const void* weight, const void* mean,
                                   const void* inverse_std, const void* grad_out, const void* grad_sum, void* grad_x,
                                   void* grad_weight, void* grad_bias, int64_t rows, int64_t width) {
  const auto run = dtype == PADDLEMIX_FLOAT64 ? normalize_grad<true, double> : normalize_grad<true, float>;
  run(x, weight, mean, inverse_std, grad_out, grad_sum, grad_x, grad_weight, grad_bias, rows, width);
}
