"""``generation_config.json``: which fields count, what they may be, and what holds where there is no such file.

Works on plain values and needs no Paddle. How the fields and a caller's options come together is in
``paddlemix.engine.options``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...engine.options import DECODE_STRATEGY, KINDS, SAMPLING_OPTIONS, check_unsupported
from ...errors import ConfigurationError
from ...utils.files import GENERATION_CONFIG_FILE, read_json_object
from ...utils.schema import Kind, check_kind, integer, one_of
from .chat_template import CHAT_FORMATS
from .vocabulary import ENDOFTEXT, IM_END, IM_START, IMG_START, SPECIAL_TOKENS

# A text alone is a list of one, and null is as if the field were absent.
_FILE_KINDS: dict[str, Kind] = {
    **KINDS,
    "decode_strategy": DECODE_STRATEGY,
    "chat_format": one_of(*CHAT_FORMATS),
    "max_window_size": integer(1, 1 << 31),
    "max_window_images": integer(0, 1 << 31),  # of our own
}


def read_generation_config(directory: Path, vocab_size: int | None = None) -> dict[str, Any] | None:
    """The checked fields of a directory's ``generation_config.json``; None without a file.

    Args:
        directory: of the model.
        vocab_size: number of ids, where it is known; see :func:`check_generation_config`.

    Raises:
        CheckpointError: the file cannot be read as a JSON object.
        ConfigurationError: a field has a value that cannot work.
    """
    path = directory / GENERATION_CONFIG_FILE
    fields = read_json_object(path)
    if fields is None:
        return None
    try:
        return check_generation_config(fields, vocab_size)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def check_generation_config(fields: Mapping[str, Any], vocab_size: int | None = None) -> dict[str, Any]:
    """Those fields that have an effect, checked. Without sampling its options are not looked at.

    Raises:
        ConfigurationError: a value that cannot work, a field that asks for what is not implemented, ids beyond
            ``vocab_size``.
    """
    fields = {name: value for name, value in fields.items() if value is not None}
    if isinstance(fields.get("stop_strings"), str):
        fields["stop_strings"] = [fields["stop_strings"]]
    sampling = fields.get("do_sample", fields.get("decode_strategy") == "sampling") is True
    check_unsupported(fields, sampling=sampling, lengths=fields)
    kept = {name: value for name, value in fields.items() if name in _FILE_KINDS}
    for name, value in kept.items():
        if sampling or name not in SAMPLING_OPTIONS:
            check_kind(name, value, _FILE_KINDS[name])
    for name in ("eos_token_id", "pad_token_id") if vocab_size is not None else ():
        ids = kept.get(name, [])
        for token in ids if isinstance(ids, (list, tuple)) else [ids]:
            if token >= vocab_size:
                raise ConfigurationError(f"{name}: {token} is beyond the vocabulary of {vocab_size} ids")
    return kept


def published_options(image_start_id: int) -> dict[str, Any]:
    """What the published Qwen-VL-Chat says in its file, for a vocabulary in which ``<img>`` has the given id.

    The stop ids are also those that the original adds in a chat.
    """
    options: dict[str, Any] = {
        "chat_format": "chatml",
        "do_sample": True,
        "top_k": 0,
        "top_p": 0.3,
        "max_new_tokens": 512,
        "max_window_size": 6144,
    }
    first = image_start_id - SPECIAL_TOKENS.index(IMG_START)
    if first >= 0:
        stop = [first + SPECIAL_TOKENS.index(token) for token in (ENDOFTEXT, IM_START, IM_END)]
        options.update(eos_token_id=stop, pad_token_id=stop[0])
    return options
