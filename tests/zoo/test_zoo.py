from __future__ import annotations

import json

import numpy as np
from PIL import Image

from examples.bundled_model.scenes.demo import demo_scene
from paddlemix import zoo


def test_constants_point_at_files_that_exist():
    assert zoo.DEFAULT_MODEL == "paddlemix/qwen-vl-scenes"
    assert zoo.DEMO_IMAGE.is_file()
    assert (zoo.DEFAULT_MODEL_DIR / "qwen.tiktoken").is_file()
    config = json.loads((zoo.DEFAULT_MODEL_DIR / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["image_slots"] == 36


def test_demo_image_is_the_scene_that_the_generator_draws():
    with Image.open(zoo.DEMO_IMAGE) as image:
        shipped = np.asarray(image.convert("RGB"), dtype=np.int16)
    drawn = demo_scene().image.astype(np.int16)
    assert shipped.shape == drawn.shape
    # Pillow versions may round differently while resizing; the image must still be the same.
    assert np.abs(shipped - drawn).mean() < 1.0
