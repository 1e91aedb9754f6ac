"""Files of conversations about drawn scenes, for the tests of whole runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from examples.bundled_model.scenes.scene import generate_scene
from examples.bundled_model.scenes.tasks import make_conversations


def write_conversations(folder: Path, count: int, *, first_seed: int = 0, size: int = 56) -> Path:
    """``count`` records in the original's schema with their images beside them; every third has none."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for index in range(count):
        seed = first_seed + index
        scene = generate_scene(seed, size=size)
        (conversation,) = make_conversations(scene, np.random.default_rng(seed), 1)
        image = ""
        if index % 3 != 2:
            Image.fromarray(scene.image).save(folder / f"{seed}.png")
            image = f"Picture 1: <img>{seed}.png</img>\n"
        turns = []
        for question, answer in conversation.turns:
            turns += [{"from": "user", "value": image + question}, {"from": "assistant", "value": answer}]
            image = ""
        records.append({"id": str(index), "conversations": turns})
    path = folder / "talks.json"
    path.write_text(json.dumps(records, ensure_ascii=False, indent=1), encoding="utf-8")
    return path
