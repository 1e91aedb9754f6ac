"""Choosing the next token: greedy or random, with random numbers that depend on the seed and the row alone."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F


def greedy(logits: paddle.Tensor) -> paddle.Tensor:
    """The most likely token of each row: ``[rows, vocab]`` to int64 ``[rows]``."""
    return paddle.argmax(logits, axis=-1)


def sample(
    logits: paddle.Tensor, uniforms: np.ndarray, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> paddle.Tensor:
    """One random token of each row: float32 ``[rows, vocab]`` to int64 ``[rows]``.

    The distribution is inverted at a uniform number per row, so the device's own random state plays no part.

    Args:
        uniforms: ``[rows]``, each from 0 up to but not including 1.
        temperature: divides the logits; positive.
        top_k: keep the ``top_k`` most likely tokens; 0 keeps all.
        top_p: then keep the fewest most likely tokens that together reach this probability; at least one.
    """
    keep = min(top_k, logits.shape[-1]) if top_k else logits.shape[-1]
    ordered, tokens = paddle.topk(logits, keep, axis=-1)
    probabilities = F.softmax(ordered / temperature, axis=-1)
    cumulative = paddle.cumsum(probabilities, axis=-1)
    if top_p < 1.0:
        likelier = cumulative - probabilities
        kept = likelier < top_p
        kept[:, 0] = True
        cumulative = paddle.cumsum(probabilities * kept.astype(probabilities.dtype), axis=-1)
    targets = paddle.to_tensor(uniforms[:, None].astype(np.float32)) * cumulative[:, -1:]
    # A target that rounding lifts to the whole sum would point behind the last kept token.
    last = (cumulative < cumulative[:, -1:]).astype("int64").sum(axis=-1)
    choice = paddle.minimum((cumulative <= targets).astype("int64").sum(axis=-1), last)
    return paddle.take_along_axis(tokens, choice.unsqueeze(1), axis=1).squeeze(1)


def token_log_probs(logits: paddle.Tensor, tokens: paddle.Tensor) -> paddle.Tensor:
    """Log probability of one token per row: float32 ``[rows, vocab]`` and int64 ``[rows]`` to float32 ``[rows]``."""
    chosen = paddle.take_along_axis(logits, tokens.unsqueeze(1), axis=1).squeeze(1)
    return chosen - paddle.logsumexp(logits, axis=-1)


def fetch_choice(logits: paddle.Tensor, tokens: paddle.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and their log probabilities in the host's memory: int64 ``[rows]`` and float64 ``[rows]``.

    Args:
        logits: float32 ``[rows, vocab]``.
        tokens: int64 ``[rows]``.
    """
    if not logits.place.is_cpu_place():
        # One transfer from the device. Ids are exact in float64.
        log_probs = token_log_probs(logits, tokens).astype("float64")
        fetched = paddle.stack([tokens.astype("float64"), log_probs]).numpy()
        return fetched[0].astype(np.int64), fetched[1]
    # On the host NumPy sums the exponentials several times faster than Paddle's kernel.
    values, chosen = logits.numpy(), tokens.numpy()
    with np.errstate(invalid="ignore"):  # infinite logits become NaN, which the caller reports
        highest = values.max(axis=-1, keepdims=True)
        log_sums = highest[:, 0] + np.log(np.exp(values - highest).sum(axis=-1))
        return chosen, (values[np.arange(len(chosen)), chosen] - log_sums).astype(np.float64)
