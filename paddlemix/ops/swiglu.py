"""The gated activation of the feed-forward layer (Shazeer, 2020)."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F


def swiglu(gate: paddle.Tensor, up: paddle.Tensor) -> paddle.Tensor:
    """Return ``silu(gate) * up``, all of one shape and dtype."""
    return F.silu(gate) * up
