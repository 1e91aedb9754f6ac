"""Another implementation, timed in a process of its own, round by round with ours."""

from __future__ import annotations

import json
import shlex
import subprocess
import time

# A pool of threads that waits actively for its next work gives up within this many seconds.
SETTLE_SECONDS = 0.3


class Peer:
    """A process that times one round for every line it reads.

    It prints one line about itself when it is ready, and for every round a JSON object with lists of seconds per layer
    under the names of ``shapes.parts``. It ends with its input.
    """

    def __init__(self, command: str) -> None:
        self.command = command
        self.process = subprocess.Popen(
            shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
        )
        self.description = self._read_line().strip()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def time_round(self) -> dict[str, list[float]]:
        time.sleep(SETTLE_SECONDS)
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        times = json.loads(self._read_line())
        time.sleep(SETTLE_SECONDS)
        return times

    def _read_line(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            raise SystemExit(f"--peer: {self.command!r} ended with status {status} instead of printing a line")
        return line
