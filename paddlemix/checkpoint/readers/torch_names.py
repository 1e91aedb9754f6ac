"""What the pickle of torch's weights may name beside tensors, and what stands for it here.

The same that ``torch.load(weights_only=True)`` takes, as far as files of weights hold it: parameters and tensors with
attributes are read as the tensors that they are; shapes, dtypes, devices and sets may occur and mean nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from .pickle_machine import Constructor, Symbol
from .tensor import is_shape

#: torch's storages and their element types
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_DTYPES = (
    "float64 float32 float16 bfloat16 double float half int64 int32 int16 int8 uint8 long int short bool "
    "complex64 complex128"
).split()


def _ordered_dict() -> OrderedDict[str, Any]:
    return OrderedDict()


def _parameter(data: Any, *_: Any) -> Any:
    """A parameter: its tensor, whether it has a gradient, hooks and attributes."""
    return data


def _size(dims: Any) -> tuple[int, ...]:
    if not is_shape(dims):
        raise ValueError("torch.Size of something that is no shape")
    return tuple(dims)


def _set(items: Any = ()) -> set[Any]:
    # Only these are hashed without looking into them.
    if not isinstance(items, (list, tuple)) or not all(type(item) in (str, int) for item in items):
        raise TypeError("set of something else than text and integers")
    return set(items)


def _device(*_: Any) -> Symbol:
    return Symbol("torch", "device")


#: (module, name) -> what stands for it; None: it may be named but not called
TORCH_NAMES: dict[tuple[str, str], Constructor] = {
    **{("torch", name): None for name in (*STORAGES, *_DTYPES, "Tensor", "strided")},
    ("torch", "Size"): _size,
    ("torch", "device"): _device,
    ("torch.nn.parameter", "Parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch.serialization", "_get_layout"): lambda *_: Symbol("torch", "strided"),
    ("collections", "OrderedDict"): _ordered_dict,
    ("__builtin__", "set"): _set,
    ("builtins", "set"): _set,
}


def means_nothing(value: Any) -> bool:
    """Whether a value beside tensors is one of those: a shape, a set, or a dtype or device."""
    return isinstance(value, (Symbol, set)) or (isinstance(value, tuple) and is_shape(value))


def rebuild_with(allowed: Mapping[tuple[str, str], Constructor]) -> Callable[..., Any]:
    """What stands for torch's ``_rebuild_from_type_v2``, as which tensors with attributes are saved: a function, the
    type of its result, its arguments, and the attributes.
    """

    def rebuild(function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
        constructor = allowed.get((function.module, function.name)) if isinstance(function, Symbol) else None
        if constructor is None or not isinstance(kind, Symbol) or not isinstance(arguments, tuple):
            raise TypeError("tensor of a type that is not read")
        return constructor(*arguments)

    return rebuild
