"""What the tokenizer's call returns, and padding of rows of unequal length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import ConfigurationError, PromptError
from ...utils.dependencies import require

IGNORED_LABEL = -100
"""The label of a position that is not trained."""


class TokenizedBatch(dict):
    """A dict (``input_ids``, ``attention_mask``, ``token_type_ids``) whose entries are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no entry {name!r}; entries: {', '.join(self)}") from None

    def to_tensors(self, kind: str | None) -> TokenizedBatch:
        """The entries as int64 arrays of NumPy ("np") or Paddle ("pd"), or as they are (None); equal rows needed."""
        if kind is None:
            return self
        if kind not in ("np", "pd"):
            raise ConfigurationError(f"return_tensors: got {kind!r}, expected None, 'np' or 'pd'")
        lengths = sorted({len(row) for row in self["input_ids"]})
        if len(lengths) > 1:
            raise PromptError(
                f"return_tensors={kind!r}: rows of {lengths[0]} to {lengths[-1]} ids make no array; pass padding=True"
            )
        arrays = {name: np.asarray(rows, dtype=np.int64) for name, rows in self.items()}
        if kind == "pd":
            paddle = require("paddle", "return_tensors='pd'")
            arrays = {name: paddle.to_tensor(array) for name, array in arrays.items()}
        return TokenizedBatch(arrays)


def pad_rows(columns: dict[str, Sequence[Sequence[int]]], length: int, side: str, pad_id: int) -> TokenizedBatch:
    """Rows of every column padded to ``length`` ids; longer rows stay as they are.

    columns: ``input_ids`` is padded with ``pad_id``, ``labels`` with ``IGNORED_LABEL``, anything else with 0.
    side: "left" or "right".
    """
    fill = {"input_ids": pad_id, "labels": IGNORED_LABEL}
    padded = TokenizedBatch()
    for name, rows in columns.items():
        padded[name] = []
        for row in rows:
            padding = [fill.get(name, 0)] * (length - len(row))
            padded[name].append(padding + list(row) if side == "left" else list(row) + padding)
    return padded
