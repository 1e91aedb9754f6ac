"""Choice by loss: the option whose tokens the model finds least surprising.

Source: the original's evaluation of ScienceQA, MMBench and SEED-Bench. Where every option is one token, the largest of
the options' logits after the prompt makes the same choice in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def option_losses(input_ids: np.ndarray, logits: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    """Mean cross-entropy over each option's tokens, in float32.

    Args:
        input_ids: int ``[options, length]``: prompt and option, padded on the left.
        logits: ``[options, length - 1, vocabulary]``, of which ``[row, t]`` predicts ``input_ids[row, t + 1]``; a last
            position beyond that is passed over.
        lengths: tokens of each option.
    """
    losses = []
    for row, row_logits, length in zip(np.asarray(input_ids), logits, lengths):
        targets = row[len(row) - length :]
        scores = np.asarray(row_logits, np.float32)[len(row) - 1 - length : len(row) - 1]
        losses.append(np.mean(log_sum_exp(scores) - scores[np.arange(length), targets]))
    return np.array(losses, np.float32)


def losses_of_next_token(logits: np.ndarray, option_ids: Sequence[int]) -> np.ndarray:
    """The losses of options of one token each, from the logits ``[vocabulary]`` after the prompt, in float32."""
    scores = np.asarray(logits, np.float32)
    return log_sum_exp(scores) - scores[list(option_ids)]


def choose(losses: Sequence[float]) -> int:
    """The option of the smallest loss; the first of equal ones."""
    return min(range(len(losses)), key=losses.__getitem__)


def log_sum_exp(scores: np.ndarray) -> np.ndarray:
    """Along the last axis, without overflow."""
    largest = scores.max(-1, keepdims=True)
    return np.log(np.exp(scores - largest).sum(-1)) + largest[..., 0]
