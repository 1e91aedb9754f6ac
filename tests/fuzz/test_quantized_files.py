"""Quantized checkpoints whose headers, values or settings are damaged: a model, or a documented error."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from tests.fuzz.checking import attempt
from tests.fuzz.counts import FACTOR, record
from tests.fuzz.safetensors import joined, split
from tests.golden_model import FOLDER
from tests.quantization.building import write_gptq_model

DTYPES = ("I32", "U8", "F16", "F32", "BF16", "I8", "I64")
SETTINGS = (
    "bits",
    "group_size",
    "sym",
    "desc_act",
    "quant_method",
    "version",
    "blocks",
    "head",
    "visual",
    "embeddings",
)
VALUES = (None, 0, 3, 4, 8, -1, "int4", "int8", "bf16", "bfloat16", "x", [], {}, True, 10**12, {"quant_method": []})
SECTIONS: tuple[Any, ...] = (
    None, 5, [], "x", {"quant_method": "awq"}, {"quant_method": "paddlemix"}, {"bits": 4}, {"quant_method": ["gptq"]},
    {"quant_method": {}}, {"quant_method": "gptq", "bits": 4, "group_size": 10**18},
    {"bits": 4, "checkpoint_format": 1},
)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A GPTQ model and one in our tiles."""
    root = tmp_path_factory.mktemp("quantized")
    write_gptq_model(root / "gptq", FOLDER / "ckpt_bin")
    QWenLMHeadModel.from_pretrained(FOLDER / "ckpt_bin", quantization="int4").save_pretrained(root / "packed")
    return {kind: root / kind for kind in ("gptq", "packed")}


def damage(header: dict[str, Any], body: bytes, rng: Random) -> bytes:
    """Change one tensor, its entry in the header, or the metadata."""
    names = sorted(name for name in header if name != "__metadata__")
    parts = [name for name in names if name.endswith((".qweight", ".qzeros", ".scales", ".g_idx", ".bias"))]
    name, other, kind = rng.choice(parts if rng.random() < 0.8 else names), rng.choice(names), rng.randrange(11)
    entry = header[name]
    start, end = entry["data_offsets"]
    if kind == 0:
        del header[name]
    elif kind == 1:
        entry["shape"] = entry["shape"][::-1]
    elif kind == 2:
        entry["dtype"] = rng.choice(DTYPES)
    elif kind in (3, 4):
        values = bytes([rng.choice((0, 255, 127, 128))]) * (end - start) if kind == 3 else rng.randbytes(end - start)
        body = body[:start] + values + body[end:]
    elif kind == 5:
        header[name], header[other] = header[other], header[name]
    elif kind == 6:
        key = rng.choice(("paddlemix_packing", "paddlemix_layout", "format"))
        header["__metadata__"] = {
            **header.get("__metadata__", {}),
            key: rng.choice(("", "1", "2", "hf", "paddle", "x")),
        }
    elif kind == 7:
        header.pop("__metadata__", None)
    elif kind == 8:
        header[name + rng.choice(("x", ".qweight", "2"))] = header.pop(name)
    elif kind == 9:
        entry["shape"] = [1, *entry["shape"]]
    else:
        entry["shape"], entry["data_offsets"] = [0, *entry["shape"][1:]], [start, start]
    return joined(header, body)


@pytest.mark.parametrize("kind", ["gptq", "packed"])
def test_damaged_models(tmp_path: Path, folders: dict[str, Path], kind: str) -> None:
    rng, cases = Random(kind), 8 * FACTOR
    header, body = split(folders[kind] / "model.safetensors")
    config = json.loads((folders[kind] / "config.json").read_text())
    for n in range(cases):
        section = dict(config["quantization_config"])
        if rng.random() < 0.25:
            section[rng.choice(SETTINGS)] = rng.choice(VALUES)
        (tmp_path / "model.safetensors").write_bytes(damage(copy.deepcopy(header), body, rng))
        (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": section}))
        attempt(f"damaged {kind}, case {n}", lambda: QWenLMHeadModel.from_pretrained(tmp_path))
    record(f"damaged quantized models ({kind})", cases)


@pytest.mark.parametrize("kind", ["gptq", "packed"])
def test_settings_of_another_kind(tmp_path: Path, folders: dict[str, Path], kind: str) -> None:
    config = json.loads((folders[kind] / "config.json").read_text())
    (tmp_path / "model.safetensors").symlink_to(folders[kind] / "model.safetensors")
    for section in SECTIONS:
        (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": section}))
        attempt(f"quantization_config {section!r} of {kind}", lambda: QWenLMHeadModel.from_pretrained(tmp_path))
    record(f"settings of quantized models ({kind})", len(SECTIONS))
