"""Checks of operators' arguments that hold on every backend. Each error names operator, argument, and what came.

The fused kernels check for themselves what reaches them as tensors of Paddle; plain Paddle would compute something
else, or read beyond its tensors. Shapes of programs that are being traced are checked as far as they are known.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle

from ..errors import OperatorError
from ..utils.paddle_internals import TRACED_TYPES

_INT64 = 1 << 63


@paddle.jit.not_to_static
def is_tensor(value: object) -> bool:
    """Whether this is a tensor, or stands for one in a program that is being traced."""
    return isinstance(value, (paddle.Tensor, *TRACED_TYPES))


def integers(tensor: paddle.Tensor) -> list[int]:
    """The elements of a one-dimensional tensor of integers."""
    return tensor.numpy().tolist()


@paddle.jit.not_to_static
def check_tensors(operator: str, **tensors: object) -> None:
    """Refuse what is no tensor, ``None`` included."""
    for name, value in tensors.items():
        if not is_tensor(value):
            raise OperatorError(f"{operator}: {name} must be a tensor, got {_described(value)}")


@paddle.jit.not_to_static
def check_optional(operator: str, **tensors: object) -> None:
    """Refuse what is neither a tensor nor ``None``."""
    check_tensors(operator, **{name: value for name, value in tensors.items() if value is not None})


@paddle.jit.not_to_static
def check_shape(operator: str, name: str, tensor: paddle.Tensor, expected: Sequence[int | None]) -> None:
    """Refuse another shape; ``None`` and what is not known while a program is traced fit everything."""
    shape = list(tensor.shape)
    unknown = (None, -1)
    fits = all(
        want in unknown or have == want or (have == -1 and not paddle.in_dynamic_mode())
        for have, want in zip(shape, expected)
    )
    if len(shape) != len(expected) or not fits:
        wanted = ", ".join("any" if size in unknown else str(size) for size in expected)
        raise OperatorError(f"{operator}: {name} has shape {shape}, expected [{wanted}]")


@paddle.jit.not_to_static
def check_dtype(operator: str, name: str, tensor: paddle.Tensor, *dtypes: paddle.dtype) -> None:
    """Refuse another dtype."""
    if tensor.dtype not in dtypes:
        wanted = " or ".join(dtype_name(dtype) for dtype in dtypes)
        raise OperatorError(f"{operator}: {name} is {dtype_name(tensor.dtype)}, expected {wanted}; cast it")


@paddle.jit.not_to_static
def check_floating(operator: str, name: str, tensor: paddle.Tensor) -> None:
    """Refuse integers, booleans and complex numbers."""
    check_dtype(operator, name, tensor, paddle.float32, paddle.float64, paddle.float16, paddle.bfloat16)


@paddle.jit.not_to_static
def check_like(operator: str, x: paddle.Tensor, **tensors: paddle.Tensor | None) -> None:
    """Refuse tensors (``None`` passes) whose shape or dtype is not that of ``x``."""
    for name, tensor in tensors.items():
        if tensor is not None:
            check_shape(operator, name, tensor, x.shape)
            check_dtype(operator, name, tensor, x.dtype)


@paddle.jit.not_to_static
def check_features(operator: str, x: paddle.Tensor, width: int, **tensors: paddle.Tensor | None) -> None:
    """Refuse tensors (``None`` passes) that are not ``[width]`` in the dtype of ``x``."""
    for name, tensor in tensors.items():
        if tensor is not None:
            check_shape(operator, name, tensor, [width])
            check_dtype(operator, name, tensor, x.dtype)


@paddle.jit.not_to_static
def check_index(operator: str, name: str, index: paddle.Tensor, shape: Sequence[int | None]) -> None:
    """Refuse anything but int32 of this shape."""
    check_shape(operator, name, index, shape)
    check_dtype(operator, name, index, paddle.int32)


@paddle.jit.not_to_static
def last_axis(operator: str, name: str, x: paddle.Tensor) -> int:
    """Size of the last axis."""
    if not is_tensor(x):
        raise OperatorError(f"{operator}: {name} must be a tensor, got {_described(x)}")
    if not x.ndim:
        raise OperatorError(f"{operator}: {name} must have at least one axis, got shape []")
    return x.shape[-1]


@paddle.jit.not_to_static
def can_be_read(tensor: paddle.Tensor) -> bool:
    """Whether a tensor's values can be looked at without waiting for a device."""
    return isinstance(tensor, paddle.Tensor) and tensor.place.is_cpu_place()


