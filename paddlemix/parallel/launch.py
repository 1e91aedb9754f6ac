"""Starting the other processes of a tensor parallel model on this machine, and ending with them.

This process is the first one. The others end when it does, whatever ends it: they read a pipe that it holds open. When
one of them ends by itself, this process says so in one line and ends, too.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO, BinaryIO

FAILED = 1
_CLOSING_SECONDS = 10.0
_LINE = 2000
"""Most characters of a process's last words."""


def launched() -> int:
    """How many processes ``paddle.distributed.launch``, or :func:`start_processes`, has started; 1: none."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM") or 1)


def process_environment(rank: int, count: int, ports: Sequence[int], on_gpu: bool) -> dict[str, str]:
    """What ``paddle.distributed.launch`` tells a process of one machine.

    Args:
        rank: of the process.
        count: number of processes.
        ports: free ones, as many as processes.
        on_gpu: each process has the GPU of its rank, instead of all sharing the CPU.
    """
    endpoints = [f"127.0.0.1:{port}" for port in ports]
    environment = {
        "PADDLE_MASTER": endpoints[0],
        "PADDLE_TRAINER_ID": str(rank),
        "PADDLE_RANK_IN_NODE": str(rank),
        "PADDLE_TRAINERS_NUM": str(count),
        "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
        "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
        "GLOO_SOCKET_IFNAME": "lo",
    }
    return {**environment, **({"FLAGS_selected_gpus": str(rank)} if on_gpu else {"PADDLE_DISTRI_BACKEND": "gloo"})}


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens on."""
    listeners = [socket.socket() for _ in range(count)]
    try:
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()


def start_processes(count: int, program: Sequence[str], message: bytes, on_gpu: bool) -> Processes:
    """Start all processes but this one, which becomes the first.

    Args:
        count: number of processes, with this one.
        program: command line of the others.
        message: a line for their standard input.
        on_gpu: see :func:`process_environment`.
    """
    ports = free_ports(count)
    processes = Processes(count)
    for rank in range(1, count):
        environment = {**os.environ, **process_environment(rank, count, ports, on_gpu)}
        processes.start(rank, program, environment, message)
    os.environ.update(process_environment(0, count, ports, on_gpu))
    return processes


class Processes:
    """The processes that this one has started.

    Args:
        count: number of processes, with this one.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._children: list[subprocess.Popen[bytes]] = []
        self._watchers: list[threading.Thread] = []
        self._closing = threading.Event()
        atexit.register(self.close)

    def start(self, rank: int, program: Sequence[str], environment: dict[str, str], message: bytes) -> None:
        """Start one; Ctrl-C at the terminal does not reach it."""
        child = subprocess.Popen(
            program, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        self._children.append(child)
        watcher = threading.Thread(target=self._watch, args=(rank, child), name=f"process {rank}", daemon=True)
        self._watchers.append(watcher)
        watcher.start()
        if child.stdin is not None:
            child.stdin.write(message + b"\n")
            child.stdin.flush()

    def close(self) -> None:
        """End all of them."""
        self._closing.set()
        for child in self._children:
            if child.stdin is not None and not child.stdin.closed:
                child.stdin.close()
        for child in self._children:
            try:
                child.wait(_CLOSING_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        for watcher in self._watchers:
            watcher.join(_CLOSING_SECONDS)

    def _watch(self, rank: int, child: subprocess.Popen[bytes]) -> None:
        """Wait for the end of a process; one that comes unasked ends this process as well."""
        words = _last_words(child.stderr)
        status = child.wait()
        if self._closing.is_set():
            return
        why = words.removeprefix("error: ") or f"it ended with status {status}"
        sys.stdout.flush()
        sys.stderr.write(f"error: tensor_parallel: process {rank} of {self._count} is lost: {why}\n")
        sys.stderr.flush()
        os._exit(FAILED)  # this process may be waiting for the lost one


def _last_words(stream: IO[bytes] | None) -> str:
    """The last line of a stream that tells of an error, else the last one, once it ends."""
    last, error = b"", b""
    for line in stream or ():
        last = line if line.strip() else last
        error = line if line.startswith(b"error: ") else error
    return (error or last).decode("utf-8", "replace").strip()[:_LINE]


def end_with_parent(stream: BinaryIO) -> None:
    """Let this process end as soon as the first one, which holds the other end of ``stream``, has ended."""
    descriptor = stream.fileno()

    def wait() -> None:
        while os.read(descriptor, 4096):  # a buffered stream would be locked when this process ends by itself
            pass
        os._exit(0)

    threading.Thread(target=wait, name="first process", daemon=True).start()
