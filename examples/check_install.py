"""Report what is installed and whether a tiny model runs: the same as ``paddlemix doctor``.

python examples/check_install.py
"""

from __future__ import annotations

import sys

try:
    from paddlemix.cli.commands.doctor import main
    from paddlemix.cli.program import run
except ImportError:
    print(f"python {sys.version.split()[0]} ({sys.executable})")
    print("problem: paddlemix is not installed: run pip install -e '.[cpu]' in the checkout")
    sys.exit(1)

if __name__ == "__main__":
    run(main)
