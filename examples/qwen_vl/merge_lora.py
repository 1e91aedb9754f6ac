"""Merge a LoRA adapter into the weights of its model: the same as ``paddlemix merge``.

python examples/qwen_vl/merge_lora.py --help
"""

from __future__ import annotations

import _checkout  # noqa: F401

from paddlemix.cli.commands.merge import main
from paddlemix.cli.program import run

if __name__ == "__main__":
    run(main)
