// A short way from Python to an operator's function, for calls that need neither a gradient nor a traced program.
//
// Paddle's own way to a custom operator takes 6 to 10 microseconds of its own in every call, as long as the whole work
// on one token of a small model, and more the more operators are registered. A function of CPython's vectorcall kind
// takes less than one. Tensors that are not contiguous are left to Paddle's way, which copies them.
#pragma once

#include "common.h"

#if __has_include(<Python.h>)
#define PADDLEMIX_WITH_PYTHON 1
#include <Python.h>

#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "paddle/utils/pybind.h"

namespace paddlemix_ops {

struct LeftToPaddle {};

inline Tensor& plain_tensor(PyObject* object, Py_ssize_t position) {
  Tensor& tensor = paddle::pybind::CastPyArg2Tensor(object, position);
  if (!tensor.initialized() || !tensor.is_contiguous()) throw LeftToPaddle();
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
    if (PyErr_Occurred()) throw std::invalid_argument("expected a number");
    return static_cast<T>(value);
  } else {
    static_assert(std::is_integral_v<Value>, "no conversion for this type of argument");
    const long long value = PyLong_AsLongLong(object);
    if (PyErr_Occurred()) throw std::invalid_argument("expected an integer");
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
  return function(std::get<I>(held)...);
}

template <typename... Parameters>
PyObject* call_python(std::vector<Tensor> (*function)(Parameters...), PyObject* const* objects, Py_ssize_t count) {
  try {
    if (count != sizeof...(Parameters)) throw std::invalid_argument("wrong number of arguments");
    const std::vector<Tensor> outputs = call(function, objects, std::index_sequence_for<Parameters...>());
    PyObject* list = PyList_New(outputs.size());
    for (size_t i = 0; list && i < outputs.size(); ++i) {
      PyList_SET_ITEM(list, i, paddle::pybind::ToPyObject(outputs[i]));
    }
    return list;
  } catch (const LeftToPaddle&) {
    Py_RETURN_NOTIMPLEMENTED;
  } catch (const std::exception& error) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_OSError, error.what());  // the type that Paddle's way raises
    return nullptr;
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
    direct_functions().push_back({name, reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(function)),
                                  METH_FASTCALL, nullptr});
  }
};

}  // namespace paddlemix_ops

// Offers the operator NAME, whose kernel is FUNCTION, on the short way as well.
#define PADDLEMIX_DIRECT(NAME, FUNCTION) \
  static const paddlemix_ops::RegisterDirect direct_##NAME(#NAME, paddlemix_ops::direct<FUNCTION>)
#else
#define PADDLEMIX_WITH_PYTHON 0
#define PADDLEMIX_DIRECT(NAME, FUNCTION) static_assert(true, "")
#endif
