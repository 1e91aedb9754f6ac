"""Chat with Qwen-VL about images in the terminal: the same as ``paddlemix chat``.

python examples/qwen_vl/chat_demo.py --help
"""

from __future__ import annotations

import _checkout  # noqa: F401

from paddlemix.cli.commands.chat import main
from paddlemix.cli.program import run

if __name__ == "__main__":
    run(main)
