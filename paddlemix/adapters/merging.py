"""A model with an adapter added to its weights, from files to files with little memory. Float ones need no Paddle."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint import chunks, dtypes, hub, layouts, writer
from ..checkpoint.convert import Conversion, file_metadata, files_identity, json_bytes, side_files
from ..checkpoint.readers import Checkpoint
from ..checkpoint.readers.tensor import StoredTensor
from ..checkpoint.target import check_target, require_free
from ..models.registry import family_of
from ..utils.files import CONFIG_FILE, GENERATION_CONFIG_FILE, read_json_object
from ..utils.progress import Progress
from .dequantizing import DequantizedWeights
from .fingerprint import checkpoint_fingerprint
from .stored import Adapter, open_base, read_adapter, read_values, require_fit


def merge_adapter(
    base: str | os.PathLike[str],
    adapter: str | os.PathLike[str],
    output: str | os.PathLike[str],
    dtype: str | None = None,
    *,
    max_shard_bytes: int = writer.DEFAULT_SHARD_BYTES,
    overwrite: bool = False,
    progress: Progress = None,
) -> Path:
    """Write the model ``base`` with ``adapter`` added to its weights into ``output``: weights, configuration,
    tokenizer. That loads like any model. A base model becomes one that converses, as adapters learn to.

    One weight at a time is in memory. Quantized weights become 16-bit ones. Run again after an interruption, it goes on
    where it stopped.

    Args:
        base: directory or name of the model, of any layout.
        adapter: directory of the adapter, of any layout.
        dtype: ``float32``, ``bfloat16`` or ``float16``; by default as ``base`` has it, with a quantized one as it has
            its embeddings.
        overwrite: replace a result that an earlier run wrote into ``output``.
        progress: called with (bytes written, bytes in all).

    Raises:
        TargetError: ``output`` holds something else, or is the folder of the model or of the adapter.
        AdapterError: the adapter is for another model, or of a kind that is not supported.
        CheckpointError: damaged files, values that do not fit ``dtype``, or a folder that cannot be written.
        ConfigurationError, ModelNotFoundError.
    """
    if dtype is not None:
        dtypes.check_target(dtype)
    check_target(output, "output", {"the adapter": Path(adapter)})
    directory = hub.resolve(base)
    read = read_adapter(adapter, family_of(directory).weights)
    target = check_target(output, "output", {"the base model": directory})
    checkpoint, config = open_base(directory)
    shapes = checkpoint.table.expected_shapes(config)
    require_fit(read, shapes, checkpoint_fingerprint(checkpoint))
    quantized = DequantizedWeights(checkpoint, shapes)
    if quantized.names and dtype is None:
        dtype = checkpoint.dtype(checkpoint.our_names()[checkpoint.table.embedding])
    merging = _Merging(checkpoint, quantized, read, dtype)
    writer.write_checkpoint(
        target,
        [merging.tensor(name, shape) for name, shape in shapes.items()],
        file_metadata(layouts.PADDLE),
        side_files=_side_files(directory, dtype),
        made_from={
            "base": files_identity(checkpoint.files),
            "adapter": files_identity(sorted(path for path in read.path.iterdir() if path.is_file())),
            "dtype": dtype,
        },
        max_shard_bytes=max_shard_bytes,
        check=merging.conversion.raise_problems,
        progress=progress,
        guard=partial(require_free, overwrite=overwrite),
    )
    return target


def _side_files(directory: Path, dtype: str | None) -> writer.SideFiles:
    """Configuration and tokenizer of the merged model: its weights are float ones, and it converses."""
    changes: dict[str, Any] = {} if dtype is None else {"torch_dtype": dtype}
    if "quantization_config" in (read_json_object(directory / CONFIG_FILE) or {}):
        changes["quantization_config"] = None
    files = side_files(directory, changes)
    generation = read_json_object(directory / GENERATION_CONFIG_FILE)
    if generation is not None and generation.get("chat_format") == "raw":
        files[GENERATION_CONFIG_FILE] = json_bytes({**generation, "chat_format": "chatml"})
    return files


class _Merging:
    """The tensors of the merged model."""

    def __init__(
        self, checkpoint: Checkpoint, quantized: DequantizedWeights, adapter: Adapter, dtype: str | None
    ) -> None:
        self.checkpoint, self.quantized, self.adapter, self.dtype = checkpoint, quantized, adapter, dtype
        self.conversion = Conversion(checkpoint, layouts.PADDLE, dtype, check_finite=True)
        self.names = checkpoint.our_names()

    def tensor(self, name: str, shape: tuple[int, ...]) -> writer.TensorSource:
        """The weight ``name`` of the merged model, which has ``shape``."""
        layer = name[: -len(".weight")] if name.endswith(".weight") else None
        if name in self.adapter.tensors.whole:
            values = self.adapter.tensors.whole[name]
            wanted = self._dtype_of(name)
            return writer.TensorSource(name, shape, wanted, lambda: self._whole(name, values, wanted))
        if name in self.quantized.names:
            wanted = self._dtype_of(name)
            return writer.TensorSource(name, shape, wanted, lambda: self._dequantized(name, layer, shape, wanted))
        if layer in self.adapter.tensors.pairs:
            wanted = self._dtype_of(name)
            return writer.TensorSource(name, shape, wanted, lambda: self._sum(name, layer, wanted))
        return self.conversion.source(name, self.names[name])

    def _dtype_of(self, name: str) -> str:
        return self.dtype or self.checkpoint.dtype(self.names[name])

    def _whole(self, name: str, values: StoredTensor, wanted: str) -> Iterator[np.ndarray]:
        yield from chunks.pieces(read_values(self.adapter, name, values, wanted))

    def _pair(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        a, b = (read_values(self.adapter, layer, part, "float32") for part in self.adapter.tensors.pairs[layer])
        return a * np.float32(self.adapter.config.scaling), b

    def _sum(self, name: str, layer: str, wanted: str) -> Iterator[np.ndarray]:
        """A float weight with its adapter, a few rows of inputs at a time."""
        theirs, (a, b) = self.names[name], self._pair(layer)
        turned = self.checkpoint.table.is_transposed(name, self.checkpoint.layout, layouts.PADDLE)
        stored, at = self.checkpoint.dtype(theirs), 0
        for piece in chunks.converted(self.checkpoint.read(theirs), turned, stored, "float32"):
            yield self._cast(name, piece + a[at : at + len(piece)] @ b, wanted)
            at += len(piece)

    def _dequantized(self, name: str, layer: str | None, shape: tuple[int, ...], wanted: str) -> Iterator[np.ndarray]:
        """A quantized weight with its adapter if it has one. It comes by outputs and is written by inputs, so all of it
        is held, in 16 bits.
        """
        pair = self._pair(layer) if layer in self.adapter.tensors.pairs else None
        result = np.empty(shape, dtypes.STORAGE[wanted])
        for outputs, values in self.quantized.chunks(name):
            if pair is not None:
                values = values + pair[0] @ pair[1][:, outputs]
            result[..., outputs] = self._cast(name, values, wanted)
        yield from chunks.pieces(result)

    def _cast(self, name: str, values: np.ndarray, wanted: str) -> np.ndarray:
        result = dtypes.from_float32(values, wanted)
        if dtypes.count_non_finite(result, wanted):
            self.conversion.problems.append(f"{name!r} holds NaN or infinite values, or such too large for {wanted}")
        return result
