"""Convert a LoRA adapter to the files of Hugging Face's peft: the same as ``paddlemix convert-lora``.

python examples/qwen_vl/convert_lora.py --help
"""

from __future__ import annotations

import _checkout  # noqa: F401

from paddlemix.cli.commands.convert_lora import main
from paddlemix.cli.program import run

if __name__ == "__main__":
    run(main)
