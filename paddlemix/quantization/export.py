"""A calibrated model on disk, in the format of the published Qwen-VL-Chat-Int4."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint import layouts, writer
from ..checkpoint.convert import Conversion, copy_side_files, file_metadata
from ..checkpoint.readers import Checkpoint, open_checkpoint
from ..errors import CheckpointError, ConfigurationError
from ..files import QUANTIZE_CONFIG_FILE, write_json
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
    damping: float = DAMPING,
    max_shard_bytes: int = writer.DEFAULT_SHARD_BYTES,
) -> Path:
    """Write ``source`` with the weights of ``rounded`` (from :func:`.gptq.calibrate`) in their place into ``target``.

    All other weights come from the files of ``source``, as float16. Each rounded layer gets a bias, of zeros where it
    has none, as in the published files. Tokenizer and configuration are copied; ``config.json`` gets a
    ``quantization_config`` and a ``quantize_config.json`` stands beside it.

    Raises:
        ConfigurationError: a layer whose sizes the format cannot hold.
        CheckpointError: a source that is quantised or damaged, values too large for float16, a folder that cannot be
            written.
    """
    checkpoint = check_export(source, {name: weight.q.shape for name, weight in rounded.items()}, target)
    target, folder = Path(target), _folder(checkpoint)
    conversion = Conversion(checkpoint, layouts.HF, "float16", check_finite=True)
    tensors = [*_tensors(checkpoint, rounded, conversion)]
    writer.write_checkpoint(
        target,
        tensors,
        file_metadata(layouts.HF),
        max_shard_bytes=max_shard_bytes,
        check=conversion.raise_problems,
    )
    settings = quantize_config(damping)
    copy_side_files(
        folder,
        target,
        {
            "bf16": False,
            "fp16": True,
            "fp32": False,
            "torch_dtype": "float16",
            "quantization_config": {**settings, "quant_method": GPTQ_METHOD},
        },
    )
    write_json(target / QUANTIZE_CONFIG_FILE, settings)
    return target


def check_export(
    source: str | os.PathLike[str], shapes: Mapping[str, Sequence[int]], target: str | os.PathLike[str]
) -> Checkpoint:
    """Open ``source``, whose layers of ``shapes`` (name to ``[in, out]``) are to be written to ``target``.

    Calibration takes long, so whoever calibrates asks before it. Raises what :func:`save_gptq` raises for arguments.
    """
    checkpoint, target = open_checkpoint(source), Path(target)
    if checkpoint.packed or checkpoint.gptq_layers():
        raise CheckpointError(f"{checkpoint.path}: is quantised already; give the unquantised weights")
    if target.exists() and _folder(checkpoint).resolve() == target.resolve():
        raise CheckpointError(f"{target}: is the folder of the source itself; name another one")
    for name, shape in shapes.items():
        if any(size % MULTIPLE for size in shape):
            raise ConfigurationError(
                f"{name}: has {' x '.join(map(str, shape))} weights, but GPTQ's format needs multiples of {MULTIPLE}; "
                "use quantization='int4', which does not"
            )
    return checkpoint


def _folder(checkpoint: Checkpoint) -> Path:
    return checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent


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
