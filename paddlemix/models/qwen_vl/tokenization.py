"""The tokenizer of Qwen-VL: files, batches, and the original's text form of images and boxes around the codec."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigurationError, PromptError
from ...utils.dependencies import require
from ...utils.files import (
    TOKENIZER_CONFIG_FILE,
    VOCAB_FILE,
    read_json_object,
    replacing,
    told_as_checkpoint_error,
    write_json,
)
from ...utils.schema import check_kind, shown
from ...utils.validation import check_integer
from . import list_format
from .codec import DEFAULT_NUM_IMAGE_TOKENS, QWenVLCodec
from .config_schema import VISUAL
from .pretrained_arguments import split_tokenizer_arguments
from .vocabulary import ENDOFTEXT, IGNORE_INDEX, rank_file_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

    from ...media import ImagePolicy
    from .image_processing import QwenVLImageProcessor

DEFAULT_MAX_LENGTH = 8192
TOKENIZER_CLASS = "QWenTokenizer"

_PADDING_SIDES = ("left", "right")
#: most ids that a row is padded to with ``padding="max_length"``
MAX_PADDED_LENGTH = 1 << 24
_PADDINGS = (False, True, "longest", "max_length")
_CONFIG_FIELDS = ("model_max_length", "image_slots", "errors", "padding_side")


class TokenizedBatch(dict):
    """A dict (``input_ids``, ``attention_mask``, ``token_type_ids``) whose entries are attributes too."""

    def __getattr__(self, name: str) -> Any:
        """The entry of that name."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no entry {name!r}; entries: {', '.join(self)}") from None

    def to_tensors(self, kind: str | None) -> TokenizedBatch:
        """The entries as int64 arrays of NumPy ("np") or Paddle ("pd"), or as they are (None); equal rows needed."""
        if kind is None:
            return self
        if kind not in ("np", "pd"):
            raise ConfigurationError(f"return_tensors: got {kind!r}, expected None, 'np' or 'pd'")
        lengths = sorted({len(row) for row in self["input_ids"]})
        if len(lengths) > 1:
            raise PromptError(
                f"return_tensors={kind!r}: rows of {lengths[0]} to {lengths[-1]} ids make no array; pass padding=True"
            )
        arrays = {name: np.asarray(rows, dtype=np.int64) for name, rows in self.items()}
        if kind == "pd":
            paddle = require("paddle", "return_tensors='pd'")
            arrays = {name: paddle.to_tensor(array) for name, array in arrays.items()}
        return TokenizedBatch(arrays)


def pad_rows(columns: Mapping[str, Sequence[Sequence[int]]], length: int, side: str, pad_id: int) -> TokenizedBatch:
    """Rows of every column padded to ``length`` ids; longer rows stay as they are.

    Args:
        columns: ``input_ids`` is padded with ``pad_id``, ``labels`` with ``IGNORE_INDEX``, anything else with 0.
        length: of the padded rows.
        side: "left" or "right".
        pad_id: the padding id.
    """
    fill = {"input_ids": pad_id, "labels": IGNORE_INDEX}
    padded = TokenizedBatch()
    for name, rows in columns.items():
        padded[name] = []
        for row in rows:
            padding = [fill.get(name, 0)] * (length - len(row))
            padded[name].append(padding + list(row) if side == "left" else list(row) + padding)
    return padded


