"""Ask Qwen-VL one question about an image, or several images: the same as ``paddlemix predict``.

python examples/qwen_vl/run_predict.py --help
"""

from __future__ import annotations

import _checkout  # noqa: F401

from paddlemix.cli.commands.predict import main
from paddlemix.cli.program import run

if __name__ == "__main__":
    run(main)
