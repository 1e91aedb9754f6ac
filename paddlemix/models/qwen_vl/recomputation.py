"""Activations that are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
import paddle.nn as nn
from paddle.distributed.fleet.utils import recompute


def recomputed(function: Callable[..., Any], layer: nn.Layer, *inputs: Any) -> Any:
    """``function(*inputs)``, of whose activations only the inputs are kept.

    Random numbers, as of dropout, are the same in both passes.

    Args:
        layer: holds the parameters that ``function`` uses. Where neither they nor the inputs want a gradient, nothing
            is kept anyway, and ``function`` is called as it is.
    """
    trained = next((parameter for parameter in layer.parameters() if not parameter.stop_gradient), None)
    tensors = [x for x in inputs if isinstance(x, paddle.Tensor)]
    if not paddle.is_grad_enabled() or (trained is None and all(x.stop_gradient for x in tensors)):
        return function(*inputs)
    # Paddle warns where no input wants a gradient, though parameters, such as an adapter's, may; hence one of these.
    # The re-entrant form would give them none.
    return recompute(lambda _, *given: function(*given), trained, *inputs, use_reentrant=False)
