"""Which base model an adapter belongs to: a checksum of weights that no layout and no quantization changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from ..checkpoint import dtypes
from ..checkpoint.layouts import WeightTable
from ..checkpoint.readers import Checkpoint

if TYPE_CHECKING:
    import paddle.nn as nn


def model_fingerprint(model: nn.Layer) -> str:
    """sha256, in hexadecimal, of the weights in ``fingerprint`` of the model's table, rounded to bfloat16."""
    parameters = dict(model.named_parameters())

    def read(name: str) -> np.ndarray:
        return parameters[name].astype("float32").numpy()

    return _digest(parameters, read, model.weight_table)


def checkpoint_fingerprint(checkpoint: Checkpoint) -> str:
    """The same from a model's files."""
    names = checkpoint.our_names()

    def read(name: str) -> np.ndarray:
        return dtypes.to_float32(checkpoint.read(names[name]), checkpoint.dtype(names[name]))

    return _digest(names, read, checkpoint.table)


def _digest(names: Iterable[str], read: Callable[[str], np.ndarray], table: WeightTable) -> str:
    digest = hashlib.sha256()
    found = {name: table.find_rule(name) for name in names}
    for name in sorted(name for name, rule in found.items() if rule and rule[0].name in table.fingerprint):
        digest.update(name.encode())
        digest.update(dtypes.from_float32(read(name), "bfloat16").tobytes())
    return digest.hexdigest()
