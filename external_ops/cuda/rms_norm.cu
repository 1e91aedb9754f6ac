// RMSNorm with an optional residual addition, and its gradient.
#include "norm.cuh"

using namespace paddlemix;

int paddlemix_cuda_rms_norm(int dtype, const void* x, const void* residual, const void* weight, double epsilon,
                            void* out, void* sum, float* inverse_rms, int64_t rows, int64_t width, void* stream) {
  return launch_norm<false>(dtype, x, residual, weight, nullptr, epsilon, out, sum, nullptr, inverse_rms, rows, width,
                            stream);
}

int paddlemix_cuda_rms_norm_grad(int dtype, const void* x, const void* weight, const float* inverse_rms,
                                 const void* grad_out, const void* grad_sum, void* grad_x, float* grad_weight,
                                 int64_t rows, int64_t width, void* stream) {
  return launch_norm_grad<false>(dtype, x, weight, nullptr, inverse_rms, grad_out, grad_sum, grad_x, grad_weight,
                                 nullptr, rows, width, stream);
}
