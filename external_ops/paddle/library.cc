// What the library says of itself, before any operator is used.
#include "common.h"

extern "C" {

// Counts the changes of the operators' signatures; paddlemix/ops/backend.py has the same number.
int paddlemix_ops_interface(void) { return 1; }

// The version of Paddle whose headers the bindings were compiled with; its C++ interface holds for that version alone.
const char* paddlemix_ops_paddle_version(void) { return PADDLEMIX_BUILT_FOR_PADDLE; }

int paddlemix_ops_with_cuda(void) {
#ifdef PADDLEMIX_WITH_CUDA
  return 1;
#else
  return 0;
#endif
}

}  // extern "C"
