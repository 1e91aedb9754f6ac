"""safetensors files: a JSON header, then the tensors. Read lazily and checked more strictly than the format asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CheckpointError
from ...utils.display import one_line, quoted
from ..dtypes import FROM_SAFETENSORS, STORAGE
from .guard import reading
from .tensor import MappedFile, StoredTensor, element_count, is_shape

#: of some hundred thousand tensors; a model has some thousand
MAX_HEADER_BYTES = 8 << 20
#: objects and lists in a header, three for a tensor: parsed, each takes twenty times its bytes
MAX_CONTAINERS = 300_000


def read_safetensors(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """All tensors of a ``.safetensors`` file by name, and its metadata.

    Raises:
        CheckpointError: the header is too large, is not an object or has duplicate keys; or the tensors overlap, leave
            holes, or do not have the bytes that shape and dtype say.
    """
    file = MappedFile(path)
    with reading(path):
        return _tensors(file)


def _tensors(file: MappedFile) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    path, data = file.path, file.data
    if data[:4].tobytes() == b"PK\x03\x04":
        raise CheckpointError(f"{path}: is a zip archive, as torch's weights are; name it .bin")
    length = int(data[:8].view("<u8")[0]) if len(data) >= 8 else -1
    if length < 2 or length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise CheckpointError(f"{path}: truncated or not a safetensors file: header of {length} bytes in {len(data)}")
    header = _parse(data[8 : 8 + length].tobytes(), path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path}: __metadata__ is not a table of strings")
    body = data[8 + length :]
    spans: list[tuple[int, int, str]] = []
    tensors = {}
    for name, entry in header.items():
        start, end, tensor = _entry(name, entry, body, 8 + length, file)
        spans.append((start, end, name))
        tensors[name] = tensor
    position = 0
    for start, end, name in sorted(spans):
        if start != position:
            raise CheckpointError(
                f"{path}: {quoted(name)} starts at byte {start}, expected {position}: overlap or hole"
            )
        position = end
    if position != len(body):
        raise CheckpointError(f"{path}: {len(body)} bytes of tensors, the header says {position}; truncated or damaged")
    return tensors, metadata


def _parse(raw: bytes, path: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise CheckpointError(f"{path}: header has duplicate keys")
        return result

    if raw.count(b"{") + raw.count(b"[") > MAX_CONTAINERS:
        raise CheckpointError(
            f"{path}: header has more than {MAX_CONTAINERS} objects and lists, and a tensor needs three"
        )
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique) if raw[:1] == b"{" else None
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: header is not JSON: {one_line(error)}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: header is not a JSON object")
    return header


def _entry(name: str, entry: Any, body: np.ndarray, body_start: int, file: MappedFile) -> tuple[int, int, StoredTensor]:
    path = file.path
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{path}: {quoted(name)} needs exactly dtype, shape and data_offsets in the header")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in FROM_SAFETENSORS:
        came = quoted(code, 40) if isinstance(code, str) else f"of type {type(code).__name__}"
        raise CheckpointError(f"{path}: {quoted(name)} has dtype {came}, expected one of {', '.join(FROM_SAFETENSORS)}")
    if not is_shape(shape) or not is_shape(offsets) or len(offsets) != 2:
        raise CheckpointError(f"{path}: {quoted(name)} has an impossible shape or data_offsets")
    start, end = offsets
    dtype = FROM_SAFETENSORS[code]
    kind = STORAGE[dtype]
    if end > len(body):
        raise CheckpointError(f"{path}: truncated: {quoted(name)} ends at byte {end} of {len(body)}")
    if end - start != element_count(shape) * kind.itemsize:
        raise CheckpointError(f"{path}: {quoted(name)} has {end - start} bytes, which is not {shape} of {dtype}")
    view = body[start:end]
    load = file.loader(name, lambda: view.view(kind).reshape(shape))
    tensor = StoredTensor(name, tuple(shape), dtype, path.name, load, offset=body_start + start)
    return start, end, tensor
