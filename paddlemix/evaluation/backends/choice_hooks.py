"""Losses of choices, read from the logits of requests on their way through the engine."""

from __future__ import annotations

import numpy as np

from ...engine.request import LogitsHook
from ..metrics.choice import losses_of_next_token


def single_tokens(choices: tuple[tuple[int, ...], ...], losses: list[float]) -> LogitsHook:
    """Note the losses of choices of one token each.

    Args:
        choices: the ids of each.
        losses: gets them, when the logits after the prompt are there.
    """

    def hook(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        losses[:] = losses_of_next_token(logits, [token for (token,) in choices]).tolist()
        return logits

    return hook


def forced_choice(choice: tuple[int, ...], index: int, losses: list[float]) -> LogitsHook:
    """Make the row say a choice, and note its mean loss.

    Args:
        choice: its ids.
        index: its place in ``losses``.
        losses: gets the mean, piece by piece.
    """
    said = 0

    def hook(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        nonlocal said
        token = choice[said]
        losses[index] += float(losses_of_next_token(logits, [token])[0]) / len(choice)
        said += 1
        only = np.full_like(logits, -np.inf)
        only[token] = 0.0
        return only

    return hook
