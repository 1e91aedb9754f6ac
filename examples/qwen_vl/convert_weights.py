"""Convert Qwen-VL weights between PyTorch's and Paddle's layout: the same as ``paddlemix convert``.

python examples/qwen_vl/convert_weights.py --help
"""

from __future__ import annotations

import _checkout  # noqa: F401

from paddlemix.cli.commands.convert import main
from paddlemix.cli.program import run

if __name__ == "__main__":
    run(main)
