"""What the first process of a group tells the others to do, one command after the other.

A command is JSON and arrays as they are; nothing is unpickled. While there is nothing to do a beat goes out every few
seconds: over gloo a process that waits for longer than 30 seconds gives up.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist

from ..errors import EngineError, ImageError, PromptError
from .group import TensorParallelGroup

logger = logging.getLogger(__name__)

BEAT = {"do": "nothing"}
END = {"do": "end"}
BEAT_SECONDS = 10.0
_FIRST = 4096
"""Bytes that are sent at once; what does not fit into them follows."""
_LENGTH = 8
_LAST_WORDS_SECONDS = 1.0
"""In which whoever watches the processes ends this one with what a lost one said last, rather than with the loss."""
MISTAKES = (ImageError, PromptError)
"""What a command may raise in every process alike, before they have told each other anything."""


class CommandChannel:
    """One way, from the first process of a group to all others.

    Args:
        group: every process makes a channel of it.
    """

    def __init__(self, group: TensorParallelGroup) -> None:
        self._group = group
        self._turn = threading.RLock()
        self._latest = time.monotonic()
        self._failure: BaseException | None = None
        self._closed = threading.Event()
        if group.rank == 0:
            threading.Thread(target=self._beat, args=(paddle.get_device(),), name="beat", daemon=True).start()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """A command and what this process does itself of it; an interrupt waits until that is done.

        Raises:
            EngineError: the processes are not in step any more.
        """
        with self._turn, _interrupts_deferred():
            if self._failure is not None:
                raise EngineError("tensor_parallel: a process is lost; start again") from self._failure
            try:
                yield
            except MISTAKES:
                raise
            except Exception as error:
                self._failure = error
                time.sleep(_LAST_WORDS_SECONDS)
                raise EngineError(
                    f"tensor_parallel: the processes are not in step any more ({type(error).__name__}); start again"
                ) from error
            finally:
                self._latest = time.monotonic()

    def send(self, command: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
        """Tell the others to do something."""
        content = encode(command, arrays)
        first = len(content).to_bytes(_LENGTH, "little") + content[: _FIRST - _LENGTH]
        self._broadcast(first.ljust(_FIRST, b"\0"))
        if len(content) > _FIRST - _LENGTH:
            self._broadcast(content[_FIRST - _LENGTH :])

    def receive(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        """The next command, and its arrays."""
        while True:
            first = self._receive(_FIRST)
            length = int.from_bytes(first[:_LENGTH], "little")
            content = first[_LENGTH : _LENGTH + length]
            if length > len(content):
                content += self._receive(length - len(content))
            command, arrays = decode(content)
            if command != BEAT:
                return command, arrays

    def close(self) -> None:
        """Let the others end, if they are still in step."""
        self._closed.set()
        if self._turn.acquire(timeout=1):
            with contextlib.suppress(Exception):
                if self._failure is None:
                    self.send(END)
            self._failure = EngineError("tensor_parallel: the processes have ended")
            self._turn.release()

    def _broadcast(self, content: bytes) -> None:
        tensor = paddle.to_tensor(np.frombuffer(content, np.uint8))
        dist.broadcast(tensor, self._group.first_rank(), self._group.group)

    def _receive(self, count: int) -> bytes:
        tensor = paddle.zeros([count], "uint8")
        dist.broadcast(tensor, self._group.first_rank(), self._group.group)
        received: bytes = tensor.numpy().tobytes()
        return received

    def _beat(self, device: str) -> None:
        paddle.set_device(device)
        while not self._closed.wait(BEAT_SECONDS / 4):
            if time.monotonic() - self._latest < BEAT_SECONDS:
                continue
            try:
                with self.turn():
                    self.send(BEAT)
            except Exception as error:  # noqa: BLE001 - whoever uses the channel next is told
                logger.debug("no beat: %s", error)
                return


def encode(command: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> bytes:
    """A command and its arrays as bytes."""
    shapes = [[str(array.dtype), list(array.shape)] for array in arrays]
    head = json.dumps([command, shapes]).encode()
    parts = [len(head).to_bytes(_LENGTH, "little"), head, *(np.ascontiguousarray(array).tobytes() for array in arrays)]
    return b"".join(parts)


def decode(content: bytes) -> tuple[dict[str, Any], list[np.ndarray]]:
    """What :func:`encode` made bytes of."""
    start = _LENGTH + int.from_bytes(content[:_LENGTH], "little")
    command, shapes = json.loads(content[_LENGTH:start])
    arrays = []
    for dtype, shape in shapes:
        count = int(np.prod(shape))
        arrays.append(np.frombuffer(content, dtype, count, start).reshape(shape))
        start += arrays[-1].nbytes
    return command, arrays


@contextlib.contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Ctrl-C within takes effect at the end: in the midst of a pass the other processes would wait for this one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pending.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pending:
            signal.raise_signal(signal.SIGINT)
