"""``python -m paddlemix.serving`` is ``paddlemix serve``."""

from ..cli.commands.serve import main
from ..cli.program import run

if __name__ == "__main__":
    run(main)
