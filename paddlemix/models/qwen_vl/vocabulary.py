"""The vocabulary: rank files of tiktoken, the special tokens and their ids.

A rank file has one line per token, ``base64(bytes) rank``. Ids are laid out as in the published model, whatever the
size of the file: the ranks 0 .. n-1, then ``<|endoftext|>`` = n, ``<|im_start|>``, ``<|im_end|>``, 205 extras, and the
nine tags of images and boxes.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tiktoken

from ...errors import CheckpointError
from ...utils.files import CONFIG_FILE, MAX_VOCABULARY_BYTES, read_bytes, reason
from ...utils.foreign_file import foreign_content

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

IGNORE_INDEX = -100
"""The label of a position that does not count in the loss."""


# How text is cut before byte pairs are merged: contractions, words, single digits, punctuation, line ends, spaces.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

MAX_RANKS = 1_000_000  # the published file has 151643; an encoding takes some 500 bytes for each


class Vocabulary(NamedTuple):
    """A parsed rank file: token bytes -> rank, and the encoding made of it and the special tokens."""

    ranks: dict[bytes, int]
    encoding: tiktoken.Encoding


def load_vocabulary(vocab_file: str | os.PathLike[str]) -> Vocabulary:
    """The vocabulary of a rank file. Parsed once per file and process; not to be changed by the caller.

    Raises:
        CheckpointError: the file is missing or is not a rank file.
    """
    path = Path(vocab_file)
    try:
        stamp = path.stat()
    except (OSError, ValueError) as error:
        raise _unreadable(f"{path} cannot be read: {reason(error)}") from error
    return _load_vocabulary(str(path.resolve()), stamp.st_mtime_ns, stamp.st_size)


@functools.lru_cache(maxsize=8)
def _load_vocabulary(path: str, mtime_ns: int, size: int) -> Vocabulary:
    # mtime and size are part of the cache key only: a file that was replaced is read again
    ranks = read_ranks(Path(path))
    special_tokens = {token: len(ranks) + i for i, token in enumerate(SPECIAL_TOKENS)}
    encoding = tiktoken.Encoding("qwen_vl", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=special_tokens)
    return Vocabulary(ranks, encoding)


def read_ranks(path: Path) -> dict[bytes, int]:
    """Token bytes -> rank of a tiktoken file, in the order of the ranks.

    Raises:
        CheckpointError: the file is missing or is not a rank file.
    """
    ranks: dict[bytes, int] = {}
    content = read_bytes(path, limit=MAX_VOCABULARY_BYTES, error=_unreadable)
    other = foreign_content(content, text=True)
    if other is not None:
        raise _unreadable(f"{path} {other}")
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).splitlines(), start=1):
        if not line:
            continue
        if len(ranks) >= MAX_RANKS:
            raise _unreadable(f"{path} has more than {MAX_RANKS} ranks; the published file has 151643")
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise CheckpointError(
                f"vocabulary file {path}, line {number}: got {line[:60]!r}, expected 'base64 rank'"
            ) from error
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise CheckpointError(
            f"vocabulary file {path}: the ranks are not 0 .. {len(ranks) - 1}, each once; the file is damaged"
        )
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise CheckpointError(
            f"vocabulary file {path}: {len(missing)} of the 256 single bytes have no rank (first: {missing[0]:#04x}); "
            "text with them could not be encoded"
        )
    return dict(sorted(ranks.items(), key=lambda item: item[1]))


def check_vocabulary(path: Path, config: Mapping[str, Any] | None) -> None:
    """Compare a rank file with the checked configuration of its model.

    Args:
        path: the file.
        config: as :func:`.config_schema.read_config` returns it; None: the file alone is checked.

    Raises:
        CheckpointError: it is damaged, or of another size than the model's.
    """
    ranks = len(read_ranks(path))
    wanted = ranks if config is None else config["visual"]["image_start_id"] - SPECIAL_TOKENS.index(IMG_START)
    if ranks != wanted:
        raise CheckpointError(
            f"vocabulary file {path} has {ranks} ranks, visual.image_start_id of {CONFIG_FILE} asks for {wanted}; the "
            "file is cut short or another model's: copy or download it again"
        )


def _unreadable(message: str) -> CheckpointError:
    return CheckpointError(f"vocabulary file {message}")


def rank_file_bytes(ranks: dict[bytes, int]) -> bytes:
    """The contents of the rank file of ``ranks``; equal to the published file for the published ranks."""
    ordered = sorted(ranks.items(), key=lambda item: item[1])
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ordered)
