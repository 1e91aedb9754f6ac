"""GPTQ checkpoints made by hand, with packing of their own: nothing here comes from the code under test."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from paddlemix.checkpoint import layouts
from paddlemix.checkpoint.dtypes import to_float32
from paddlemix.models.qwen_vl.weights import WEIGHTS
from tests.checkpoint.building import open_checkpoint, write_safetensors

BLOCK_LINEARS = ("attn.c_attn", "attn.c_proj", "mlp.w1", "mlp.w2", "mlp.c_proj")
SIDE_FILES = ("generation_config.json", "qwen.tiktoken", "tokenizer_config.json", "preprocessor_config.json")
SECTION: dict[str, Any] = {
    "bits": 4, "group_size": 128, "damp_percent": 0.01, "desc_act": False, "static_groups": False, "sym": True,
    "true_sequential": True, "model_name_or_path": None, "model_file_base_name": "model", "quant_method": "gptq",
}  # fmt: skip


def pack_rows(values: np.ndarray) -> np.ndarray:
    """Integers 0..15 ``[8 n, m]`` as int32 ``[n, m]``: row j of eight in bits 4j."""
    words = np.zeros((values.shape[0] // 8, values.shape[1]), np.uint32)
    for j in range(8):
        words |= values[j::8].astype(np.uint32) << np.uint32(4 * j)
    return words.view(np.int32)


def gptq_layer(
    rng: np.random.Generator, in_features: int, out_features: int, *, group_size: int = 128, sym: bool = True,
    act_order: bool = False,
) -> tuple[dict[str, np.ndarray], np.ndarray]:  # fmt: skip
    """The arrays of a random layer, its bias included, and the float32 weight ``[in, out]`` that they stand for."""
    groups = -(-in_features // group_size)
    q = rng.integers(0, 16, (in_features, out_features))
    zeros = np.full((groups, out_features), 8) if sym else rng.integers(1, 16, (groups, out_features))
    scales = rng.uniform(0.001, 0.01, (groups, out_features)).astype(np.float16)
    g_idx = np.arange(in_features) // group_size
    if act_order:
        g_idx = rng.permutation(g_idx)
    weight = scales[g_idx].astype(np.float32) * (q - zeros[g_idx]).astype(np.float32)
    arrays = {
        "qweight": pack_rows(q),
        "qzeros": np.ascontiguousarray(pack_rows((zeros - 1).T).T),
        "scales": scales,
        "g_idx": g_idx.astype(np.int32),
        "bias": rng.standard_normal(out_features).astype(np.float16),
    }
    return arrays, weight


def write_gptq_model(folder: Path, source: Path, **kind: Any) -> dict[str, np.ndarray]:
    """A GPTQ checkpoint in the form of the published one, of the geometry of the float model in ``source``: float16,
    five quantized layers in each block, all with biases. ``kind`` is for :func:`gptq_layer`. Returns the weights and
    biases that it stands for, float32, in our layout."""
    checkpoint = open_checkpoint(source)
    rng = np.random.default_rng(3)
    tensors: dict[str, np.ndarray] = {}
    expected: dict[str, np.ndarray] = {}
    for ours, theirs in checkpoint.our_names().items():
        is_transposed = WEIGHTS.is_transposed(ours, checkpoint.layout, layouts.PADDLE)
        layer = ours.rpartition(".")[0]
        if layer.startswith("transformer.h.") and layer.endswith(BLOCK_LINEARS):
            if ours.endswith(".weight"):
                shape = checkpoint.shape(theirs)
                arrays, expected[ours] = gptq_layer(rng, *(shape[::-1] if is_transposed else shape), **kind)
                tensors.update({f"{layer}.{part}": array for part, array in arrays.items()})
                expected[f"{layer}.bias"] = arrays["bias"].astype(np.float32)
            continue
        half = to_float32(checkpoint.read(theirs), checkpoint.dtype(theirs)).astype(np.float16)
        expected[ours] = (half.T if is_transposed else half).astype(np.float32)
        is_linear = WEIGHTS.is_transposed(ours, layouts.HF, layouts.PADDLE)
        tensors[ours] = np.ascontiguousarray(expected[ours].T if is_linear else expected[ours]).astype(np.float16)
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    section = {**SECTION, "group_size": kind.get("group_size", 128), "sym": kind.get("sym", True)}
    section["desc_act"] = kind.get("act_order", False)
    config.update(fp16=True, torch_dtype="float16", use_flash_attn="auto", quantization_config=section)
    (folder / "config.json").write_text(json.dumps(config))
    for name in SIDE_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    return expected
