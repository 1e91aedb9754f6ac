"""Several processes over gloo, as forks of this one, which has imported Paddle once for all of them."""

from __future__ import annotations

import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from paddlemix.parallel.launch import free_ports, process_environment

SECONDS = 240
"""Time for all processes of a run; the machine may be busy with other tests."""


def run_processes(count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``work(*arguments)`` returns in each of ``count`` processes, by rank; ``work`` joins their group itself.

    A process that fails, or takes too long, ends the others.
    """
    import paddlenlp  # noqa: F401  # before the forks, each of which would take seconds for it

    ports = free_ports(count)
    with tempfile.TemporaryDirectory() as folder:
        children = {}
        for rank in range(count):
            child = os.fork()
            if child == 0:
                os.environ.update(process_environment(rank, count, ports, on_gpu=False))
                _become(Path(folder, str(rank)), work, arguments)
            children[child] = rank
        ended = _wait(children, time.monotonic() + SECONDS)
        failures = [path.read_text() for path in sorted(Path(folder).glob("*.error"))]
        assert not failures, "\n".join(failures)
        assert not ended, f"process {ended}"
        return [pickle.loads(Path(folder, str(rank)).read_bytes()) for rank in range(count)]


def _become(path: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> NoReturn:
    """Do the work of a process, leave its result or its error in a file, and end."""
    status = 1
    try:
        path.write_bytes(pickle.dumps(work(*arguments)))
        status = 0
    except BaseException:  # noqa: BLE001 - told by the parent
        path.with_suffix(".error").write_text(f"process {path.name}: {traceback.format_exc()}")
    finally:
        os._exit(status)


def _wait(children: dict[int, int], end: float) -> str:
    """Wait until all children have ended well ("" then), one has not, or the time is up; none is left."""
    left = set(children)
    try:
        while left and time.monotonic() < end:
            for child in list(left):
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    left.remove(child)
                    if status:
                        return f"{children[child]} ended with {os.waitstatus_to_exitcode(status)}"
            time.sleep(0.01)
        return f"{sorted(children[child] for child in left)} took more than {SECONDS} s" if left else ""
    finally:
        for child in left:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
