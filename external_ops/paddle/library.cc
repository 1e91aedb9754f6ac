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
