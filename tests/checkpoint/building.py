"""Checkpoint files made by hand, so that tests need neither torch nor large fixtures."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from paddlemix import checkpoint
from paddlemix.checkpoint import layouts
from paddlemix.models.qwen_vl.weights import WEIGHTS
from paddlemix.models.registry import DEFAULT_FAMILY

#: the smallest configuration that has every kind of weight, and no two dimensions alike
CONFIG = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "kv_channels": 4,
    "intermediate_size": 20,
    "vocab_size": 11,
    "no_bias": True,
    "visual": {
        "image_size": 28,
        "patch_size": 14,
        "width": 6,
        "layers": 2,
        "heads": 2,
        "mlp_ratio": 2.5,
        "output_dim": 8,
        "n_queries": 4,
        "num_positions": 9,
        "image_start_id": 8,
    },
}
open_checkpoint = partial(checkpoint.open_checkpoint, table=WEIGHTS)
convert_checkpoint = partial(checkpoint.convert_checkpoint, family=DEFAULT_FAMILY)
_CODES = {"uint8": "U8", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int32": "I32"}


def name_in(layout: str, ours: str) -> str:
    """What a checkpoint of ``layout`` calls a parameter of ours."""
    found = WEIGHTS.find_rule(ours)
    assert found is not None, ours
    rule, number = found
    return (rule.paddlemix if layout == layouts.PADDLEMIX else rule.name).replace("{n}", number)


def load_into(model: Any, path: Path, *arguments: Any, **options: Any) -> list[str]:
    """Fill a model from a checkpoint's folder or file."""
    return checkpoint.load_into(model, open_checkpoint(path), *arguments, **options)


def random_weights(layout: str, seed: int = 0, config: Mapping[str, Any] = CONFIG) -> dict[str, np.ndarray]:
    """Weights of a model with ``config`` under the names and shapes of ``layout``, as float32."""
    rng = np.random.default_rng(seed)
    shapes = WEIGHTS.expected_shapes(config, layout)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def safetensors_bytes(header: Any, body: bytes = b"") -> bytes:
    """A safetensors file with this header (bytes as they are, anything else as JSON)."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def write_safetensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None, dtype: str = ""
) -> None:
    """Write arrays; ``dtype="bfloat16"`` marks uint16 arrays as such."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata is not None else {}
    body = b""
    for name, array in tensors.items():
        offsets = [len(body), len(body) + array.nbytes]
        code = _CODES[dtype or str(array.dtype)]
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": offsets}
        body += array.tobytes()
    path.write_bytes(safetensors_bytes(header, body))


class Named:
    """Pickles as a global of another module, which need not exist here."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Call:
    """Pickles as a call: ``Call(Named("os", "system"), "true")``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments


class Storage:
    """Pickles as torch's reference to a storage."""

    def __init__(self, kind: str, key: str, count: int) -> None:
        self.reference = ("storage", Named("torch", kind), key, "cpu", count)


class _Pickler(pickle._Pickler):  # type: ignore[name-defined]  # the one in Python, whose methods can be replaced
    def persistent_id(self, obj: Any) -> Any:
        return obj.reference if isinstance(obj, Storage) else None

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Named):
            self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(tuple(obj.arguments))
            self.write(pickle.REDUCE)
        else:
            super().save(obj, save_persistent_id)


def dumps(value: Any, protocol: int = 2) -> bytes:
    """Pickle ``value``, in which Named, Call and Storage may occur."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol).dump(value)
    return buffer.getvalue()


def torch_tensor(storage: Any, shape: tuple[int, ...], strides: tuple[int, ...] | None = None, offset: int = 0) -> Call:
    """What torch pickles for a tensor over ``storage``."""
    if strides is None:
        strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    rebuild = Named("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, storage, offset, shape, strides, False, Call(Named("collections", "OrderedDict")))


def write_torch(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    kind: str = "FloatStorage",
    change: Callable[[dict[str, Any]], Any] = lambda state: state,
    compression: int = zipfile.ZIP_STORED,
) -> None:
    """Write a ``.bin`` as torch does: one storage per tensor. ``change`` may alter what is pickled."""
    _write_torch(path, tensors, [kind] * len(tensors), change, compression)


def write_torch_mixed(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """The same for arrays of several types."""
    kinds = {"float32": "FloatStorage", "float16": "HalfStorage", "int32": "IntStorage"}
    _write_torch(path, tensors, [kinds[str(array.dtype)] for array in tensors.values()])


def _write_torch(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    kinds: list[str],
    change: Callable[[dict[str, Any]], Any] = lambda state: state,
    compression: int = zipfile.ZIP_STORED,
) -> None:
    state: dict[str, Any] = {}
    for key, (name, array) in enumerate(tensors.items()):
        state[name] = torch_tensor(Storage(kinds[key], str(key), array.size), array.shape)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", dumps(change(state)))
        for key, array in enumerate(tensors.values()):
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", "3\n")


def write_pdparams(path: Path, tensors: Mapping[str, np.ndarray], protocol: int = 4) -> None:
    """Write what ``paddle.save(model.state_dict())`` does."""
    table = {name: f"linear_{n}.w_0" for n, name in enumerate(tensors)}
    path.write_bytes(pickle.dumps({**tensors, "StructuredToParameterName@@": table}, protocol))


def write_model(folder: Path, layout: str, weights: Mapping[str, np.ndarray] | None = None, shards: int = 1) -> Path:
    """A model's folder in ``layout``: safetensors ("hf", "paddle") or ``.pdparams``, with ``config.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = random_weights(layout) if weights is None else weights
    (folder / "config.json").write_text(json.dumps(CONFIG))
    if layout == layouts.PADDLEMIX:
        write_pdparams(folder / "model_state.pdparams", weights)
    elif shards == 1:
        write_safetensors(folder / "model.safetensors", weights)
    else:
        names = list(weights)
        weight_map = {}
        for n in range(shards):
            file = f"model-{n + 1:05d}-of-{shards:05d}.safetensors"
            part = {name: weights[name] for name in names[n::shards]}
            write_safetensors(folder / file, part)
            weight_map.update(dict.fromkeys(part, file))
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
