// A fast path from Python to an operator's function, for calls that need neither a gradient nor a traced program.
//
// Paddle's registry takes 6 to 10 microseconds of its own in every call, as long as the whole work
// on one token of a small model, and more the more operators are registered. A function of CPython's vectorcall kind
// takes less than one. What is no plain tensor is left to Paddle's way, which copies views and splits distributed
// tensors; paddlemix/ops/checks.py looks at all arguments before that.
#pragma once

#include "common.h"

#if __has_include(<Python.h>)
#define PADDLEMIX_WITH_PYTHON 1
#include <Python.h>

#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

// Two functions of paddle/utils/pybind.h. The header itself would bring pybind11 along and, in a CUDA build, the headers
// of cuBLAS, cuSOLVER and others, which a toolkit need not have.
namespace paddle {
namespace pybind {
Tensor& CastPyArg2Tensor(PyObject* object, Py_ssize_t position);
PyObject* ToPyObject(const Tensor& value, bool return_py_none_if_not_initialize);
}  // namespace pybind
}  // namespace paddle

namespace paddlemix_ops {

struct LeftToPaddle {};

// Lets other threads of Python run while an operator computes, as Paddle's way does.
struct InterpreterReleased {
  InterpreterReleased() : state(PyEval_SaveThread()) {}
  ~InterpreterReleased() { PyEval_RestoreThread(state); }
  InterpreterReleased(const InterpreterReleased&) = delete;
  InterpreterReleased& operator=(const InterpreterReleased&) = delete;
  PyThreadState* state;
};

// A tensor that lies in one piece in this process' memory: no view, no distributed or sparse tensor, not None.
inline Tensor& plain_tensor(PyObject* object, Py_ssize_t position) {
  if (object == Py_None) throw LeftToPaddle();
  Tensor& tensor = paddle::pybind::CastPyArg2Tensor(object, position);
  if (!tensor.initialized() || !tensor.is_dense_tensor() || !tensor.is_contiguous()) throw LeftToPaddle();
  return tensor;
}

// A Python object as an argument of type T.
template <typename T>
T argument(PyObject* object, Py_ssize_t position) {
  using Value = std::decay_t<T>;
  if constexpr (std::is_same_v<Value, paddle::optional<Tensor>>) {
    static_assert(!std::is_reference_v<T>, "optional tensors are held by value");
    return object == Py_None ? Value() : Value(plain_tensor(object, position));
  } else if constexpr (std::is_same_v<Value, Tensor>) {
    return plain_tensor(object, position);
  } else if constexpr (std::is_floating_point_v<Value>) {
    const double value = PyFloat_AsDouble(object);
    if (PyErr_Occurred()) throw LeftToPaddle();
    return static_cast<T>(value);
  } else {
    static_assert(std::is_integral_v<Value>, "no conversion for this type of argument");
    const long long value = PyLong_AsLongLong(object);
    if (PyErr_Occurred()) throw LeftToPaddle();
    return static_cast<T>(value);
  }
}

// What argument() returns for a parameter: tensors by reference, everything else by value.
template <typename T>
using Held = std::conditional_t<std::is_same_v<std::decay_t<T>, Tensor>, Tensor&, std::decay_t<T>>;

template <typename... Parameters, size_t... I>
std::vector<Tensor> call(std::vector<Tensor> (*function)(Parameters...), PyObject* const* objects,
                         std::index_sequence<I...>) {
  std::tuple<Held<Parameters>...> held{argument<Held<Parameters>>(objects[I], I)...};
  const InterpreterReleased released;
  return function(std::get<I>(held)...);
}

// A new reference, or null with Python's error set.
inline PyObject* to_list(const std::vector<Tensor>& tensors) {
  PyObject* list = PyList_New(tensors.size());
  for (size_t i = 0; list && i < tensors.size(); ++i) {
    PyObject* object = paddle::pybind::ToPyObject(tensors[i], false);
    if (object) {
      PyList_SET_ITEM(list, i, object);
    } else {
      Py_CLEAR(list);
    }
  }
  return list;
}

template <typename... Parameters>
PyObject* call_python(std::vector<Tensor> (*function)(Parameters...), PyObject* const* objects, Py_ssize_t count) {
  try {
    PD_CHECK(count == sizeof...(Parameters), "expected ", sizeof...(Parameters), " arguments, got ", count);
    return to_list(call(function, objects, std::index_sequence_for<Parameters...>()));
  } catch (const common::PD_Exception& error) {
    PyErr_SetString(PyExc_OSError, error.what());  // the type that Paddle's way raises
    return nullptr;
  } catch (...) {
    PyErr_Clear();
    Py_RETURN_NOTIMPLEMENTED;
  }
}

template <auto Function>
PyObject* direct(PyObject*, PyObject* const* objects, Py_ssize_t count) {
  return call_python(Function, objects, count);
}

inline std::vector<PyMethodDef>& direct_functions() {
  static std::vector<PyMethodDef> functions;
  return functions;
}

struct RegisterDirect {
  RegisterDirect(const char* name, PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t)) {
    direct_functions().push_back(
        {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(function)), METH_FASTCALL, nullptr});
  }
};

}  // namespace paddlemix_ops

// Offers the operator NAME, whose kernel is FUNCTION, on the short way as well.
#define PADDLEMIX_DIRECT(NAME, FUNCTION)                                                                               \
  static const paddlemix_ops::RegisterDirect direct_##NAME(#NAME, paddlemix_ops::direct<FUNCTION>)
#else
#define PADDLEMIX_WITH_PYTHON 0
#define PADDLEMIX_DIRECT(NAME, FUNCTION) static_assert(true, "")
#endif
