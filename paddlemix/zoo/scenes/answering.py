"""A Qwen-VL as the answer function that :mod:`evaluate` asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from ...models.qwen_vl.stopping import answer_end_ids
from .evaluate import AnswerFunction

if TYPE_CHECKING:
    from ...models.qwen_vl.modeling import QWenLMHeadModel
    from ...models.qwen_vl.processing import QwenVLProcessor

MAX_NEW_TOKENS = 160
"""More than a caption of five objects needs with the tokenizer made for scenes."""


def answer_function(
    model: QWenLMHeadModel, processor: QwenVLProcessor, max_new_tokens: int = MAX_NEW_TOKENS
) -> AnswerFunction:
    """Answers greedily, all questions of a call in one batch, each as the first turn of a conversation of its own."""

    def answer(pictures: list[Image.Image], texts: list[str]) -> list[str]:
        inputs = processor(texts, images=pictures, return_tensors="pd")
        ids, _ = model.generate(
            inputs["input_ids"],
            images=inputs["images"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=answer_end_ids((), processor.tokenizer),
        )
        return processor.batch_decode(ids)

    return answer
