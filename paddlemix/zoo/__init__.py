"""The small model that comes with the project, its demo image and the data it was trained on.

Importing this module costs nothing: it holds names and paths only.
"""

from __future__ import annotations

from pathlib import Path

DEFAULT_MODEL = "paddlemix/qwen-vl-scenes"
"""The name of the model that is used wherever none is named."""

DEFAULT_MODEL_DIR = Path(__file__).resolve().parent / "qwen_vl_scenes"
"""Where the files of :data:`DEFAULT_MODEL` lie."""

DEMO_IMAGE = Path(__file__).resolve().parent / "demo.png"
"""The image that is shown to the bundled model when no other is given."""
