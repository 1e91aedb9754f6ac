"""Run published benchmarks: the same as ``paddlemix evaluate``.

python examples/qwen_vl/evaluate.py --help
python -m paddle.distributed.launch --nproc_per_node 2 examples/qwen_vl/evaluate.py run gqa --output_dir results
"""

from __future__ import annotations

import _checkout  # noqa: F401

from paddlemix.cli.commands.evaluate import main
from paddlemix.cli.program import run

if __name__ == "__main__":
    run(main)
