"""Train the bundled model: one stage at a time, resumable. See ``--help`` and README.md here."""

import sys
from pathlib import Path

# A checkout works without being installed.
_CHECKOUT = Path(__file__).resolve().parent.parent.parent
if (_CHECKOUT / "paddlemix" / "errors.py").is_file():
    sys.path.insert(0, str(_CHECKOUT))

from examples.bundled_model.training.train import main  # noqa: E402
from paddlemix.cli import common as cli  # noqa: E402

if __name__ == "__main__":
    cli.run(main)
