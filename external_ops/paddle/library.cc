// What the library says of itself, before any operator is used.
#include "common.h"
#include "direct.h"

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

// What the CUDA kernels were built with and for, such as "CUDA 12.9 for 80 90"; empty where there are none.
const char* paddlemix_ops_cuda_build(void) {
#ifdef PADDLEMIX_WITH_CUDA
  return PADDLEMIX_BUILT_WITH;
#else
  return "";
#endif
}

// Launches a kernel on the current GPU. NULL: it ran; otherwise the error's text.
const char* paddlemix_ops_cuda_trial(void) {
#ifdef PADDLEMIX_WITH_CUDA
  const int found = paddlemix_cuda_trial();
  return found < 0 ? paddlemix_cuda_error(-found) : nullptr;
#else
  return "there are no CUDA kernels";
#endif
}

#if PADDLEMIX_WITH_PYTHON
// A new reference to a dict: name of an operator -> the function that is the short way to it (direct.h).
PyObject* paddlemix_ops_direct(void) {
  PyObject* table = PyDict_New();
  for (PyMethodDef& function : paddlemix_ops::direct_functions()) {
    PyObject* object = PyCFunction_New(&function, nullptr);
    PyDict_SetItemString(table, function.ml_name, object);
    Py_DECREF(object);
  }
  return table;
}
#endif

}  // extern "C"
