"""Adapters on disk: reading any layout, checking, writing ``peft``'s, and converting to it. Needs no Paddle."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint import chunks, dtypes, hub, open_checkpoint
from ..checkpoint.convert import check_tensors
from ..checkpoint.layouts import WeightTable
from ..checkpoint.loading import check_config
from ..checkpoint.readers import Checkpoint, raise_listed
from ..checkpoint.readers.pdparams import read_pdparams
from ..checkpoint.readers.safetensors_file import read_safetensors
from ..checkpoint.readers.tensor import StoredTensor
from ..checkpoint.readers.torch_zip import read_torch_zip
from ..checkpoint.target import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_MARKER,
    ADAPTER_WEIGHTS_FILE,
    BASE_MARKER,
    Guard,
    check_target,
    publish,
    require_free,
    staging_in,
    survey,
)
from ..checkpoint.writer import TensorSource, write_safetensors
from ..errors import AdapterError, CheckpointError
from ..models.registry import DEFAULT_FAMILY, family_of
from ..utils import parameter_names as naming
from ..utils.display import quoted
from ..utils.files import CONFIG_FILE, read_json_object, write_json
from . import peft
from .config import LoRAConfig
from .fingerprint import checkpoint_fingerprint

WEIGHTS_FILE, OLD_WEIGHTS_FILE, CONFIG = ADAPTER_WEIGHTS_FILE, "adapter_model.bin", ADAPTER_CONFIG_FILE
PADDLENLP_WEIGHTS_FILE, PADDLENLP_CONFIG = "lora_model_state.pdparams", "lora_config.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adapter:
    """An adapter in a directory, its tensors unread.

    targets, modules_to_save: what its own settings say, in ``peft``'s terms.
    base: fingerprint of the model that it was trained on, where the file has one; base_name: what that was called.
    """

    path: Path
    config: LoRAConfig
    tensors: peft.AdapterTensors
    targets: list[str]
    base: str | None
    base_name: str | None


# ---------------------------------------------------------------------------------------------------- reading


def read_adapter(directory: str | os.PathLike[str], table: WeightTable) -> Adapter:
    """The adapter in a directory that ``peft``, PaddleNLP or :func:`save_adapter` wrote.

    Args:
        directory: with the settings and the weights.
        table: the weights of the family that the adapter is for.

    Raises:
        AdapterError: there is none, or one of a kind that is not supported.
        CheckpointError: damaged or unsafe files.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise AdapterError(f"adapter: {str(folder)!r} is no directory; expected one with {CONFIG}")
    if (folder / PADDLENLP_WEIGHTS_FILE).is_file() and not (folder / CONFIG).is_file():
        settings, base = _settings(folder / PADDLENLP_CONFIG), None
        config = peft.config_from_paddlenlp(settings, str(folder))
        tensors = peft.tensors_from_paddlenlp(read_pdparams(folder / PADDLENLP_WEIGHTS_FILE), str(folder), table)
        targets = sorted(tensors.pairs)
    else:
        settings = _settings(folder / CONFIG)
        config = peft.config_from_peft(settings, str(folder))
        stored, base = _peft_tensors(folder)
        tensors = peft.tensors_from_peft(stored, str(folder), table)
        targets = list(config.targets or ()) or sorted(tensors.pairs)
    problems = [
        f"{quoted(layer)} has rank {a.shape[1]}, the settings say {config.r}"
        for layer, (a, _) in tensors.pairs.items()
        if a.shape[1] != config.r
    ]
    parts = [(layer, part) for layer, pair in tensors.pairs.items() for part in pair]
    problems += [
        f"{quoted(name)} holds {tensor.dtype} values, expected floating-point ones"
        for name, tensor in [*parts, *tensors.whole.items()]
        if tensor.dtype not in dtypes.FLOATING
    ]
    raise_listed(str(folder), problems, AdapterError)
    return Adapter(folder, config, tensors, targets, base, _text(settings.get("base_model_name_or_path")))


def _peft_tensors(folder: Path) -> tuple[dict[str, StoredTensor], str | None]:
    if (folder / WEIGHTS_FILE).is_file():
        tensors, metadata = read_safetensors(folder / WEIGHTS_FILE)
        return tensors, metadata.get(BASE_MARKER)
    if (folder / OLD_WEIGHTS_FILE).is_file():
        return read_torch_zip(folder / OLD_WEIGHTS_FILE), None
    raise AdapterError(f"{folder}: no adapter's weights found; expected {WEIGHTS_FILE} or {OLD_WEIGHTS_FILE}")


def _settings(path: Path) -> dict[str, Any]:
    settings = read_json_object(path)
    if settings is None:
        raise AdapterError(f"{path.parent}: no adapter found; expected {path.name} beside its weights")
    return settings


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def require_fit(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]], base: str) -> None:
    """Raise AdapterError unless the adapter is for a model with weights of these ``shapes`` (by name, as
    ``WeightTable.expected_shapes`` has them) and the fingerprint ``base``.
    """
    problems = []
    for layer, (a, b) in adapter.tensors.pairs.items():
        shape, came = shapes.get(f"{layer}.weight"), (a.shape[0], b.shape[1])
        if shape is None or not adapter.tensors.table.is_linear_layer(layer):
            problems.append(f"{quoted(layer)} is no linear layer of the model")
        elif shape != came:
            problems.append(f"{quoted(layer)} is for {came[0]} inputs and {came[1]} outputs, the model's has {shape}")
    for name, values in adapter.tensors.whole.items():
        if shapes.get(name) != values.shape:
            wanted = f"the model's has {shapes[name]}" if name in shapes else "the model has none"
            problems.append(f"{quoted(name)} has shape {values.shape}, {wanted}")
    raise_listed(f"{adapter.path}: does not fit the model", problems, AdapterError)
    if adapter.base is not None and adapter.base != base:
        trained = f" ({adapter.base_name})" if adapter.base_name else ""
        raise AdapterError(
            f"{adapter.path}: was trained on another base model{trained}: the weights of the norms differ; "
            "use it with that one"
        )