@paddle.jit.not_to_static
def check_range(operator: str, name: str, index: paddle.Tensor, limit: int) -> None:
    """Refuse indices outside of ``0 … limit - 1``, where they :func:`can be read <can_be_read>`."""
    if not can_be_read(index):
        return
    values = index.numpy()
    outside = values[(values < 0) | (values >= limit)]
    if outside.size:
        raise OperatorError(f"{operator}: {name} has {outside.flat[0]}, expected 0 to {limit - 1}")


@paddle.jit.not_to_static
def check_arguments(name: str, arguments: Sequence[object]) -> None:
    """Refuse arguments that a registered operator cannot be called with: their number, and what is no tensor or number.

    Paddle passes them on unchecked, and ends the process where one is missing.
    """
    operator = name.removeprefix("paddlemix_")
    parameters = PARAMETERS.get(name)
    if parameters is None:
        raise OperatorError(f"{operator}: there is no such operator")
    if len(arguments) != len(parameters):
        raise OperatorError(f"{operator}: expected {len(parameters)} arguments, got {len(arguments)}")
    for (parameter, kind), value in zip(parameters, arguments):
        if not _FITS[kind](value):
            raise OperatorError(f"{operator}: {parameter} must be {_WANTED[kind]}, got {_described(value)}")


def dtype_name(dtype: object) -> str:
    """``"float32"`` and the like."""
    return str(dtype).rpartition(".")[2]


def _described(value: object) -> str:
    if value is None:
        return "None"
    return f"{value!r}" if isinstance(value, (bool, int, float)) else f"a {type(value).__name__}"


def _parameters(text: str) -> tuple[tuple[str, str], ...]:
    """``"x bias? epsilon:float"``: a tensor, one that may be None, and a number."""
    parameters = []
    for word in text.split():
        name, _, kind = word.partition(":")
        parameters.append((name.rstrip("?"), kind or ("optional" if name.endswith("?") else "tensor")))
    return tuple(parameters)


_FITS = {
    "tensor": is_tensor,
    "optional": lambda value: value is None or is_tensor(value),
    "float": lambda value: isinstance(value, (int, float)),
    "int": lambda value: isinstance(value, int) and -_INT64 <= value < _INT64,
    "str": lambda value: isinstance(value, str),
}
_WANTED = {
    "tensor": "a tensor",
    "optional": "a tensor or None",
    "float": "a number",
    "int": "an integer of 64 bits",
    "str": "a string",
}

_ATTENTION = "query key value kv_lengths query_starts? kv_starts? block_table? mask?"
_LOW_BIT = "x weight scales bias? in_features:int out_features:int"
_GATED = "x gate gate_scales up up_scales in_features:int out_features:int"
_UNPACKED = "weight scales in_features:int out_features:int"

PARAMETERS = {
    f"paddlemix_{name}": _parameters(text)
    for name, text in {
        "rms_norm": "x weight epsilon:float",
        "add_rms_norm": "x residual weight epsilon:float",
        "layer_norm": "x weight bias epsilon:float",
        "add_layer_norm": "x residual weight bias epsilon:float",
        "swiglu": "gate up",
        "swiglu_packed": "gate",
        "gelu": "x",
        "gelu_bias": "x bias",
        "rotary_qkv": "qkv bias? cos sin positions logn? table_index? heads:int",
        "rotary_qkv_cache": "qkv bias? cos sin positions key_cache value_cache slots lengths? block_table? logn? "
        "table_index? heads:int",
        "attention_prefill": _ATTENTION,
        "attention_decode": _ATTENTION,
        "attention_interleaved": "qkv heads:int",
        "linear_w16": "x weight bias? in_features:int out_features:int",
        "linear": "x weight bias?",
        "swiglu_w16": "x gate up in_features:int out_features:int",
        "swiglu_w8": _GATED,
        "swiglu_w4": _GATED,
        "linear_w8": _LOW_BIT,
        "linear_w4": _LOW_BIT,
        "linear_nf4": "x weight scales nested bias? in_features:int out_features:int",
        "pack_w16": "w dtype:str",
        "pack_w8": "q",
        "pack_w4": "q",
        "quantize_w8": "w groups:int",
        "quantize_w4": "w groups:int",
        "quantize_nf4": "w",
        "dequantize_nf4": "weight scales nested in_features:int out_features:int",
        "dequantize_w16": "weight in_features:int out_features:int",
        "dequantize_w8": _UNPACKED,
        "dequantize_w4": _UNPACKED,
    }.items()
}
"""What each registered operator takes: names and kinds, in order (``external_ops/paddle``)."""
