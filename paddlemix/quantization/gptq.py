"""GPTQ (Frantar et al., 2022): 4-bit weights of which each makes up for the rounding of those before it.

Of a linear layer ``y = x W`` not the error of W counts but that of y over calibration inputs, which is decided by
``H = sum(xᵀ x)``. Inputs are rounded one after the other; the error of each is spread over those that follow, by the
Cholesky factor of H's inverse. Layers are calibrated in the order of the computation, on what the layers before them
give once they are rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
import paddle
import paddle.nn as nn

from ..errors import ConfigurationError, NumericalError
from .plan import GROUP

DAMPING = 0.01
# Shares of a group's largest magnitude that are tried as its range.
_CLIPPING = np.arange(1.0, 0.59, -0.025, dtype=np.float32)
# Outputs that are rounded together, so that their group of 128 inputs stays in a core's cache.
_CHUNK = 1024


@dataclass(frozen=True)
class RoundedWeight:
    """A weight ``[in, out]`` as integers -8..7 (int8) and scales (float16 ``[ceil(in / 128), out]``)."""

    q: np.ndarray
    scales: np.ndarray

    def dequantized(self) -> np.ndarray:
        """Float32 ``[in, out]``."""
        return self.q * np.repeat(self.scales.astype(np.float32), GROUP, axis=0)[: len(self.q)]


def calibrate(
    model: nn.Layer,
    samples: Iterable[Mapping[str, paddle.Tensor]],
    *,
    damping: float = DAMPING,
    progress: Callable[[str], Any] = lambda line: None,
) -> dict[str, RoundedWeight]:
    """Round the linear layers of a float model's decoder blocks to 4 bits.

    Args:
        model: in evaluation mode, not quantized, with ``decoder_blocks`` and ``gptq_stages`` as
            ``QWenLMHeadModel`` has them. Its weights become the rounded ones.
        samples: what the model is called with (``input_ids`` ``[1, length]`` and ``images``), one conversation each.
            What reaches the blocks is held in memory for all of them.
        damping: added to the diagonal of H, as a share of its mean.
        progress: told one line for each block.

    Returns:
        Layer name to its rounded weight.

    Raises:
        ConfigurationError: no samples, or a model that is quantized already.
        NumericalError: activations that are not finite, or too few of them for this damping.
    """
    path, blocks = model.decoder_blocks
    layer_shapes(model)
    rounded: dict[str, RoundedWeight] = {}
    with paddle.no_grad():
        inputs = [_arguments_of(blocks, "0", partial(model, **sample, use_cache=False)) for sample in samples]
        if not inputs:
            raise ConfigurationError("samples: got none, expected at least one conversation")
        for number, block in enumerate(blocks):
            for stage in model.gptq_stages:
                computations = [partial(block, *arguments) for arguments in inputs]
                hessian = _hessian(block, stage[0], computations)
                for name in stage:
                    layer = f"{path}.{number}.{name}"
                    weight = attrgetter(name)(block).weight
                    rounded[layer] = round_weight(weight.astype("float32").numpy(), hessian, damping, layer)
                    weight.set_value(paddle.to_tensor(rounded[layer].dequantized()).astype(weight.dtype))
            inputs = [_following(arguments, block(*arguments)) for arguments in inputs]
            progress(f"block {number + 1} of {len(blocks)} is calibrated")
    return rounded


def layer_shapes(model: nn.Layer) -> dict[str, list[int]]:
    """The layers of a float model that :func:`calibrate` rounds: name to ``[in, out]``.

    Raises:
        ConfigurationError: a model that is quantized already.
    """
    path, blocks = model.decoder_blocks
    layers = {
        f"{path}.{number}.{name}": attrgetter(name)(block)
        for number, block in enumerate(blocks)
        for stage in model.gptq_stages
        for name in stage
    }
    if not all(isinstance(layer, nn.Linear) for layer in layers.values()):
        raise ConfigurationError("model: is quantized already; calibrate one with float weights")
    return {name: layer.weight.shape for name, layer in layers.items()}


def round_weight(
    weight: np.ndarray, hessian: np.ndarray, damping: float = DAMPING, name: str = "weight"
) -> RoundedWeight:
    """Round one weight.

    Args:
        weight: float32 ``[in, out]``.
        hessian: float64 ``[in, in]``, the sum of ``xᵀ x`` over the layer's inputs.
        name: for the error.

    Raises:
        NumericalError: a Hessian that is not finite, or with this damping not positive definite.
    """
    if not np.isfinite(hessian).all():
        raise NumericalError(f"{name}: its calibration inputs hold NaN or infinite values")
    hessian = hessian.copy()
    diagonal = np.diagonal(hessian).copy()
    unused = diagonal == 0  # inputs that are always 0: any weight will do, and 0 is exact
    diagonal[unused] = 1.0
    np.fill_diagonal(hessian, diagonal + damping * diagonal.mean())
    try:
        spread = np.linalg.cholesky(np.linalg.inv(hessian)).T.astype(np.float32)  # upper triangle
    except np.linalg.LinAlgError:
        raise NumericalError(
            f"{name}: its calibration inputs do not tell all weights apart with damping={damping:g}; use more samples "
            "or a larger damping"
        ) from None
    q = np.empty(weight.shape, np.int8)
    scales = np.empty((-(-len(weight) // GROUP), weight.shape[1]), np.float16)
    for start in range(0, weight.shape[1], _CHUNK):
        chunk = slice(start, start + _CHUNK)
        w = np.where(unused[:, None], np.float32(0), weight[:, chunk])
        _round_chunk(w, spread, diagonal.astype(np.float32), q[:, chunk], scales[:, chunk])
    return RoundedWeight(q, scales)


def _round_chunk(w: np.ndarray, spread: np.ndarray, importance: np.ndarray, q: np.ndarray, scales: np.ndarray) -> None:
    """Round ``w`` (overwritten) into ``q`` and ``scales``, group by group."""
    for group, start in enumerate(range(0, len(w), GROUP)):
        stop = min(start + GROUP, len(w))
        scales[group] = best_scales(w[start:stop], importance[start:stop])
        scale = scales[group].astype(np.float32)
        divisor = np.where(scale == 0, np.float32(1), scale)
        errors = np.empty((stop - start, w.shape[1]), np.float32)
        for i in range(start, stop):
            q[i] = np.clip(np.rint(w[i] / divisor), -8, 7)
            error = errors[i - start] = (w[i] - q[i] * scale) / spread[i, i]
            w[i + 1 : stop] -= spread[i, i + 1 : stop, None] * error
        w[stop:] -= spread[start:stop, stop:].T @ errors


def best_scales(w: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """One scale for each column of a group ``[inputs, columns]``, float16: of a grid of ranges the one with the least
    squared error, inputs weighted by ``importance``.
    """
    largest = np.abs(w).max(axis=0)
    best = np.zeros(w.shape[1], np.float16)
    least = np.full(w.shape[1], np.inf, np.float32)
    for share in _CLIPPING:
        candidate = (largest * (share / 7)).astype(np.float16)
        scale = candidate.astype(np.float32)
        divisor = np.where(scale == 0, np.float32(1), scale)
        error = importance @ np.square(np.clip(np.rint(w / divisor), -8, 7) * scale - w)
        better = error < least
        best[better], least[better] = candidate[better], error[better]
    return best


class _ReachedError(Exception):
    """A computation has reached the layer that it was run for."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self.arguments = arguments


