"""Run by test_convert_memory.py: convert FOLDER to OUTPUT and print the peak of anonymous memory in bytes.

Anonymous memory is what the process itself needs; pages of mapped files, which the system can drop, do not count.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path


def anonymous_memory() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no RssAnon in /proc/self/status")


def main() -> None:
    stopped = threading.Event()
    peak = [0]

    def watch() -> None:
        while not stopped.wait(0.01):
            peak[0] = max(peak[0], anonymous_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        from tests.checkpoint.building import convert_checkpoint

        convert_checkpoint(sys.argv[1], sys.argv[2], sys.argv[3])
    finally:
        stopped.set()
        watcher.join()
    print(max(peak[0], anonymous_memory()))


if __name__ == "__main__":
    main()
