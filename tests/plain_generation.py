"""Generation as a plain loop over ``model(...)``: what the engine's answers are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle

from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel


@paddle.no_grad()
def greedy_tokens(model: QWenLMHeadModel, steps: int, **inputs: paddle.Tensor | None) -> np.ndarray:
    """int64 ``[batch, steps]``: the likeliest tokens of a batch, padding and masks as the original has them."""
    mask = inputs.pop("attention_mask", None)
    output = model(**inputs, attention_mask=mask, use_cache=True, logits_to_keep=1)
    chosen = []
    for _ in range(steps):
        token = output.logits[:, -1:].argmax(axis=-1)
        chosen.append(token.numpy())
        if mask is not None:
            mask = paddle.concat([mask, paddle.ones_like(token).astype(mask.dtype)], axis=1)
        output = model(token, attention_mask=mask, past_key_values=output.past_key_values)
    return np.concatenate(chosen, axis=1)


@paddle.no_grad()
def answer_tokens(
    model: QWenLMHeadModel,
    prompt: Sequence[int],
    images: paddle.Tensor | None = None,
    *,
    max_tokens: int,
    vocab_size: int,
    stop_ids: Sequence[int] = (),
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int | None = None,
    row: int = 0,
    repetition_penalty: float = 1.0,
) -> list[int]:
    """The tokens of one answer, the stop included."""
    uniforms = np.random.default_rng(np.random.SeedSequence(seed).spawn(row + 1)[row])
    ids = list(prompt)
    output = model(paddle.to_tensor([ids]), images, use_cache=True, logits_to_keep=1)
    while len(ids) < len(prompt) + max_tokens:
        logits = output.logits[0, -1].astype("float32").numpy()[:vocab_size]
        seen = np.unique([i for i in ids if i < vocab_size])
        penalty = np.float32(repetition_penalty)
        logits[seen] = np.where(logits[seen] < 0, logits[seen] * penalty, logits[seen] / penalty)
        if temperature:
            ids.append(_drawn(logits / np.float32(temperature), top_k, top_p, uniforms.random()))
        else:
            ids.append(int(logits.argmax()))
        if ids[-1] in stop_ids:
            break
        output = model(paddle.to_tensor([ids[-1:]]), past_key_values=output.past_key_values)
    return ids[len(prompt) :]


def _drawn(logits: np.ndarray, top_k: int, top_p: float, uniform: float) -> int:
    tokens = np.argsort(-logits, kind="stable")[: top_k or None]
    weights = np.exp(logits[tokens] - logits[tokens[0]])
    probabilities = weights / weights.sum()
    likelier = np.cumsum(probabilities) - probabilities
    kept = (likelier < top_p) | (np.arange(len(tokens)) == 0)
    cumulative = np.cumsum(probabilities[kept])
    return int(tokens[kept][np.searchsorted(cumulative, np.float32(uniform) * cumulative[-1], side="right")])
