// RMSNorm with an optional residual addition before it, and its gradient; see norm.h.
#include "norm.h"

using namespace paddlemix;

void paddlemix_cpu_rms_norm(int dtype, const void* x, const void* residual, const void* weight, double epsilon,
                            void* out, void* sum, void* inverse_rms, int64_t rows, int64_t width) {
  const auto run = dtype == PADDLEMIX_FLOAT64 ? normalize<false, double> : normalize<false, float>;
  run(x, residual, weight, nullptr, epsilon, out, sum, nullptr, inverse_rms, rows, width);
}

void paddlemix_cpu_rms_norm_grad(int dtype, const void* x, const void* weight, const void* inverse_rms,
                                 const void* grad_out, const void* grad_sum, void* grad_x, void* grad_weight,
                                 int64_t rows, int64_t width) {
  const auto run = dtype == PADDLEMIX_FLOAT64 ? normalize_grad<false, double> : normalize_grad<false, float>;
  run(x, weight, nullptr, inverse_rms, grad_out, grad_sum, grad_x, grad_weight, nullptr, rows, width);
}
