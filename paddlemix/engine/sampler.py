"""From the logits of one row to its next token, in NumPy."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import NumericalError
from .protocols import RowChoice
from .request import LogitsHook, SamplingParams, TokenLogprob

_WHOLE = np.float32(1.0)
_FLOORS = tuple(np.float32(floor) for floor in (0.05, 0.005, 3e-4, 1e-5))
"""Weights, of 1 for the likeliest token, above which tokens are looked at first: most often these are enough."""
_MARGIN = np.float32(1 + 1e-4)
"""Sums of the same numbers in another order differ by less."""
_GROUP = 64


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
        self._generator = row_generator(params.seed, params.seed_index) if params.temperature > 0 else None
        self._uniforms: deque[float] = deque()  # drawn for steps that a device may take
        self._seen = np.unique(np.array([i for i in self._ids if i < vocab_size], dtype=np.int64))

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
        self._check_number(highest)
        token = int(logits.argmax()) if self._generator is None else self._draw(logits, self._uniform())
        chosen = self._with_logprobs(logits, highest, token)
        self._note(token)
        return chosen

    def device_choice(self, steps: int) -> RowChoice | None:
        """How a device chooses the next ``steps`` tokens as :meth:`choose` does; ``None`` where it cannot."""
        params = self._params
        penalized = params.repetition_penalty != 1.0 or params.presence_penalty or params.frequency_penalty
        stops_barred = len(self._stops) and len(self._ids) - self._prompt_length < params.min_tokens
        if self._hook is not None or penalized or len(self._bias[0]) or stops_barred:
            return None
        if params.top_k or params.min_p or params.logprobs:
            return None
        if self._generator is None:
            return RowChoice(0.0, 1.0, stop_ids=params.stop_token_ids)
        self._uniforms.extend(self._generator.random() for _ in range(steps - len(self._uniforms)))
        return RowChoice(params.temperature, params.top_p, tuple(self._uniforms), params.stop_token_ids)

    def accept(self, token: int, log_prob: float) -> TokenLogprob:
        """A token that a device chose, which counts as said from now on.

        Raises:
            NumericalError: the logits were not numbers, and so ``log_prob`` is none.
        """
        self._check_number(log_prob)
        if self._generator is not None:
            self._uniform()
        self._note(token)
        return TokenLogprob(token, 0.0 if self._params.logprobs is None else log_prob)

    def _uniform(self) -> float:
        """The next random number of the row, if it was not drawn before."""
        return self._uniforms.popleft() if self._uniforms or self._generator is None else self._generator.random()

    def _check_number(self, value: float) -> None:
        if not np.isfinite(value):
            raise NumericalError(
                f"logits: not a number at new token {len(self._ids) - self._prompt_length + 1}; the weights or the "
                "images' pixels are damaged, or the dtype is too narrow for them"
            )

    def _note(self, token: int) -> None:
        self._ids.append(token)
        self._generated[token] += 1
        if self._params.repetition_penalty != 1.0 and self._generated[token] == 1:
            self._seen = np.union1d(self._seen, [token])

    def _processed(self, logits: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
        params = self._params
        if self._hook is not None:
            logits = self._hook(np.array(self._ids, dtype=np.int64), logits)
        original, logits = logits, logits[: self._vocab_size]
        if params.repetition_penalty != 1.0:
            seen = self._seen
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
        tokens, cumulative, whole = likeliest(logits, self._params, np.float32(uniform))
        target = np.float32(uniform) * whole
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
            top = largest(logits, count).tolist()
        return TokenLogprob(token, float(logits[token] - log_sum), tuple((i, float(logits[i] - log_sum)) for i in top))


def likeliest(
    logits: np.ndarray, params: SamplingParams, share: np.float32 = _WHOLE
) -> tuple[np.ndarray, np.ndarray, np.float32]:
    """The tokens that may be drawn, the likeliest first, without sorting the vocabulary.

    Args:
        logits: float32 ``[vocab]``, the highest of them finite.
        params: how far they are kept.
        share: of what may be drawn; tokens behind the one that reaches it may be left out.

    Returns:
        The tokens, the running sum of their weights, float32, and the weight of all that may be drawn. The likeliest
        token has the weight 1.
    """
    weights = _weights(logits, params.temperature)
    if 0 < params.top_k < len(logits):
        tokens = largest(logits, params.top_k)
        return _kept(tokens, weights[tokens], params)
    total = weights.sum()
    if params.top_p < 1.0:
        tokens = _reaching(logits, weights, np.float32(params.top_p) * total)
    elif params.min_p > 0.0:
        tokens = _descending(logits, np.flatnonzero(weights >= np.float32(params.min_p) / _MARGIN))
    else:
        tokens = _reaching(logits, weights, share * total)
        return tokens, np.cumsum(weights[tokens]), total
    return _kept(tokens, weights[tokens], params, total)


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """Indices of the ``count`` largest values, the largest first and the first of equal ones."""
    count = min(count, len(values))
    groups = len(values) // _GROUP
    if count <= groups:
        # That many groups have a value of at least this: so many values are not below it.
        maxima = values[: groups * _GROUP].reshape(groups, _GROUP).max(axis=1)
        floor = np.partition(maxima, groups - count)[groups - count]
        candidates = np.flatnonzero(values >= floor)
    else:
        candidates = np.arange(len(values))
    return _descending(values, candidates)[:count]


def _weights(logits: np.ndarray, temperature: float) -> np.ndarray:
    scaled = logits if temperature == 1.0 else logits / np.float32(temperature)
    scaled = scaled - scaled.max()
    return np.exp(scaled, out=scaled)


def _reaching(logits: np.ndarray, weights: np.ndarray, mass: np.float32) -> np.ndarray:
    """The likeliest tokens, the likeliest first: at least as many as together weigh more than ``mass``."""
    for floor in _FLOORS:
        candidates = np.flatnonzero(weights >= floor)
        if weights[candidates].sum() > mass * _MARGIN:
            return _descending(logits, candidates)
    return _descending(logits, np.arange(len(logits)))


def _descending(values: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Ascending indices, ordered by their values instead, the largest first."""
    return candidates[np.argsort(-values[candidates], kind="stable")]


def _kept(
    tokens: np.ndarray, weights: np.ndarray, params: SamplingParams, total: np.float32 | None = None
) -> tuple[np.ndarray, np.ndarray, np.float32]:
    """Those that top-p and min-p keep of tokens in descending order; ``total`` is the weight of all there are."""
    probabilities = weights / (weights.sum() if total is None else total)
    kept = np.ones(len(tokens), dtype=bool)
    if params.top_p < 1.0:
        kept = np.cumsum(probabilities) - probabilities < params.top_p
        kept[0] = True
    if params.min_p > 0.0:
        kept &= probabilities >= params.min_p * probabilities[0]
    cumulative = np.cumsum(weights[kept])
    return tokens[kept], cumulative, cumulative[-1]


def _own(logits: np.ndarray, original: np.ndarray) -> np.ndarray:
    """A copy to change, where it is not one already."""
    return logits.copy() if np.may_share_memory(logits, original) else logits


def _arrays(values: Mapping[int, float]) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.fromiter(values.keys(), dtype=np.int64, count=len(values))
    return tokens, np.fromiter(values.values(), dtype=np.float32, count=len(values))


def row_generator(seed: int | None, row: int) -> np.random.Generator:
    """The stream of random numbers of a row, which draws the same whatever rows stand beside it."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(row,)))