class _Probe(nn.Layer):
    """Stands in for a layer and ends the computation: a hook on the layer would miss uses of its weight alone."""

    def forward(self, *arguments: Any) -> None:
        raise _ReachedError(arguments)


def _arguments_of(model: nn.Layer, name: str, compute: Callable[[], Any]) -> tuple[Any, ...]:
    """What the layer ``name`` of ``model`` is called with in a computation, which goes no further."""
    path, _, last = name.rpartition(".")
    parent = attrgetter(path)(model) if path else model
    layer = getattr(parent, last)
    setattr(parent, last, _Probe())
    try:
        compute()
    except _ReachedError as reached:
        return reached.arguments
    finally:
        setattr(parent, last, layer)
    raise RuntimeError(f"{name} takes no part in the computation")


def _hessian(block: nn.Layer, name: str, computations: Sequence[Callable[[], Any]]) -> np.ndarray:
    """The sum of ``xᵀ x`` over the inputs of the linear layer ``name`` in all computations, float64 ``[in, in]``."""
    total = np.zeros(2 * [attrgetter(name)(block).weight.shape[0]])
    for compute in computations:
        x = _arguments_of(block, name, compute)[0].astype("float32").flatten(0, -2)
        total += paddle.matmul(x, x, transpose_x=True).numpy()
    return total


def _following(arguments: tuple[Any, ...], output: Any) -> tuple[Any, ...]:
    """The next block's arguments: what a block returns takes the place of what it was given first."""
    results = output if isinstance(output, tuple) else (output,)
    return results + arguments[len(results) :]
