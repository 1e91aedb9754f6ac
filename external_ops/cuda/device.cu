// What the library can do on the current device.
#include "device.cuh"

namespace paddlemix {
namespace {

__global__ void write_architecture(int* architecture) {
#ifdef __CUDA_ARCH__
  *architecture = __CUDA_ARCH__ / 10;
#else
  *architecture = 0;
#endif
}

}  // namespace
}  // namespace paddlemix

extern "C" int paddlemix_cuda_trial(void) {
  using namespace paddlemix;
  int* architecture = nullptr;
  int written = 0;
  cudaError_t error = cudaMalloc(reinterpret_cast<void**>(&architecture), sizeof(int));
  if (error == cudaSuccess) {
    PADDLEMIX_LAUNCH(write_architecture, 1, 1, 0, nullptr, architecture);
    error = cudaGetLastError();
    if (error == cudaSuccess) error = cudaMemcpy(&written, architecture, sizeof(int), cudaMemcpyDeviceToHost);
    cudaFree(architecture);
  }
  cudaGetLastError();  // a refused launch is told here and must not be found by the next one
  return error == cudaSuccess ? written : -static_cast<int>(error);
}

extern "C" const char* paddlemix_cuda_error(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

extern "C" int64_t paddlemix_cuda_linear_rows(int dtype, int stored, const void* x, int64_t in_features) {
  using namespace paddlemix;
  const bool exact = dtype == stored && dtype != PADDLEMIX_FLOAT32;
  const bool packed = aligned16({x}, {in_features * 2});
  return exact && packed && current_device().has_matrix_code() ? PADDLEMIX_CUDA_MATRIX_ROWS : PADDLEMIX_CUDA_FEW_ROWS;
}
