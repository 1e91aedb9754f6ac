"""A calibrated model on disk, in the format of the published Qwen-VL-Chat-Int4."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint import layouts, writer
from ..checkpoint.convert import Conversion, file_metadata, json_bytes, side_files
from ..checkpoint.layouts import WeightTable
from ..checkpoint.readers import Checkpoint, open_checkpoint
from ..checkpoint.readers.tensor import element_count
from ..checkpoint.target import check_target, require_free
from ..errors import CheckpointError, ConfigurationError
from ..utils.files import QUANTIZE_CONFIG_FILE
from ..utils.progress import Progress
from .gptq import DAMPING, RoundedWeight
from .gptq_format import symmetric_layer
from .plan import GPTQ_METHOD, GROUP

#: AutoGPTQ unpacks 32 values at a time
MULTIPLE = 32


def save_gptq(
    source: str | os.PathLike[str],
    rounded: Mapping[str, RoundedWeight],
    target: str | os.PathLike[str],
    *,
    table: WeightTable,
    damping: float = DAMPING,
    max_shard_bytes: int = writer.DEFAULT_SHARD_BYTES,
    overwrite: bool = False,
    progress: Progress = None,
) -> Path:
    """Write ``source`` with the weights of ``rounded`` (from :func:`.gptq.calibrate`) in their place into ``target``.

    All other weights come from the files of ``source``, as float16. Each rounded layer gets a bias, of zeros where it
    has none, as in the published files. Tokenizer and configuration are copied; ``config.json`` gets a
    ``quantization_config`` and a ``quantize_config.json`` stands beside it. ``overwrite``: a result that an earlier run
    left in ``target`` is replaced. ``progress``: called with (bytes written, bytes in all).

    Raises:
        TargetError: ``target`` holds something else, or is the folder of the source.
        ConfigurationError: a layer whose sizes the format cannot hold.
        CheckpointError: a source that is quantized or damaged, values too large for float16, a folder that cannot be
            written.
    """
    shapes = {name: weight.q.shape for name, weight in rounded.items()}
    checkpoint, folder = check_export(source, shapes, target, table=table, overwrite=overwrite), Path(target)
    conversion = Conversion(checkpoint, layouts.HF, "float16", check_finite=True)
    settings = quantize_config(damping)
    changes = {
        "bf16": False,
        "fp16": True,
        "fp32": False,
        "torch_dtype": "float16",
        "quantization_config": {**settings, "quant_method": GPTQ_METHOD},
    }
    writer.write_checkpoint(
        folder,
        [*_tensors(checkpoint, rounded, conversion)],
        file_metadata(layouts.HF),
        side_files={**side_files(checkpoint.folder, changes), QUANTIZE_CONFIG_FILE: json_bytes(settings)},
        max_shard_bytes=max_shard_bytes,
        check=conversion.raise_problems,
        progress=progress,
        guard=partial(require_free, overwrite=overwrite),
    )
    return folder


def check_export(
    source: str | os.PathLike[str],
    shapes: Mapping[str, Sequence[int]],
    target: str | os.PathLike[str],
    *,
    table: WeightTable,
    overwrite: bool = False,
) -> Checkpoint:
    """Open ``source``, whose layers of ``shapes`` (name to ``[in, out]``) are to be written to ``target``.

    Calibration takes long, so whoever calibrates asks before it; also whether the disk has room. Raises what
    :func:`save_gptq` raises for arguments.
    """
    folder = check_target(target, sources={"the source": Path(source)})
    require_free(folder, overwrite=overwrite)
    checkpoint = open_checkpoint(source, table)
    if checkpoint.quantized:
        raise CheckpointError(f"{checkpoint.path}: is quantized already; give the unquantized weights")
    for name, shape in shapes.items():
        if any(size % MULTIPLE for size in shape):
            raise ConfigurationError(
                f"{name}: has {' x '.join(map(str, shape))} weights, but GPTQ's format needs multiples of {MULTIPLE}; "
                "use quantization='int4', which does not"
            )
    writer.require_room(folder, _written_bytes(checkpoint, shapes))
    return checkpoint


def _written_bytes(checkpoint: Checkpoint, shapes: Mapping[str, Sequence[int]]) -> int:
    """The size of the written weights: float16, and of layers in ``shapes`` 4 bits with a scale and a zero point for
    each group, an index for each input and a bias.
    """
    total, names = 0, checkpoint.our_names()
    for ours, theirs in names.items():
        layer = ours[: -len(".weight")]
        shape = shapes.get(layer)
        if shape is None:
            total += 2 * element_count(checkpoint.shape(theirs))
        else:
            inputs, outputs = shape
            groups = -(-inputs // GROUP)
            total += inputs * outputs // 2 + groups * outputs * 5 // 2 + 4 * inputs
            total += 0 if f"{layer}.bias" in names else 2 * outputs
    return total


def quantize_config(damping: float = DAMPING) -> dict[str, Any]:
    """AutoGPTQ's settings, as they stand beside the published weights."""
    return {
        "bits": 4,
        "group_size": GROUP,
        "damp_percent": damping,
        "desc_act": False,
        "static_groups": False,
        "sym": True,
        "true_sequential": True,
        "model_name_or_path": None,
        "model_file_base_name": "model",
    }


def _tensors(
    checkpoint: Checkpoint, rounded: Mapping[str, RoundedWeight], conversion: Conversion
) -> Iterator[writer.TensorSource]:
    """All tensors of the written model, in the order of the source."""
    names = checkpoint.our_names()
    for ours, theirs in names.items():
        layer = ours[: -len(".weight")]
        if layer not in rounded:
            yield conversion.source(ours, theirs)
            continue
        stored = symmetric_layer(rounded[layer].q, rounded[layer].scales)
        for part in layouts.GPTQ_PARTS:
            yield _array(f"{layer}.{part}", getattr(stored, part))
        if f"{layer}.bias" not in names:
            yield _array(f"{layer}.bias", np.zeros(stored.out_features, np.float16))


def _array(name: str, array: np.ndarray) -> writer.TensorSource:
    return writer.TensorSource(name, array.shape, str(array.dtype), lambda: [np.ascontiguousarray(array)])
