"""Choosing tokens where the logits are: a fixed list of operators, none of which sorts or waits for the host.

The distribution is inverted in the order of likelihood, equal tokens in the order of their ids, as
:class:`.sampler.RowSampler` does it: a random number gives the same token, whoever chooses.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import paddle

_LEAST = -104.0
"""Logarithm of a weight that is 0 in float32."""
_PARTS = 16
_ROUNDS = 7
"""Rounds that each divide an interval into 17 parts: 104 / 17 ** 7 is less than float32 resolves."""


@dataclass(frozen=True)
class DeviceChoice:
    """How the rows of a pass choose; float32 tensors ``[rows, 1]``.

    Attributes:
        temperature: positive; 1 in rows that are ``greedy``.
        top_p: 1 for all tokens.
        greedy: 1 where the likeliest token is taken, 0 elsewhere.
        parts: float32 ``[16]``, where an interval is divided; made here, since a graph may not be given constants.
    """

    temperature: paddle.Tensor
    top_p: paddle.Tensor
    greedy: paddle.Tensor
    parts: paddle.Tensor = field(
        default_factory=lambda: paddle.arange(1, _PARTS + 1, dtype="float32") / (_PARTS + 1), repr=False
    )


def choose_tokens(
    logits: paddle.Tensor, choice: DeviceChoice | None, uniforms: paddle.Tensor | None
) -> tuple[paddle.Tensor, paddle.Tensor]:
    """A token of each row and its log probability before temperature and top-p.

    Args:
        logits: float32 ``[rows, vocab]``.
        choice: ``None`` where every row takes its likeliest token.
        uniforms: float32 ``[rows, 1]``, each from 0 up to but not including 1, with ``choice``.

    Returns:
        int64 ``[rows, 1]`` and float32 ``[rows, 1]``; NaN where the logits are no numbers.
    """
    tokens = paddle.argmax(logits, axis=-1, keepdim=True)
    if choice is not None and uniforms is not None:
        drawn = _drawn(logits, choice, uniforms)
        tokens = paddle.where(choice.greedy > 0, tokens, drawn)
    chosen = paddle.take_along_axis(logits, tokens, axis=1)
    return tokens, chosen - paddle.logsumexp(logits, axis=-1, keepdim=True)


def _drawn(logits: paddle.Tensor, choice: DeviceChoice, uniforms: paddle.Tensor) -> paddle.Tensor:
    scaled = logits / choice.temperature
    scaled = scaled - scaled.max(axis=-1, keepdim=True)
    weights = paddle.exp(scaled)
    total = weights.sum(axis=-1, keepdim=True)
    # The nucleus: all that is likelier than its last value, and the first of those with that value.
    value, likelier, equal = _boundary(scaled, weights, choice.top_p * total, choice.parts)
    weight = paddle.exp(value)
    kept = paddle.clip(paddle.ceil((choice.top_p * total - likelier) / weight), min=1.0)
    kept = paddle.minimum(kept, equal.astype("float32").sum(axis=-1, keepdim=True))
    mass = paddle.where(choice.top_p < 1, likelier + kept * weight, total)
    target = uniforms * mass
    value, likelier, equal = _boundary(scaled, weights, target, choice.parts)
    counted = equal.astype("float32")
    last = counted.sum(axis=-1, keepdim=True) - 1
    which = paddle.floor((target - likelier) / paddle.exp(value))
    which = paddle.minimum(paddle.clip(which, min=0.0), last)
    reached = paddle.logical_and(equal, paddle.cumsum(counted, axis=-1) > which)
    return paddle.argmax(reached.astype("float32"), axis=-1, keepdim=True)


def _boundary(
    scaled: paddle.Tensor, weights: paddle.Tensor, mass: paddle.Tensor, parts: paddle.Tensor
) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """The value of the token with which the sum of weights, the likeliest first, exceeds ``mass``.

    Returns:
        The value and the weight of all that is likelier, ``[rows, 1]``, and which tokens have it, bool
        ``[rows, vocab]``.
    """
    low = paddle.full_like(mass, _LEAST)
    width = paddle.full_like(mass, -_LEAST)
    for _ in range(_ROUNDS):
        floors = low + width * parts  # [rows, parts], ascending, so that the sums above them descend
        above = (scaled.unsqueeze(1) >= floors.unsqueeze(2)).astype("float32")  # [rows, parts, vocab]
        sums = (above * weights.unsqueeze(1)).sum(axis=-1)  # no product of matrices, which a GPU may round
        width = width / (_PARTS + 1)
        low = low + width * (sums > mass).astype("float32").sum(axis=-1, keepdim=True)
    none = paddle.full_like(mass, float("inf"))
    value = paddle.where(scaled >= low, scaled, none).min(axis=-1, keepdim=True)
    likelier = paddle.where(scaled > value, weights, paddle.zeros_like(mass)).sum(axis=-1, keepdim=True)
    return value, likelier, scaled == value
