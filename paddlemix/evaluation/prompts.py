"""What the model is asked, text for text as the original's evaluation writes it.

Base and Chat models get the same raw prompts; only MME and TouchStone are asked as in a chat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .records import ImageRef, Prompt

CAPTION = "Describe the image in English:"
LETTERS = "ABCDEFGH"
MISSING_HINT = "N/A"


def vqa_prompt(image: ImageRef, question: str) -> Prompt:
    """A question with a short answer."""
    return (image, f"{question} Answer:")


def caption_prompt(image: ImageRef) -> Prompt:
    """A caption."""
    return (image, CAPTION)


def grounding_prompt(image: ImageRef, phrase: str) -> Prompt:
    """Where something is; the answer continues within ``<box>``."""
    return (image, f"<ref>{phrase}</ref><box>")


def multiple_choice_prompt(image: ImageRef, hint: str | None, question: str, choices: Sequence[str]) -> Prompt:
    """ScienceQA and MMBench; an empty hint is written out."""
    return (image, f"Context: {hint or MISSING_HINT}\nQuestion: {question}\n{_options(choices)}\nAnswer:")


def seed_bench_prompt(images: Sequence[ImageRef], question: str, choices: Sequence[str]) -> Prompt:
    """SEED-Bench: one image, or the frames of a video, each on a line of its own."""
    shown = [part for image in images for part in (image, "\n")]
    return merge_texts((*shown, f"Question: {question}\n{_options(choices)}\nAnswer:"))


def mme_prompt(image: ImageRef, question: str) -> Prompt:
    """MME; the question says itself how to answer."""
    return (image, f"\n{question}")


def labeled_prompt(images: Sequence[ImageRef], question: str) -> Prompt:
    """A question in a conversation as the programs ask it: numbered images on lines of their own."""
    shown = [part for number, image in enumerate(images, 1) for part in (f"Picture {number}: ", image, "\n")]
    return merge_texts((*shown, question))


def option_texts(count: int) -> tuple[str, ...]:
    """What may follow a prompt with so many options."""
    return tuple(f" {letter}" for letter in LETTERS[:count])


def few_shot_prompt(examples: Sequence[tuple[Prompt, str]], prompt: Prompt) -> Prompt:
    """Examples with their answers before a prompt, nothing between them."""
    parts = [part for example, answer in examples for part in (*example, f" {answer}")]
    return merge_texts((*parts, *prompt))


def merge_texts(parts: Prompt) -> Prompt:
    """The prompt with neighboring texts joined."""
    merged: list[str | ImageRef] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        else:
            merged.append(part)
    return tuple(merged)


def render(prompt: Prompt) -> str:
    """The prompt as one text, images as the original writes them."""
    return "".join(part if isinstance(part, str) else f"<img>{part.name}</img>" for part in prompt)


def example_answer(record: Mapping[str, object], *, as_original: bool = False) -> str:
    """The answer that an example shows: the text of a training record, the first one of several.

    ``as_original`` writes several as Python prints a list.
    """
    answer = record.get("answer")
    return str(answer[0]) if isinstance(answer, list) and answer and not as_original else str(answer)


def _options(choices: Sequence[str]) -> str:
    return "Options: " + "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices))
