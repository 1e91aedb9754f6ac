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

#: the real width of embedding and head, one real attention and resampler; everything else tiny
CONFIG = {
    "hidden_size": 4096,
    "num_hidden_layers": 1,
    "num_attention_heads": 32,
    "kv_channels": 128,
    "intermediate_size": 32,
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
#: rows of the embedding, those of the real model and fewer, and the bytes of memory that their conversion may take
VOCABULARIES = [
    pytest.param(151_936, 1_000_000_000, marks=pytest.mark.slow, id="real"),
    pytest.param(12_288, 150_000_000, id="small"),
]


def patterned(rows: int) -> tuple[int, ...]:
    """The rows that have values: the first, two within and the last."""
    return 0, 1, rows // 2, rows - 1


def write_model(folder: Path, rows: int) -> None:
    """Embedding and head in bfloat16: zeros that take no room on the disk, and a few rows with values."""
    config = {**CONFIG, "vocab_size": rows, "visual": {**CONFIG["visual"], "image_start_id": rows - 79}}
    (folder / "config.json").write_text(json.dumps(config))
    header, at = {}, 0
    for name, shape in WEIGHTS.expected_shapes(config, layouts.HF).items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        start = file.tell()
        for name in (HEAD, EMBEDDING):
            for row in patterned(rows):
                file.seek(start + header[name]["data_offsets"][0] + row * 8192)
                file.write(pattern(name, row).tobytes())
        file.truncate(start + at)


def pattern(name: str, row: int) -> np.ndarray:
    """Finite bfloat16 bits that differ by tensor, row and column."""
    return ((np.arange(4096) * 7 + row + len(name)) % 0x3F00 + 1).astype(np.uint16)


@pytest.mark.parametrize(("rows", "limit"), VOCABULARIES)
def test_embedding_and_head_are_converted_in_little_memory(tmp_path: Path, rows: int, limit: int) -> None:
    if shutil.disk_usage(tmp_path).free < 40_000 * rows:
        pytest.skip(f"too little of the disk is free to convert an embedding of {rows} rows")
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    write_model(source, rows)
    program = Path(__file__).with_name("convert_large.py")
    command = [sys.executable, str(program), str(source), str(output), "paddle"]
    try:
        result = subprocess.run(command, capture_output=True, encoding="utf-8")
        assert result.returncode == 0, result.stderr
        assert int(result.stdout) < limit
        converted = open_checkpoint(output)
        assert converted.shape(HEAD) == (4096, rows)
        embedding, head = converted.read(EMBEDDING), converted.read(HEAD)
        for row in patterned(rows):
            np.testing.assert_array_equal(embedding[row], pattern(EMBEDDING, row))
            np.testing.assert_array_equal(head[:, row], pattern(HEAD, row))
        assert not head[:, 2].any()
    finally:
        shutil.rmtree(source, ignore_errors=True)
        shutil.rmtree(output, ignore_errors=True)
