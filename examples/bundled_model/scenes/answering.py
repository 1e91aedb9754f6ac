"""A Qwen-VL as the answer function that :mod:`evaluate` asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paddlemix.engine.stopping import answer_end_ids
from paddlemix.models.qwen_vl.messages import user_message

from .evaluate import AnswerFunction, Prompt

if TYPE_CHECKING:
    from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
    from paddlemix.models.qwen_vl.processing import QwenVLProcessor

MAX_NEW_TOKENS = 160
"""More than a caption of five objects needs with the tokenizer made for scenes."""


def answer_function(
    model: QWenLMHeadModel, processor: QwenVLProcessor, max_new_tokens: int = MAX_NEW_TOKENS
) -> AnswerFunction:
    """Answers greedily, all prompts of a call in one batch, each as a conversation of its own."""

    def answer(prompts: Sequence[Prompt]) -> list[str]:
        inputs = processor([messages(prompt) for prompt in prompts], return_tensors="pd")
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


def messages(prompt: Prompt) -> list[dict[str, Any]]:
    """The prompt in the form that processors take. The images stand before the first question."""
    questions = [question for question, _ in prompt.history] + [prompt.text]
    conversation = [user_message(questions[0], list(prompt.images))]
    for (_, answer), question in zip(prompt.history, questions[1:]):
        conversation += [{"role": "assistant", "content": answer}, user_message(question, None)]
    return conversation
