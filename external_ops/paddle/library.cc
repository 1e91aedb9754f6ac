// What the library says of itself, before any operator is used.
#include "common.h"

extern "C" {

// Counts the changes of the operators' signatures; paddlemix/ops/backend.py has the same number.
int paddlemix_ops_interface(void) { return 1; }

int paddlemix_ops_with_cuda(void) {
#ifdef PADDLEMIX_WITH_CUDA
  return 1;
#else
  return 0;
#endif
}

}  // extern "C"
