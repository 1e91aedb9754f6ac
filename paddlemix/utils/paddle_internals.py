"""What is used of Paddle beyond its public interface, so that an upgrade of Paddle has one place to break."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import paddle
import paddle.distributed as dist
from paddle import _C_ops
from paddle.base import core
from paddle.distributed import collective

TRACED_TYPES: tuple[type, ...] = (paddle.pir.Value, paddle.base.framework.Variable)
"""Types of tensors in programs that are traced instead of run."""

linear: Callable[..., paddle.Tensor] = _C_ops.linear
"""``linear(x, weight, bias)``, as ``F.linear`` in dynamic mode on a CPU, without its look-ups of global flags."""

matmul: Callable[..., paddle.Tensor] = _C_ops.matmul
"""``matmul(x, weight)``, what ``F.linear`` comes to on a GPU, without its look-ups of global flags."""

embedding: Callable[..., paddle.Tensor] = _C_ops.embedding
"""``embedding(ids, weight, -1, False)``, as ``F.embedding`` without a padding id or sparse gradients."""

run_custom_op: Callable[..., Any] = _C_ops._run_custom_op  # type: ignore[attr-defined]  # in no stub
"""``run_custom_op(name, *arguments)`` calls a registered custom operator."""

set_num_threads: Callable[[int], None] = core.set_num_threads
"""Threads of Paddle's own matrix products."""


# ---------------------------------------------------------------------------------------------------- tensors


def paddle_dtype(name: str) -> paddle.dtype:
    """Paddle's dtype of this name, as ``"float32"``; its stubs take only names that are literals."""
    return getattr(paddle, name)


def is_initialized(tensor: paddle.Tensor) -> bool:
    """Whether a tensor has memory; parameters made under ``paddle.LazyGuard`` have none at first."""
    return tensor._is_initialized()


def allocate(tensor: paddle.Tensor) -> None:
    """Give a tensor memory of its shape and dtype, with any values."""
    paddle.empty(tensor.shape, tensor.dtype)._share_buffer_to(tensor)


def shared(array: Any) -> paddle.Tensor:
    """A tensor on the CPU in the memory of a NumPy array."""
    return paddle.utils.dlpack.from_dlpack(array)


def overwrite(tensor: Any, array: Any) -> None:
    """Copy a NumPy array into a tensor of its shape and dtype on any device; the tensor keeps its memory."""
    tensor.copy_(paddle.to_tensor(array, place=paddle.CPUPlace()), False)


def pinned_copy(tensor: Any) -> paddle.Tensor:
    """A copy of a GPU's tensor in the host's memory, which is complete when the work launched so far is done."""
    return tensor._copy_to(paddle.CUDAPinnedPlace(), False)


def has_hooks(layer: paddle.nn.Layer) -> bool:
    """Whether something is to be called before or after the forward pass of a layer."""
    return bool(layer._forward_pre_hooks or layer._forward_post_hooks)


def entries(layer: paddle.nn.Layer) -> tuple[dict[str, Any], ...]:
    """The dictionaries of a layer's own sublayers, parameters and buffers, by name; they follow every change."""
    return layer._sub_layers, layer._parameters, layer._buffers


# ---------------------------------------------------------------------------------------------------- optimizers


def create_accumulators(optimizer: Any, parameters: Sequence[paddle.Tensor]) -> None:
    """Make the state of an optimizer for these parameters before its first step."""
    block = paddle.static.default_main_program().global_block()  # what the optimizer itself passes, and does not use
    innermost(optimizer)._create_accumulators(block, list(parameters))


def accumulators(optimizer: Any) -> Mapping[str, Mapping[str, paddle.Tensor]]:
    """The state of an optimizer: its kind, such as ``moment1``, -> name of a parameter's weight -> values."""
    return innermost(optimizer)._accumulators


def master_weights(optimizer: Any) -> Mapping[str, paddle.Tensor]:
    """Name of a 16-bit parameter -> the float32 copy that its optimizer works on."""
    return innermost(optimizer)._master_weights


def updated_parameters(optimizer: Any) -> list[paddle.Tensor]:
    """The parameters that an optimizer updates in this process, also where Fleet shares them out."""
    return list(innermost(optimizer)._parameter_list)


def innermost(optimizer: Any) -> Any:
    """The optimizer that Fleet's stand around."""
    while hasattr(optimizer, "_inner_opt"):
        optimizer = optimizer._inner_opt
    return optimizer


# ---------------------------------------------------------------------------------------------------- processes


@contextlib.contextmanager
def groups_made_in_turn() -> Iterator[None]:
    """Process groups that are made in this context are made one after the other by all processes, over gloo each with
    a store of its own.

    Over gloo processes tell each other their addresses under keys that are the same for all groups, so that one that is
    early finds the address of an earlier group.
    """
    new_group, default = dist.new_group, collective._default_store
    stores: list[Any] = []  # that of the first process serves the others, until all are done

    def waiting(*arguments: Any, **options: Any) -> Any:
        dist.barrier()
        if collective._default_backend == "gloo":
            stores.append(_new_store())
            collective._default_store = stores[-1]
        return new_group(*arguments, **options)

    dist.new_group = waiting
    try:
        yield
        dist.barrier()
    finally:
        dist.new_group, collective._default_store = new_group, default


_store_numbers = itertools.count()


def _new_store() -> Any:
    """A store that all processes share, beside the global one; it lives in the first process."""
    shared, key = global_store(), f"paddlemix/stores/{next(_store_numbers)}"
    master = os.environ.get("PADDLE_MASTER") or os.environ["PADDLE_TRAINER_ENDPOINTS"].split(",")[0]
    host = master.rpartition(":")[0]
    if dist.get_rank() > 0:
        return core.TCPStore(host, int(bytes(shared.get(key))), False, 1)
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    store = core.TCPStore(host, port, True, 1)
    shared.set(key, str(port))  # when it listens: who comes early would wait for seconds
    return store


def current_place() -> Any:
    """The device that tensors are made on."""
    return paddle.framework._current_expected_place()


def global_store() -> Any:
    """The key-value store that the processes of a distributed launch share."""
    return core.create_or_get_global_tcp_store()


def generators() -> list[Any]:
    """Paddle's generators of random numbers in this process: the CPU's and that of the current GPU."""
    found = [core.default_cpu_generator()]
    place = current_place()
    if place.is_gpu_place():
        found.append(core.default_cuda_generator(place.gpu_device_id()))
    return found
