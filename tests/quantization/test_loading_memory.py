"""How much memory loading takes beside the quantized model."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from paddlemix.checkpoint import layouts
from paddlemix.models.qwen_vl.weights import WEIGHTS
from paddlemix.quantization.plan import plan_for, weight_bytes
from tests.checkpoint.building import CONFIG as SMALL

CONFIG = {
    "hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 8, "kv_channels": 128,
    "intermediate_size": 2 * 4096, "vocab_size": 32768,
    "visual": {**SMALL["visual"], "output_dim": 1024, "image_start_id": 100},
}  # fmt: skip


@pytest.fixture(scope="module")
def large_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """0.1 billion bfloat16 zeros, which take no room on the disk."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    header, at = {}, 0
    for name, shape in WEIGHTS.expected_shapes(CONFIG, layouts.HF).items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(file.tell() + at)
    yield folder
    shutil.rmtree(folder)


def memory(*arguments: object) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.quantization.load_large", *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout)


def test_loading_takes_the_quantized_model_and_a_few_chunks_and_loading_it_again_nothing(large_model, tmp_path):
    size = weight_bytes(WEIGHTS, CONFIG, "float32", plan_for(None, "int4", None))
    embeddings = 2 * CONFIG["vocab_size"] * CONFIG["hidden_size"]  # these stay in the file
    floats = weight_bytes(WEIGHTS, CONFIG, "float32")
    first = memory(large_model, "int4", tmp_path / "saved")
    assert first["after"] - first["before"] < size - embeddings + 60_000_000
    assert first["peak"] - first["before"] < size - embeddings + 120_000_000 < floats
    again = memory(tmp_path / "saved", "")
    assert again["peak"] - again["before"] < size / 2