def read_values(adapter: Adapter, name: str, tensor: StoredTensor, dtype: str) -> np.ndarray:
    """A tensor of the adapter as ``dtype`` (bfloat16 as uint16).

    Raises:
        AdapterError: NaN or infinity in it.
    """
    values = dtypes.cast(tensor.load(), tensor.dtype, dtype)
    if dtypes.count_non_finite(values, dtype):
        raise AdapterError(f"{adapter.path}: {name!r} holds NaN or infinite values, or such too large for {dtype}")
    return values


def whole_layers(adapter: Adapter) -> list[str]:
    """The layers that the adapter's whole parameters belong to; where its settings name a layer around, that one."""
    found = set()
    for name in adapter.tensors.whole:
        parts = name.split(".")[:-1]
        around = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
        named = (layer for layer in around if any(naming.matches(layer, p) for p in adapter.config.modules_to_save))
        found.add(next(named, around[-1]))
    for pattern in adapter.config.modules_to_save:
        if not any(naming.matches(layer, pattern) for layer in found):
            # the original's fine-tuning under DeepSpeed loses them
            logger.warning("%s: has no weights of %r, although its settings name it.", adapter.path, pattern)
    return sorted(layer for layer in found if not any(layer.startswith(f"{other}.") for other in found))


# ---------------------------------------------------------------------------------------------------- writing


def convert_adapter(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    base: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Adapter:
    """Write the adapter in ``source``, of any layout that can be read, as ``peft`` would into ``target``.

    Args:
        dtype: ``float32``, ``bfloat16`` or ``float16``; by default as stored.
        base: directory or name of the base model: the adapter is checked against it, and gets its fingerprint.
        overwrite: replace a result that an earlier run wrote into ``target``.

    Returns:
        What was read.

    Raises:
        TargetError: ``target`` holds something else, or is the folder of the source.
        AdapterError, CheckpointError, ConfigurationError, ModelNotFoundError.
    """
    if dtype is not None:
        dtypes.check_target(dtype)
    folder = check_target(target, sources={"the source": Path(source)})
    guard = partial(require_free, overwrite=overwrite)
    guard(folder)
    directory = None if base is None else hub.resolve(base)
    family = DEFAULT_FAMILY if directory is None else family_of(directory)
    adapter = read_adapter(source, family.weights)
    fingerprint, base_name = adapter.base, adapter.base_name
    if directory is not None:
        checkpoint, config = open_base(directory)
        fingerprint, base_name = checkpoint_fingerprint(checkpoint), str(base)
        require_fit(adapter, checkpoint.table.expected_shapes(config), fingerprint)
    settings = peft.config_to_peft(adapter.config, adapter.targets, whole_layers(adapter), base_name)
    for name, (tensor, _) in peft.tensors_to_peft(adapter.tensors).items():
        read_values(adapter, name, tensor, dtype or tensor.dtype)
    write_adapter(folder, settings, adapter.tensors, fingerprint, dtype, guard=guard)
    return adapter


def open_base(directory: Path) -> tuple[Checkpoint, dict[str, Any]]:
    """The weights of a base model, and its checked configuration.

    Raises:
        CheckpointError: files are missing or damaged, or the weights do not fit the configuration.
        ConfigurationError: a configuration that cannot work.
    """
    family = family_of(directory)
    config = family.read_config(directory)
    if config is None:
        raise CheckpointError(f"{directory}: {CONFIG_FILE} is missing; expected the directory of a model")
    checkpoint = open_checkpoint(directory, family.weights)
    if checkpoint.quantized:
        check_config(checkpoint, config)
    else:
        check_tensors(checkpoint, config)
    return checkpoint, config


def write_adapter(
    folder: Path,
    settings: Mapping[str, Any],
    tensors: peft.AdapterTensors,
    base: str | None,
    dtype: str | None = None,
    *,
    guard: Guard | None = None,
) -> None:
    """Write ``adapter_config.json`` and the tensors beside it, converted to ``dtype``, with the fingerprint ``base``.

    Raises:
        CheckpointError: ``folder`` cannot be written, or ``guard`` refuses it; it is then as it was.
    """
    sources = []
    for name, (tensor, turned) in peft.tensors_to_peft(tensors).items():
        wanted = dtype if dtype is not None and tensor.dtype in dtypes.FLOATING else tensor.dtype

        def pieces(tensor: StoredTensor = tensor, turned: bool = turned, wanted: str = wanted) -> Any:
            return chunks.converted(tensor.load(), turned, tensor.dtype, wanted)

        sources.append(TensorSource(name, tensor.shape[::-1] if turned else tensor.shape, wanted, pieces))
    metadata = {"format": "pt", ADAPTER_MARKER: "1", **({} if base is None else {BASE_MARKER: base})}
    with staging_in(folder, guard) as staging:
        planned = [WEIGHTS_FILE, CONFIG]
        staging.record(planned)
        write_safetensors(staging.path / WEIGHTS_FILE, sources, metadata)
        write_json(staging.path / CONFIG, settings)
        old = survey(folder).results if guard is not None else ()
        staging.record(planned, publishing=True, replaces=[*old])
        publish(staging.path, folder, [CONFIG], [WEIGHTS_FILE], old, old_weights=[WEIGHTS_FILE])
