"""Adapters whose settings or weights are damaged, read, converted and merged: a result, or a documented error."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from paddlemix.adapters import LoRAConfig, inject, save_adapter
from paddlemix.adapters.merging import merge_adapter
from paddlemix.adapters.stored import convert_adapter, read_adapter
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from paddlemix.models.qwen_vl.weights import WEIGHTS as TABLE
from tests.adapters.building import disturb, tiny_model
from tests.fuzz.checking import attempt
from tests.fuzz.counts import FACTOR, record
from tests.fuzz.safetensors import joined, split

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
VALUES: tuple[Any, ...] = (
    0, -1, 1, 2, 10**9, 10**12, 2**63, 10**320, -(10**400), 1e308, 1e-320, 0.5, math.nan, math.inf, True, False, None,
    "", "x", "*", "[", "?" * 1000, "*a" * 200 + "b", [], [1], [[]], {}, {"a": 1}, ["x"] * 3, ["*"], ["["], ["*" * 5000],
    ["a" * 10_000], ["lm_head"], ["transformer"], [""], "all-linear", "\x1b[2J",
)  # fmt: skip
NAMES = (
    "use_rslora", "use_dora", "alora_invocation_tokens", "fan_in_fan_out", "rank_pattern", "alpha_pattern",
    "layers_to_transform", "layers_pattern", "lora_bias", "trainable_token_indices", "exclude_modules",
    "init_lora_weights", "peft_type", "auto_mapping", "task_type", "bias", "__class__", "x",
)  # fmt: skip
WRITTEN = ("", "null", "[]", "5", "{", "[" * 100_000, '{"r":32,"r":64}', "\ufeff{}", '{"r":' + "9" * 5000 + "}")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``base``, a model, and ``adapter``, one for two of its layers with the head beside it."""
    folder = tmp_path_factory.mktemp("adapters")
    tiny_model().save_pretrained(folder / "base", dtype="bfloat16")
    model = QWenLMHeadModel.from_pretrained(folder / "base")
    inject(model, LoRAConfig(r=3, targets=("c_attn", "w1"), modules_to_save=("lm_head",)))
    disturb(model)
    save_adapter(model, folder / "adapter")
    return folder


def uses(folders: Path, adapter: Path, out: Path) -> dict[str, Callable[[], object]]:
    return {
        "read": lambda: read_adapter(adapter, TABLE),
        "converted": lambda: convert_adapter(adapter, out, base=folders / "base", dtype="float16"),
        "merged": lambda: merge_adapter(folders / "base", adapter, out),
    }


def try_adapter(case: str, folders: Path, adapter: Path, out: Path, names: tuple[str, ...]) -> None:
    for name in names:
        attempt(f"{case}, {name}", uses(folders, adapter, out)[name])
        shutil.rmtree(out, ignore_errors=True)


@pytest.fixture
def adapter(folders: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders / "adapter", tmp_path / "adapter"))


def test_every_kind_of_value_in_every_setting(folders: Path, adapter: Path, tmp_path: Path) -> None:
    rng, settings, out = Random(1), json.loads((adapter / SETTINGS).read_text()), tmp_path / "out"
    try_adapter("whole", folders, adapter, out, ("read", "converted", "merged"))
    cases = [(name, value) for name in dict.fromkeys([*settings, *NAMES]) for value in VALUES]
    whole = set(rng.sample(range(len(cases)), min(len(cases), 5 * FACTOR)))
    for n, (name, value) in enumerate(cases):
        (adapter / SETTINGS).write_text(json.dumps({**settings, name: value}))
        names = ("read", "converted", "merged") if n in whole else ("read",)
        try_adapter(f"{name}={ascii(value)[:60]}", folders, adapter, out, names)
    for text in WRITTEN:
        (adapter / SETTINGS).write_text(text, encoding="utf-8")
        try_adapter(f"settings {text[:20]}", folders, adapter, out, ("read",))
    record("settings of adapters", 3 + len(cases) + 2 * len(whole) + len(WRITTEN))


