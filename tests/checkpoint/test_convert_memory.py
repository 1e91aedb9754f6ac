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
from tests.checkpoint.building import open_checkpoint

#: the real embedding and head, [151936, 4096], one real attention and resampler; everything else tiny
CONFIG = {
    "hidden_size": 4096,
    "num_hidden_layers": 1,
    "num_attention_heads": 32,
    "kv_channels": 128,
    "intermediate_size": 32,
    "vocab_size": 151936,
    "no_bias": True,
    "visual": {
        "patch_size": 2,
        "width": 8,
        "layers": 1,
        "heads": 1,
        "mlp_ratio": 2,
        "output_dim": 4096,
        "n_queries": 4,
    },
}
HEAD, EMBEDDING = "lm_head.weight", "transformer.wte.weight"
PATTERNED_ROWS = (0, 1, 75_000, 151_935)


@pytest.fixture(scope="module")
def large_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tensors of 1.24 GB in bfloat16: zeros that take no room on the disk, and a few rows with values."""
    folder = tmp_path_factory.mktemp("large")
    if shutil.disk_usage(folder).free < 6e9:
        pytest.skip("less than 6 GB of disk are free; the conversion of the real embedding and head was not tested")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    header, at = {}, 0
    for name, shape in WEIGHTS.expected_shapes(CONFIG, layouts.HF).items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        start = file.tell()
        for name in (HEAD, EMBEDDING):
            for row in PATTERNED_ROWS:
                file.seek(start + header[name]["data_offsets"][0] + row * 8192)
                file.write(pattern(name, row).tobytes())
        file.truncate(start + at)
    yield folder
    shutil.rmtree(folder)


def pattern(name: str, row: int) -> np.ndarray:
    """Finite bfloat16 bits that differ by tensor, row and column."""
    return ((np.arange(4096) * 7 + row + len(name)) % 0x3F00 + 1).astype(np.uint16)


def test_real_embedding_and_head_are_converted_in_less_than_1_gb(large_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = [
        sys.executable,
        str(Path(__file__).with_name("convert_large.py")),
        str(large_model),
        str(output),
        "paddle",
    ]
    try:
        result = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
        assert int(result.stdout) < 1_000_000_000
        converted = open_checkpoint(output)
        assert converted.shape(HEAD) == (4096, 151936)
        for row in PATTERNED_ROWS:
            np.testing.assert_array_equal(converted.read(EMBEDDING)[row], pattern(EMBEDDING, row))
            np.testing.assert_array_equal(converted.read(HEAD)[:, row], pattern(HEAD, row))
        assert not converted.read(HEAD)[:, 2].any()
    finally:
        shutil.rmtree(output, ignore_errors=True)
