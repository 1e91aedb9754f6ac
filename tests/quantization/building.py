"""Checkpoints of GPTQ and bitsandbytes made by hand: nothing here comes from the code under test."""

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


NF4_LEVELS = np.array(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0],
    np.float32,
)  # fmt: skip
BNB_SECTION: dict[str, Any] = {
    "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "float16", "bnb_4bit_quant_storage": "uint8",
    "llm_int8_skip_modules": ["lm_head", "attn_pool.attn"],
}  # fmt: skip


def bnb_layer(rng: np.random.Generator, rows: int, columns: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What bitsandbytes saves beside the name of a random weight ``[rows, columns]``, and that weight, float32."""
    count = -(-rows * columns // 64)
    codes = rng.integers(0, 16, rows * columns)
    scale_codes = rng.integers(0, 256, count).astype(np.uint8)
    factors = rng.uniform(0.01, 0.02, -(-count // 256)).astype(np.float32)
    values, offset = np.linspace(-1, 1, 256, dtype=np.float32), 0.05
    scales = values[scale_codes] * factors.repeat(256)[:count] + np.float32(offset)
    weight = NF4_LEVELS[codes] * scales.repeat(64)[: rows * columns]
    state = {
        "quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [rows, columns], "nested_blocksize": 256,
        "nested_dtype": "float32", "nested_offset": offset,
    }  # fmt: skip
    arrays = {
        "": (codes[::2] << 4 | codes[1::2]).astype(np.uint8).reshape(-1, 1),
        ".absmax": scale_codes,
        ".quant_map": NF4_LEVELS,
        ".nested_absmax": factors,
        ".nested_quant_map": values,
        ".quant_state.bitsandbytes__nf4": np.frombuffer(json.dumps(state).encode(), np.uint8),
    }
    return arrays, weight.reshape(rows, columns)


def write_bnb_model(folder: Path, source: Path) -> dict[str, np.ndarray]:
    """A checkpoint as transformers saves a model that bitsandbytes has quantized, of the geometry of the float model in
    ``source``: all linear layers in nf4 but the head and the resampler's attention. Returns the weights and biases that
    it stands for, float32, in our layout."""
    checkpoint = open_checkpoint(source)
    rng = np.random.default_rng(4)
    tensors: dict[str, np.ndarray] = {}
    expected: dict[str, np.ndarray] = {}
    for ours, theirs in checkpoint.our_names().items():
        values = to_float32(checkpoint.read(theirs), checkpoint.dtype(theirs)).astype(np.float16)
        is_linear = WEIGHTS.is_transposed(ours, layouts.HF, layouts.PADDLE)
        is_transposed = WEIGHTS.is_transposed(ours, checkpoint.layout, layouts.HF)
        stored = np.ascontiguousarray(values.T if is_transposed else values)
        if is_linear and ours.endswith(".weight") and "attn_pool.attn" not in ours and ours != "lm_head.weight":
            arrays, weight = bnb_layer(rng, *stored.shape)
            tensors.update({f"{ours}{part}": array for part, array in arrays.items()})
            expected[ours] = weight.T
        else:
            tensors[ours] = stored
            expected[ours] = (stored.T if is_linear else stored).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config.update(fp16=True, torch_dtype="float16", use_flash_attn="auto", quantization_config=BNB_SECTION)
    (folder / "config.json").write_text(json.dumps(config))
    for name in SIDE_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    return expected
