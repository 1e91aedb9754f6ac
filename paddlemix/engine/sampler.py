"""From the logits of one row to its next token, in NumPy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import NumericalError
from .request import LogitsHook, SamplingParams, TokenLogprob


class RowSampler:
    """Chooses the tokens of one row; what other rows do beside it plays no part.

    Args:
        params: how.
        prompt_ids: what repetition counts from.
        vocab_size: ids from here on are never chosen.
        hook: called with the row's logits before anything else.
    """

    def __init__(
        self, params: SamplingParams, prompt_ids: Sequence[int], vocab_size: int, hook: LogitsHook | None = None
    ) -> None:
        self._params = params
        self._vocab_size = vocab_size
        self._hook = hook
        self._ids = list(prompt_ids)
        self._prompt_length = len(self._ids)
        self._generated: Counter[int] = Counter()
        self._stops = np.array([stop for stop in params.stop_token_ids if stop < vocab_size], dtype=np.int64)
        self._bias = _arrays(params.logit_bias)
        self._generator = row_generators(params.seed, params.seed_index + 1)[-1] if params.temperature > 0 else None

    def choose(self, logits: np.ndarray, allowed: np.ndarray | None = None) -> TokenLogprob:
        """The next token, which counts as said from now on.

        Args:
            logits: float32 ``[at least vocab_size]``; left as they are.
            allowed: bool ``[vocab_size]``, what a grammar permits.

        Raises:
            NumericalError: the logits are not numbers, or nothing may be chosen.
        """
        logits = self._processed(logits, allowed)
        highest = logits.max()
        if not np.isfinite(highest):
            raise NumericalError(
                f"logits: not a number at new token {len(self._ids) - self._prompt_length + 1}; the weights or the "
                "images' pixels are damaged, or the dtype is too narrow for them"
            )
        token = int(logits.argmax()) if self._generator is None else self._draw(logits, self._generator.random())
        chosen = self._with_logprobs(logits, highest, token)
        self._ids.append(token)
        self._generated[token] += 1
        return chosen

    def _processed(self, logits: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
        params = self._params
        if self._hook is not None:
            logits = self._hook(np.array(self._ids, dtype=np.int64), logits)
        original, logits = logits, logits[: self._vocab_size]
        if params.repetition_penalty != 1.0:
            seen = np.unique([i for i in self._ids if i < self._vocab_size])
            penalty = np.float32(params.repetition_penalty)
            logits = _own(logits, original)
            logits[seen] = np.where(logits[seen] < 0, logits[seen] * penalty, logits[seen] / penalty)
        if (params.presence_penalty or params.frequency_penalty) and self._generated:
            tokens, counts = _arrays(self._generated)
            logits = _own(logits, original)
            logits[tokens] -= np.float32(params.presence_penalty) + np.float32(params.frequency_penalty) * counts
        if len(self._bias[0]):
            logits = _own(logits, original)
            logits[self._bias[0]] += self._bias[1]
        if allowed is not None:
            return np.where(allowed, logits, np.float32(-np.inf))
        if len(self._stops) and len(self._ids) - self._prompt_length < params.min_tokens:
            logits = _own(logits, original)
            logits[self._stops] = -np.inf
        return logits

    def _draw(self, logits: np.ndarray, uniform: float) -> int:
        """The distribution's inverse at ``uniform``, so that the same number always gives the same token."""
        tokens, probabilities = likeliest(logits, self._params)
        cumulative = np.cumsum(probabilities)
        target = np.float32(uniform) * cumulative[-1]
        # A target that rounding lifts to the whole sum would point behind the last kept token.
        last = int((cumulative < cumulative[-1]).sum())
        return int(tokens[min(int((cumulative <= target).sum()), last)])

    def _with_logprobs(self, logits: np.ndarray, highest: np.float32, token: int) -> TokenLogprob:
        count = self._params.logprobs
        if count is None:
            return TokenLogprob(token, 0.0)
        log_sum = highest + np.log(np.exp(logits - highest).sum())
        top: list[int] = []
        if count:
            candidates = np.argpartition(-logits, min(count, len(logits)) - 1)[:count]
            top = candidates[np.lexsort((candidates, -logits[candidates]))].tolist()
        return TokenLogprob(token, float(logits[token] - log_sum), tuple((i, float(logits[i] - log_sum)) for i in top))


def likeliest(logits: np.ndarray, params: SamplingParams) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that may be drawn, the likeliest first, and their weights, float32; these need not add up to 1."""
    keep = min(params.top_k, len(logits)) if params.top_k > 0 else len(logits)
    if keep < len(logits):
        candidates = np.argpartition(-logits, keep - 1)[:keep]
        tokens = candidates[np.lexsort((candidates, -logits[candidates]))]
    else:
        tokens = np.argsort(-logits, kind="stable")
    scaled = logits[tokens] / np.float32(params.temperature)
    weights = np.exp(scaled - scaled[0])
    probabilities = weights / weights.sum()
    kept = np.ones(len(tokens), dtype=bool)
    if params.top_p < 1.0:
        kept = np.cumsum(probabilities) - probabilities < params.top_p
        kept[0] = True
    if params.min_p > 0.0:
        kept &= probabilities >= params.min_p * probabilities[0]
    return tokens[kept], probabilities[kept]


def _own(logits: np.ndarray, original: np.ndarray) -> np.ndarray:
    """A copy to change, where it is not one already."""
    return logits.copy() if np.may_share_memory(logits, original) else logits


def _arrays(values: Mapping[int, float]) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.fromiter(values.keys(), dtype=np.int64, count=len(values))
    return tokens, np.fromiter(values.values(), dtype=np.float32, count=len(values))


def row_generators(seed: int | None, rows: int) -> list[np.random.Generator]:
    """One stream of random numbers per row; row ``i`` draws the same numbers whatever rows stand beside it."""
    return [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(rows)]
