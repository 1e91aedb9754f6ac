"""The special tokens as text. Their ids depend on the vocabulary, see :mod:`.vocabulary`."""

from __future__ import annotations

ENDOFTEXT = "<|endoftext|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
EXTRAS = tuple(f"<|extra_{i}|>" for i in range(205))
REF_START, REF_END = "<ref>", "</ref>"
BOX_START, BOX_END = "<box>", "</box>"
QUAD_START, QUAD_END = "<quad>", "</quad>"
IMG_START, IMG_END, IMG_PAD = "<img>", "</img>", "<imgpad>"

GROUNDING_TAGS = (REF_START, REF_END, BOX_START, BOX_END, QUAD_START, QUAD_END)
"""Tags that mark phrases and places in text; they steer nothing."""

IMAGE_TAGS = (*GROUNDING_TAGS, IMG_START, IMG_END, IMG_PAD)
"""All nine tags that the original reads out of chat text."""

SPECIAL_TOKENS = (ENDOFTEXT, IM_START, IM_END, *EXTRAS, *IMAGE_TAGS)
"""In the order of their ids."""
