"""Between checkpoints and Paddle models: filling parameters from a checkpoint, and saving them as one."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigurationError
from ..utils.display import quoted
from ..utils.progress import Counter
from . import chunks, dtypes, layouts, writer
from .convert import file_metadata
from .readers import Checkpoint, raise_listed
from .shards import Shard
from .target import PROCESSOR_FILES, Guard, check_target, require_free


def load_into(
    model: Any,
    checkpoint: Checkpoint,
    dtype: str | None = None,
    *,
    strict: bool = True,
    check_finite: bool = True,
    elsewhere: Collection[str] = (),
    problems: Sequence[str] = (),
    counter: Counter | None = None,
    shards: Mapping[str, Shard] | None = None,
) -> list[str]:
    """Fill the parameters and buffers of ``model`` from a checkpoint of any layout.

    Values are converted to the type of each parameter. One tensor at a time; on the CPU chunk by chunk straight into
    the parameter.

    Args:
        model: a layer with our names.
        checkpoint: whose tensors are read.
        dtype: the type that the floating-point parameters must have been made in; ``None``: any.
        strict: refuse missing and unexpected tensors. Misshapen ones are refused in any case.
        check_finite: refuse NaN and infinity.
        elsewhere: names of ours for tensors that the caller takes care of.
        problems: what the caller found wrong with them, to be listed with the rest.
        counter: is told how many bytes of the files have been read.
        shards: the parts of weights that this process has of a split model.

    Returns:
        The names of the parameters that were not in the checkpoint, none if ``strict``.

    Raises:
        CheckpointError: with all missing, unexpected and misshapen tensors, before anything is written; at the end with
            those that hold NaN, infinity or values that do not fit.
    """
    from ..utils.paddle_internals import is_initialized

    shards = shards or {}
    parameters = model.state_dict()
    found = checkpoint.our_names()
    missing = [name for name in parameters if name not in found]
    problems = list(problems)
    if strict:
        problems += [f"{quoted(name)} is missing" for name in missing]
        known = {*parameters, *elsewhere}
        problems += [f"{quoted(theirs)} is not in the model" for ours, theirs in found.items() if ours not in known]
        unknown = (name for name in checkpoint.unknown_names() if name not in known)
        problems += [f"{quoted(name)} is not a weight of {checkpoint.table.family}" for name in unknown]
    for ours, parameter in parameters.items():
        if ours not in found:
            continue
        shape = checkpoint.shape(found[ours])
        transpose = checkpoint.table.is_transposed(ours, checkpoint.layout, layouts.PADDLE)
        whole = shards[ours].whole if ours in shards else tuple(parameter.shape)
        if tuple(shape[::-1] if transpose else shape) != whole:
            wanted = list(whole)[::-1] if transpose else list(whole)
            problems.append(f"{quoted(found[ours])} has shape {list(shape)}, expected {wanted}")
    raise_listed(f"{checkpoint.path}: does not fit the model", problems)

    not_finite = []
    for ours, parameter in parameters.items():
        if ours not in found:
            continue
        tag = _tag(parameter)
        if dtype is not None and tag in dtypes.FLOATING and tag != dtype:
            raise ConfigurationError(f"dtype: parameter {ours!r} is {tag}, expected {dtype}; make the model in {dtype}")
        if _fill(parameter, checkpoint, found[ours], ours, tag, check_finite, counter, shards.get(ours)):
            not_finite.append(
                f"{quoted(found[ours])} holds NaN or infinite values, or such that are too large for {tag}"
            )
    raise_listed(f"{checkpoint.path}: damaged", not_finite)
    for name in missing:
        if not is_initialized(parameters[name]):
            parameters[name].initialize()
    return missing


def check_config(checkpoint: Checkpoint, config: Any) -> None:
    """Compare a configuration with the headers of the weights, before anything is made from either.

    The weights of quantized layers are compared when they are read.

    Raises:
        CheckpointError: with all missing and misshapen float weights.
        ConfigurationError: fields that are no sizes.
    """
    table = checkpoint.table
    sizes, held = table.dimensions(config), table.layer_counts(checkpoint.names())
    problems = [
        f"{field} is {sizes[dimension]}, the weights are of {held[dimension]} layers"
        for dimension, field in table.layer_fields.items()
        if sizes[dimension] > held[dimension]
    ]
    expected = {} if checkpoint.packed else table.expected_shapes(config, checkpoint.layout)
    codes = {weight for weight, _ in checkpoint.bnb_layers().values()}
    problems += [
        f"{quoted(name)} has shape {list(checkpoint.shape(name))}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in checkpoint and name not in codes and checkpoint.shape(name) != shape
    ]
    gptq = checkpoint.gptq_layers()
    problems += [f"{name!r} is missing" for name in expected if name not in checkpoint and name not in gptq]
    raise_listed(f"{checkpoint.path}: does not fit config.json", problems)


def _tag(parameter: Any) -> str:
    return str(parameter.dtype).rsplit(".", 1)[-1]


def _fill(
    parameter: Any,
    checkpoint: Checkpoint,
    name: str,
    ours: str,
    tag: str,
    check_finite: bool,
    counter: Counter | None,
    shard: Shard | None,
) -> bool:
    """Fill one parameter; True if its values were to be checked and are not finite, or not in its type."""
    _allocate(parameter)
    stored, array = checkpoint.dtype(name), checkpoint.read(name)
    transpose = checkpoint.table.is_transposed(ours, checkpoint.layout, layouts.PADDLE)
    if shard is not None:
        array = shard.take(array, transpose)
    in_place = _has_memory(parameter)
    values = _memory(parameter, tag) if in_place else np.empty(parameter.shape, dtypes.STORAGE[tag])
    flat, done, damaged = values.reshape(-1), 0, False
    for piece in chunks.converted(array, transpose, stored, tag):
        flat[done : done + piece.size] = piece.reshape(-1)
        done += piece.size
        damaged = damaged or (check_finite and dtypes.count_non_finite(piece, tag) > 0)
        if counter is not None:
            counter.add(piece.size * array.itemsize)
    if not in_place:
        parameter.set_value(values)
    return damaged


def _allocate(parameter: Any) -> None:
    """Give memory to a parameter that was made under ``paddle.LazyGuard``; its initial values are never computed."""
    from ..utils.paddle_internals import allocate, is_initialized

    if not is_initialized(parameter):
        allocate(parameter)


def _values(parameter: Any, tag: str) -> np.ndarray:
    """The values of a tensor (bfloat16 as uint16): on the CPU its memory, so that large ones are not copied."""
    return _memory(parameter, tag) if _has_memory(parameter) else parameter.numpy()


def _has_memory(tensor: Any) -> bool:
    """Whether the elements of a tensor lie one after the other in memory that can be reached."""
    return bool(tensor.place.is_cpu_place() and tensor.is_contiguous() and tensor.data_ptr())


def _memory(parameter: Any, tag: str) -> np.ndarray:
    """The memory of a contiguous CPU tensor as an array (bfloat16 as uint16); valid while the tensor lives."""
    kind = dtypes.STORAGE[tag]
    size = int(np.prod(parameter.shape)) * kind.itemsize
    buffer = (ctypes.c_char * size).from_address(parameter.data_ptr())
    return np.frombuffer(memoryview(buffer), kind).reshape(parameter.shape)


def save_model(
    model: Any,
    folder: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    max_shard_bytes: int = writer.DEFAULT_SHARD_BYTES,
    overwrite: bool = False,
    side_files: writer.SideFiles | None = None,
) -> dict[str, Any]:
    """Write the parameters of ``model`` as our safetensors into ``folder``, as they are or as ``dtype``; returns the
    manifest. ``side_files`` are written with them. Written aside and renamed: a failure (CheckpointError) leaves the
    folder as it was. A folder that holds anything but a processor's files is refused (TargetError), unless it is an
    earlier result and ``overwrite`` says that it may go. Quantized weights are written as they are; with them a
    ``dtype`` is refused (ConfigurationError).
    """
    guard = partial(require_free, overwrite=overwrite, companions=PROCESSOR_FILES)
    return write_model(
        model, check_target(folder), dtype=dtype, max_shard_bytes=max_shard_bytes, side_files=side_files, guard=guard
    )


def write_model(
    model: Any,
    folder: Path,
    *,
    dtype: str | None = None,
    max_shard_bytes: int = writer.DEFAULT_SHARD_BYTES,
    side_files: writer.SideFiles | None = None,
    guard: Guard | None = None,
    joins: Mapping[str, tuple[layouts.Shape, Callable[[], np.ndarray]]] | None = None,
) -> dict[str, Any]:
    """As :func:`save_model`, into a folder of which the caller knows that it may be written to, or that ``guard`` is
    asked about. ``joins``: shapes of whole weights of which the model has parts, and what puts each together; called
    once each, in the order of the model.
    """
    state = model.state_dict()
    packed = any(name.endswith(".qweight") for name in state)
    if dtype is not None:
        dtypes.check_target(dtype)
        if packed:
            raise ConfigurationError(f"dtype: got {dtype!r}, but a quantized model is saved as it is; leave it out")
    sources = []
    for name, parameter in state.items():
        tag = _tag(parameter)
        wanted = dtype if dtype is not None and tag in dtypes.FLOATING else tag

        own = tuple(parameter.shape), partial(_values, parameter, tag)
        shape, read = own if joins is None else joins.get(name, own)

        def pieces(read: Callable[[], np.ndarray] = read, tag: str = tag, wanted: str = wanted) -> Iterator[np.ndarray]:
            return chunks.converted(read(), False, tag, wanted)

        sources.append(writer.TensorSource(name, shape, wanted, pieces))
    metadata = file_metadata(layouts.PADDLE)
    if packed:
        metadata[layouts.PACKING_MARKER] = layouts.PACKING
        # The files get mapped, and lines of 64 bytes should begin at multiples of 64, as a file's first tensor does.
        sources.sort(key=lambda source: source.nbytes % 64 != 0)
    return writer.write_checkpoint(
        folder,
        sources,
        metadata,
        side_files=side_files,
        max_shard_bytes=max_shard_bytes,
        guard=guard,
        companions=PROCESSOR_FILES,
    )
