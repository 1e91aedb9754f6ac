// What a launch has to know of the current device.
#pragma once

#include "common.cuh"

namespace paddlemix {
namespace {

__global__ void probe() {}

}  // namespace

struct Device {
  int multiprocessors;
  // The architecture that the kernels were compiled for, such as 80, of the code that this device runs. The device's own
  // may be higher: code for 8.0 runs on 8.9, and PTX on any later one.
  int compiled_for;

  // Whether the kernels contain the matrix instructions of linear_matrix.cuh.
  bool has_matrix_code() const { return compiled_for >= 80; }
};

// Asked once per thread and device; the driver takes about as long to answer as to launch a kernel.
inline const Device& current_device() {
  thread_local int known = -1;
  thread_local Device device = {1, 0};
  int current = 0;
  if (cudaGetDevice(&current) == cudaSuccess && current != known) {
    cudaFuncAttributes attributes = {};
    cudaDeviceGetAttribute(&device.multiprocessors, cudaDevAttrMultiProcessorCount, current);
    cudaFuncGetAttributes(&attributes, probe);
    device.compiled_for = attributes.ptxVersion;
    known = current;
  }
  return device;
}

}  // namespace paddlemix
