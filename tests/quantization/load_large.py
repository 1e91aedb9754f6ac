"""Run by test_loading_memory.py: load FOLDER as QUANTIZATION ("" for as it is) and print its anonymous memory as JSON.

``before`` with everything imported, ``peak`` while loading, ``after`` it, in bytes. Pages of mapped files, which the
system can drop, do not count. With a third argument the model is then saved there.
"""

from __future__ import annotations

import json
import sys
import threading

from tests.checkpoint.convert_large import anonymous_memory

CHUNK = 1 << 20
"""Elements of a strip: an eighth of the usual size, as the model is smaller too."""


def main() -> None:
    from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
    from paddlemix.quantization import loading, tiles  # imported here, so that they count as before

    tiles.CHUNK = loading.CHUNK = CHUNK

    before = anonymous_memory()
    stopped = threading.Event()
    peak = [0]

    def watch() -> None:
        while not stopped.wait(0.005):
            peak[0] = max(peak[0], anonymous_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        model = QWenLMHeadModel.from_pretrained(sys.argv[1], quantization=sys.argv[2] or None)
    finally:
        stopped.set()
        watcher.join()
    after = anonymous_memory()
    if len(sys.argv) > 3:
        model.save_pretrained(sys.argv[3])
    print(json.dumps({"before": before, "peak": max(peak[0], after), "after": after}))


if __name__ == "__main__":
    main()
