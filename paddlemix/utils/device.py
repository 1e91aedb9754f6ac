"""Which device a model runs on."""

from __future__ import annotations

import re

from ..errors import ConfigurationError
from .dependencies import require


def resolve_device(device: str | None, argument: str = "device") -> str:
    """``cpu`` or ``gpu:N`` for ``"cpu"``, ``"gpu"``, ``"gpu:N"``, or ``None``: the first GPU if there is one.

    Args:
        device: what was asked for.
        argument: its name in messages.

    Raises:
        ConfigurationError: another name, or a GPU that Paddle does not see.
    """
    match = re.fullmatch(r"cpu|gpu(?::([0-9]{1,9}))?", device) if isinstance(device, str) else None
    if device is not None and match is None:
        raise ConfigurationError(f"{argument}: got {device!r:.80}, expected 'cpu', 'gpu' or 'gpu:N'")
    if device == "cpu":
        return "cpu"
    paddle = require("paddle", "running a model")
    has_cuda = paddle.device.is_compiled_with_cuda()
    count = paddle.device.cuda.device_count() if has_cuda else 0
    if match is None:
        return "gpu:0" if count else "cpu"
    number = int(match[1] or 0)
    if number >= count:
        built = "" if has_cuda else ", being built for the CPU only"
        raise ConfigurationError(f"{argument}: got {device!r}, but this Paddle sees {count} GPU(s){built}; use 'cpu'")
    return f"gpu:{number}"


def free_gpu_memory() -> int:
    """Bytes of the current GPU that tensors may still take: what nobody has, and what Paddle keeps and does not use."""
    import paddle

    cuda = paddle.device.cuda
    kept = cuda.memory_reserved() - cuda.memory_allocated()
    query = getattr(getattr(paddle, "cuda", None), "mem_get_info", None)  # since Paddle 3.3
    if query is None:
        return cuda.get_device_properties().total_memory - cuda.memory_allocated()
    return query()[0] + kept
