"""Questions about images, answered by Qwen-VL: with a memory of earlier turns, or many independent ones at once."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import PromptError
from ..inference import CAPTION, answer_all, load_model, with_seed
from ..models.qwen_vl.messages import check_image_count
from ..options import GENERATION_OPTIONS, MODEL_OPTIONS, SESSION_OPTIONS, check_generation_options, split_options
from .task import AppTask

if TYPE_CHECKING:
    from ..chat.base import ReplyStream
    from ..chat.reply import Reply

_OF_APPFLOW = ("model", "device")
"""Options of the model that Appflow itself takes, as ``models`` and ``device_id``."""
_GENERATION_HELP = {name: item.text for name, item in GENERATION_OPTIONS.items()}


class QwenVLChatTask(AppTask):
    """Each call is the next turn of one conversation; a call with a list of prompts stands outside it."""

    options = {
        name: item.text
        for name, item in {**MODEL_OPTIONS, **SESSION_OPTIONS, **GENERATION_OPTIONS}.items()
        if name not in _OF_APPFLOW
    }
    inputs = {
        "prompt": "the question, or a list of independent questions (default with an image: the caption)",
        "image": "path, http(s) URL, PIL image, bytes, data URL, array, or a list of them; with a list of prompts "
        "one entry for each: an image, a list of images, or None",
        **_GENERATION_HELP,
    }
    outputs = {
        "result": "the answer, tags of boxes included",
        "boxes": "the places it points at, in thousandths of width and height",
        "image": "a PIL image with the boxes drawn in, None without boxes",
        "finish_reason": "stop, or length where max_new_tokens or the model's window cut the answer off",
    }

    def __init__(self, model: str, *, device: str, from_hf_hub: bool = False, **options: Any) -> None:
        of_model, self._options, self._generation = split_options(
            options, model=model, device=device, from_hf_hub=from_hf_hub
        )
        self._loaded = load_model(of_model)
        self._session = self._loaded.new_session(self._options.system, self._options.policy, self._options.trusted_tags)

    @property
    def directory(self) -> Path:
        """Where the files of the model are."""
        return self._loaded.directory

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Answer the next question of the conversation, or a list of independent ones."""
        generation = self._generation_of(inputs)
        prompt = inputs.get("prompt")
        if isinstance(prompt, (list, tuple)):
            return {**inputs, **self._answer_batch(prompt, inputs.get("image"), generation)}
        prompt, sources = _question(prompt, inputs.get("image"))
        return _turn_result(inputs, self._session.ask(prompt, sources, **generation))

    def stream(self, inputs: dict[str, Any]) -> Generator[str, None, dict[str, Any]]:
        """Answer the next question of the conversation, piece by piece."""
        generation = self._generation_of(inputs)
        if _is_list(inputs.get("prompt")):
            raise PromptError("prompt: got a list, which cannot be streamed; give one prompt or leave out stream=True")
        prompt, sources = _question(inputs.get("prompt"), inputs.get("image"))
        return _stream(inputs, self._session.stream(prompt, sources, **generation))

    def reset(self) -> None:
        """Forget the conversation."""
        self._session.reset()

    def _generation_of(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The options of this call over those of the construction."""
        given = {name: inputs[name] for name in _GENERATION_HELP if name in inputs}
        return with_seed({**self._generation, **check_generation_options(given)})

    def _answer_batch(self, prompts: Sequence[Any], images: Any, generation: dict[str, Any]) -> dict[str, list[Any]]:
        if not prompts:
            raise PromptError("prompt: got an empty list, expected at least one question")
        if images is None:
            images = [None] * len(prompts)
        if not _is_list(images) or len(images) != len(prompts):
            came = f"{len(images)} entries" if _is_list(images) else type(images).__name__
            raise PromptError(
                f"image: got {came} for a list of {len(prompts)} prompts, expected a list of as many (None: no image)"
            )
        questions = [_question(prompt, image) for prompt, image in zip(prompts, images)]
        for _, sources in questions:
            check_image_count(sources, self._loaded.processor.max_images, "image")
        answers = answer_all(
            self._loaded,
            questions,
            system=self._options.system,
            trusted_tags=self._options.trusted_tags,
            policy=self._options.policy,
            **generation,
        )
        return {
            "result": [answer.text for answer in answers],
            "boxes": [answer.boxes for answer in answers],
            "image": [answer.image() for answer in answers],
            "finish_reason": [answer.finish_reason for answer in answers],
        }


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _question(prompt: Any, image: Any) -> tuple[Any, list[Any]]:
    """The prompt, or the one for an image without any, and the image sources."""
    if prompt is None and image is None:
        raise PromptError("prompt: missing; give prompt=, image=, or both")
    sources = list(image) if _is_list(image) else [] if image is None else [image]
    return CAPTION if prompt is None else prompt, sources


def _stream(inputs: dict[str, Any], pieces: ReplyStream) -> Generator[str, None, dict[str, Any]]:
    try:
        yield from pieces
    finally:
        pieces.close()
    return _turn_result(inputs, pieces.wait())


def _turn_result(inputs: dict[str, Any], reply: Reply) -> dict[str, Any]:
    return {
        **inputs,
        "result": reply.text,
        "boxes": reply.boxes,
        "image": reply.image(),
        "finish_reason": reply.finish_reason,
    }
