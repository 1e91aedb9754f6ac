"""Quantize a model to 4 bits with GPTQ: the same as ``paddlemix quantize``.

python examples/qwen_vl/quantize.py --help
"""

from __future__ import annotations

import _checkout  # noqa: F401

from paddlemix.cli.commands.quantize import main
from paddlemix.cli.program import run

if __name__ == "__main__":
    run(main)