def damage(header: dict[str, Any], body: bytes, rng: Random) -> bytes:
    """Change one tensor, its entry in the header, or the metadata."""
    names = [name for name in header if name != "__metadata__"]
    name, other, kind = rng.choice(names), rng.choice(names), rng.randrange(10)
    entry = header[name]
    start, end = entry["data_offsets"]
    if kind == 0:
        del header[name]
    elif kind == 1:
        other_names = (
            *(name + "x", name.replace("lora_A", "lora_C"), name.replace("base_model.model.", ""), "\x1b[2J"),
            *(name.replace(".0.", ".99."), "base_model.model.x.lora_A.weight", name.replace("lora_A", "lora_B")),
        )
        header[rng.choice(other_names)] = header.pop(name)
    elif kind == 2:
        entry["shape"] = entry["shape"][::-1]
    elif kind == 3:
        entry["shape"] = [1, *entry["shape"]]
    elif kind == 4:
        entry["dtype"] = rng.choice(("F16", "BF16", "F64", "I32", "U8", "BOOL"))
    elif kind == 5:
        header[name], header[other] = header[other], header[name]
    elif kind == 6:
        header.setdefault("__metadata__", {})[rng.choice(("paddlemix_base", "format", "x"))] = rng.choice(
            ("", "0" * 64)
        )
    elif kind == 7:
        value = np.float32(rng.choice((math.nan, math.inf, -math.inf, 3e38, 1e30, 1e-45))).tobytes()
        body = body[:start] + value + body[start + 4 :]
    elif kind == 8:
        entry["shape"] = [math.prod(entry["shape"]), 1]
    else:
        entry["shape"], entry["data_offsets"] = [0, *entry["shape"][1:]], [start, start]
    return joined(header, body)


def test_damaged_weights(folders: Path, adapter: Path, tmp_path: Path) -> None:
    rng, cases, out = Random(2), 20 * FACTOR, tmp_path / "out"
    settings = json.loads((adapter / SETTINGS).read_text())
    header, body = split(adapter / WEIGHTS)
    for n in range(cases):
        changes = {"r": rng.choice((16, 64, 1)), "lora_alpha": rng.choice((1e30, 1e-30, 16))} if n % 3 == 0 else {}
        (adapter / SETTINGS).write_text(json.dumps({**settings, **changes}))
        (adapter / WEIGHTS).write_bytes(damage(copy.deepcopy(header), body, rng))
        try_adapter(f"weights, case {n}", folders, adapter, out, (rng.choice(("read", "converted", "merged")),))
    record("damaged adapters", cases)


def damage_base(header: dict[str, Any], body: bytes, rng: Random) -> bytes:
    """Change one weight of a base model."""
    name = rng.choice([name for name in header if name != "__metadata__"])
    start, end = header[name]["data_offsets"]
    kind = rng.randrange(7)
    if kind == 0:
        header[rng.choice((name + "x", "x", "transformer.h.99.ln_1.weight", "\x1b[2J"))] = header.pop(name)
    elif kind == 1:
        header[name]["shape"] = header[name]["shape"][::-1]
    elif kind == 2:
        header[name]["dtype"] = rng.choice(("F16", "I16", "F32"))
    elif kind == 3:
        at = start + 2 * rng.randrange((end - start) // 2)
        body = body[:at] + rng.choice((b"\xc0\x7f", b"\x80\x7f", b"\x80\xff", b"\x7f\x7f")) + body[at + 2 :]
    elif kind == 4:
        body = body[:start] + rng.randbytes(end - start) + body[end:]
    elif kind == 5:
        metadata = {"paddlemix_layout": "x", "paddlemix_packing": "1", "format": ""}
        header["__metadata__"] = {**header.get("__metadata__", {}), **dict([rng.choice(list(metadata.items()))])}
    else:
        body = body[: -rng.randrange(1, 1000)]
    return joined(header, body)


def test_damaged_base_models(folders: Path, adapter: Path, tmp_path: Path) -> None:
    rng, cases, out = Random(3), 20 * FACTOR, tmp_path / "out"
    base = Path(shutil.copytree(folders / "base", tmp_path / "base"))
    header, body = split(base / "model.safetensors")
    for n in range(cases):
        (base / "model.safetensors").write_bytes(damage_base(copy.deepcopy(header), body, rng))
        use = rng.choice(
            (
                lambda: merge_adapter(base, adapter, out),
                lambda: convert_adapter(adapter, out, base=base),
                lambda: QWenLMHeadModel.from_pretrained(base),
            )
        )
        attempt(f"base, case {n}", use)
        shutil.rmtree(out, ignore_errors=True)
    record("damaged base models", cases)
