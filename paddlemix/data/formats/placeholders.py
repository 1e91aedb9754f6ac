"""Placeholders of other models and projects, which would be trained on as plain text."""

from __future__ import annotations

import re
from collections.abc import Iterator

#: project -> its placeholders; the first match counts
_PLACEHOLDERS = {
    "LLaVA, LLaMA-Factory and ms-swift": r"<image>",
    "LLaMA-Factory and ms-swift": r"<video>|<audio>",
    "ms-swift": r"<bbox>|<ref-object>",
    "Qwen2-VL": r"<\|(?:vision|box|quad|object_ref)_(?:start|end)\|>|<\|(?:image|video|vision|audio)_pad\|>",
    "Phi-3-vision": r"<\|(?:image|audio)_\d{1,4}\|>",
    "Llama 3.2, GLM-4V and Qwen2.5-Omni": r"(?i:<\|(?:begin_of_|end_of_)?(?:image|video|audio)\|>)",
    "OpenFlamingo": r"<\|endofchunk\|>",
    "InternLM-XComposer": r"<ImageHere>|<Img>|</Img>",
    "InternVL": r"<IMG_CONTEXT>",
    "DeepSeek-VL and Janus": r"</?image_placeholder>",
    "LLaVA's tokenizer": r"<im_patch>|<im_start>|<im_end>|<image-placeholder>",
    "Pixtral": r"\[IMG(?:_BREAK|_END)?\]",
    "Gemma 3": r"<start_of_image>|<end_of_image>|<image_soft_token>",
    "Idefics": r"<fake_token_around_image>|<end_of_utterance>",
    "MiniCPM-V": r"</image>|</?image_id>|</?slice>",
    "MMMU and others that number images": r"(?i:<(?:image|img|image|video)[ _-]?\d{1,4}>)",
    "other projects": (
        r"(?i:<(?:image|video|audio)(?:_token|_pad|_start|_end|_features|here)?>"
        r"|<\|[a-z_]{0,24}(?:image|img|video|audio|vision|media)[a-z0-9_]{0,24}\|>)"
    ),
}
_ANY = re.compile("|".join(f"({pattern})" for pattern in _PLACEHOLDERS.values()))
_OWNERS = tuple(_PLACEHOLDERS)


def foreign_placeholders(text: str) -> Iterator[tuple[str, str]]:
    """Each foreign placeholder in a text, and its project."""
    for match in _ANY.finditer(text):
        yield match.group(), _OWNERS[(match.lastindex or 1) - 1]
