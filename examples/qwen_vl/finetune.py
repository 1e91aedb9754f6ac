"""Fine-tune Qwen-VL on conversations of your own: the same as ``paddlemix finetune``.

python examples/qwen_vl/finetune.py --help
"""

from __future__ import annotations

import _checkout  # noqa: F401

from paddlemix.cli.commands.finetune import main
from paddlemix.cli.program import run

if __name__ == "__main__":
    run(main)
