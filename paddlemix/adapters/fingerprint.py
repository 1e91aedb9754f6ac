"""Which base model an adapter belongs to: a checksum of weights that no layout and no quantization changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from ..checkpoint import dtypes
from ..checkpoint.readers import Checkpoint

if TYPE_CHECKING:
    import paddle.nn as nn

_PREFIXES, _ENDS = ("transformer.h.", "transformer.ln_f."), (".ln_1.weight", ".ln_2.weight", ".ln_f.weight")


def model_fingerprint(model: nn.Layer) -> str:
    """sha256, in hexadecimal, of the weights of the decoder's norms, rounded to bfloat16."""
    parameters = dict(model.named_parameters())

    def read(name: str) -> np.ndarray:
        return parameters[name].astype("float32").numpy()

    return _digest(parameters, read)


def checkpoint_fingerprint(checkpoint: Checkpoint) -> str:
    """The same from a model's files."""
    names = checkpoint.our_names()

    def read(name: str) -> np.ndarray:
        return dtypes.to_float32(checkpoint.read(names[name]), checkpoint.dtype(names[name]))

    return _digest(names, read)


def _digest(names: Iterable[str], read: Callable[[str], np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(name for name in names if name.startswith(_PREFIXES) and name.endswith(_ENDS)):
        digest.update(name.encode())
        digest.update(dtypes.from_float32(read(name), "bfloat16").tobytes())
    return digest.hexdigest()