class QWenVLTokenizer(QWenVLCodec):
    """Text to ids and back, for the published vocabulary or any smaller rank file.

    Special ids follow from the number of ranks. No token is added at the start or the end of a text. By default *all*
    special tokens are read out of text, as in the original; pass ``allowed_special=()`` for text that is not trusted.
    """

    vocab_files_names = {"vocab_file": VOCAB_FILE}
    model_input_names = ("input_ids", "attention_mask")
    image_processor: QwenVLImageProcessor | None = None
    """That of the processor that this tokenizer was last made a part of: it says how the model sees images."""

    def __init__(
        self,
        vocab_file: str | os.PathLike[str],
        *,
        num_image_tokens: int = DEFAULT_NUM_IMAGE_TOKENS,
        errors: str = "replace",
        model_max_length: int = DEFAULT_MAX_LENGTH,
        padding_side: str = "right",
        image_slots: int | None = None,
    ) -> None:
        """Read the vocabulary.

        Args:
            vocab_file: a tiktoken rank file.
            num_image_tokens: ids between ``<img>`` and ``</img>``; the model's ``n_queries``.
            errors: how :meth:`decode` treats bytes that are not UTF-8: "strict", "replace" or "ignore".
            model_max_length: where ``truncation=True`` cuts when no ``max_length`` is given.
            padding_side: "left" or "right".
            image_slots: older name of ``num_image_tokens``, and its field in ``tokenizer_config.json``.

        Raises:
            CheckpointError: the file cannot be read.
            ConfigurationError: a value that cannot work.
        """
        if image_slots is not None:
            check_kind("image_slots", image_slots, VISUAL["n_queries"].kind)
            num_image_tokens = image_slots
        super().__init__(vocab_file, num_image_tokens, errors)
        check_integer("model_max_length", model_max_length)
        if padding_side not in _PADDING_SIDES:
            raise ConfigurationError(f"padding_side: got {shown(padding_side)}, expected 'left' or 'right'")
        self.model_max_length = model_max_length
        self.padding_side = padding_side
        self.eos_token = self.pad_token = ENDOFTEXT
        self.eos_token_id = self.pad_token_id = self.eod_id
        self._published_config: dict[str, Any] = {}

    # ------------------------------------------------------------------ files

    @classmethod
    def from_pretrained(cls, name_or_dir: str | os.PathLike[str], **arguments: Any) -> QWenVLTokenizer:
        """The tokenizer of a directory, or of a model known by name, with its ``tokenizer_config.json``.

        Args:
            name_or_dir: a directory, a known name, or a name in a public store.
            **arguments: those of the constructor, which go before the file's (``num_image_tokens`` is 256 unless
                given); ``revision``, ``cache_dir``, ``token`` and ``local_files_only`` of the hub; and what else users
                of transformers write, see :mod:`.pretrained_arguments`.

        Raises:
            CheckpointError, ConfigurationError, ModelNotFoundError.
        """
        from ...checkpoint import hub

        options, overrides = split_tokenizer_arguments(arguments)
        return cls.from_directory(hub.resolve(name_or_dir, weights=False, **options), **overrides)

    @classmethod
    def from_directory(cls, directory: Path, **overrides: Any) -> QWenVLTokenizer:
        """As :meth:`from_pretrained`, where the directory is known; ``overrides``: arguments of the constructor.

        Raises:
            CheckpointError, ConfigurationError.
        """
        config = read_json_object(directory / TOKENIZER_CONFIG_FILE) or {}
        ours = {name: config.pop(name) for name in _CONFIG_FIELDS if name in config}
        if "num_image_tokens" in overrides:
            ours.pop("image_slots", None)
        try:
            tokenizer = cls(directory / VOCAB_FILE, **{**ours, **overrides})
        except ConfigurationError as error:
            raise ConfigurationError(f"{directory / TOKENIZER_CONFIG_FILE}: {error}") from error
        tokenizer._published_config = config
        return tokenizer

    def save_pretrained(self, directory: str | os.PathLike[str]) -> tuple[str, str]:
        """Write ``tokenizer_config.json`` and ``qwen.tiktoken`` into ``directory`` (made if absent); their paths.

        Raises:
            CheckpointError: they cannot be written; each file is then as it was.
        """
        folder = Path(directory)
        config = {"tokenizer_class": TOKENIZER_CLASS, **self._published_config}
        config.update({name: getattr(self, name) for name in _CONFIG_FIELDS})
        config_file = folder / TOKENIZER_CONFIG_FILE
        with told_as_checkpoint_error(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_json(config_file, config)
        return (str(config_file), *self.save_vocabulary(folder))

    def save_vocabulary(self, directory: str | os.PathLike[str]) -> tuple[str]:
        """Write the rank file alone, byte for byte as published; its path.

        Raises:
            CheckpointError: it cannot be written.
        """
        path = Path(directory) / VOCAB_FILE
        data = rank_file_bytes(self.mergeable_ranks)
        with told_as_checkpoint_error(path.parent):
            if not path.is_file() or path.read_bytes() != data:
                with replacing(path) as aside:
                    aside.write_bytes(data)
        return (str(path),)

    # ------------------------------------------------------------------ batches

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        padding_side: str | None = None,
        allowed_special: str | Collection[str] = "all",
        disallowed_special: str | Collection[str] = (),
    ) -> TokenizedBatch:
        """Ids of one text or of several, as ``input_ids``, ``token_type_ids`` (zeros) and ``attention_mask``.

        Args:
            text: one text or several.
            padding: False, True or "longest" (to the longest row), "max_length".
            truncation: cut rows to ``max_length`` ids; an image that would be cut in two is left out whole.
            max_length: ``model_max_length`` when None.
            return_tensors: None for lists, "np" or "pd" for int64 arrays [rows, length] (one text: [1, length]).
            padding_side: "left" or "right", instead of the tokenizer's.
            allowed_special: as for :meth:`encode`.
            disallowed_special: as for :meth:`encode`.

        Raises:
            PromptError: anything but text.
        """
        single = isinstance(text, str)
        texts: Sequence[str] = [text] if isinstance(text, str) else text
        if not isinstance(texts, (list, tuple)):
            raise PromptError(f"text: got {type(text).__name__}, expected a str or a list of them")
        limit = self._limit(max_length)
        rows = [self.encode(row, allowed_special, disallowed_special) for row in texts]
        if truncation:
            rows = [self.truncate(row, limit) for row in rows]
        features = [{"input_ids": r, "token_type_ids": [0] * len(r), "attention_mask": [1] * len(r)} for r in rows]
        batch = self.pad(features, padding, max_length=max_length, padding_side=padding_side)
        if single and return_tensors is None:
            return TokenizedBatch({name: column[0] for name, column in batch.items()})
        return batch.to_tensors(return_tensors)

    def pad(
        self,
        features: Sequence[Mapping[str, Sequence[int]]],
        padding: bool | str = True,
        *,
        max_length: int | None = None,
        return_tensors: str | None = None,
        padding_side: str | None = None,
    ) -> TokenizedBatch:
        """Rows of unequal length as one batch; ``labels``, where present, are padded with -100.

        Args:
            features: one dict per row, all with the same keys, ``input_ids`` among them.
            padding: as for :meth:`__call__`.
            max_length: as for :meth:`__call__`.
            return_tensors: as for :meth:`__call__`.
            padding_side: as for :meth:`__call__`.

        Raises:
            ConfigurationError: a value that cannot work.
        """
        if padding not in _PADDINGS:
            raise ConfigurationError(f"padding: got {padding!r}, expected False, True, 'longest' or 'max_length'")
        side = self.padding_side if padding_side is None else padding_side
        if side not in _PADDING_SIDES:
            raise ConfigurationError(f"padding_side: got {side!r}, expected 'left' or 'right'")
        names = features[0] if features else ["input_ids"]
        columns = {name: [feature[name] for feature in features] for name in names}
        length = 0
        if padding == "max_length":
            length = self._limit(max_length)
            if length > MAX_PADDED_LENGTH:
                raise ConfigurationError(
                    f"max_length: got {length}, expected at most {MAX_PADDED_LENGTH} to pad to; give a shorter one"
                )
        elif padding:
            length = max((len(row) for row in columns["input_ids"]), default=0)
        return pad_rows(columns, length, side, self.pad_token_id).to_tensors(return_tensors)

    def _limit(self, max_length: int | None) -> int:
        if max_length is None:
            return self.model_max_length
        check_integer("max_length", max_length)
        return max_length

    # ------------------------------------------------------------------ images and boxes in text

    def from_list_format(self, elements: Sequence[dict[str, Any]]) -> str:
        """See :func:`.list_format.from_list_format`."""
        return list_format.from_list_format(elements)

    def to_list_format(self, text: str) -> list[dict[str, str]]:
        """See :func:`.list_format.to_list_format`."""
        return list_format.to_list_format(text)

    def _fetch_all_box_with_ref(self, text: str) -> list[dict[str, Any]]:
        return list_format.boxes_with_ref(text)

    def _fetch_latest_picture(self, response: str, history: Sequence[tuple[str, str | None]] | None) -> str | None:
        return list_format.latest_image(response, history)

    def draw_bbox_on_latest_picture(
        self,
        response: str,
        history: Sequence[tuple[str, str | None]] | None = None,
        policy: ImagePolicy | None = None,
        image_processor: QwenVLImageProcessor | None = None,
    ) -> Image | None:
        """The newest image of a conversation with the boxes of ``response`` drawn into it; save it with ``.save``.

        Args:
            response: the model's answer.
            history: ``(query, response)`` pairs, the last one that of this response, as ``chat`` returns it. Images are
                read out of its queries only, never out of a response, which is the model's.
            policy: what may be read; ``ImagePolicy.scripts()`` when None.
            image_processor: that of the model that answered, which says whether the image is turned upright; that of
                this tokenizer's processor when None.

        Returns:
            None when no query has an image or the response no box.

        Raises:
            ImageError: the image cannot be read.
        """
        source = list_format.latest_image("", history)
        boxes = list_format.boxes_with_ref(response)
        if source is None or not boxes:
            return None
        from ...media import ImagePolicy
        from .grounding import Box, draw
        from .image_processing import QwenVLImageProcessor

        image_processor = image_processor or self.image_processor or QwenVLImageProcessor()
        image = image_processor.without_notes().load(source, policy or ImagePolicy.scripts())
        placed = [Box(box.get("ref"), *box["box"]) for box in boxes]
        groups = list_format.color_groups(boxes)
        return draw(image, placed, colors=[group - groups[0] for group in groups])
