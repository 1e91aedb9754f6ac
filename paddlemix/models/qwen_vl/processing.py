"""Conversations and images to everything the model is called with, and ids back to text.

One call checks the messages, renders them to ids with image placeholders, and loads and prepares each image once.
Rendering is in ``chat_template``, loading in ``paddlemix.media``; this file puts them together.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigurationError, PromptError
from ...media import ImagePolicy
from ...utils.dependencies import require
from ...utils.files import PREPROCESSOR_CONFIG_FILE, told_as_checkpoint_error, write_json
from ...utils.validation import check_integer
from .chat_template import DEFAULT_SYSTEM, RenderedPrompt, check_chat_format, render_chatml, render_raw
from .config_schema import read_visual
from .generation_file import read_generation_config
from .image_processing import QwenVLImageProcessor, image_key, parse_color, read_preprocessor_config
from .list_format import from_list_format
from .messages import DEFAULT_MAX_IMAGES, check_image_count, message_images, normalize_messages, user_message
from .pretrained_arguments import split_arguments
from .tokenization import QWenVLTokenizer, TokenizedBatch

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["BatchFeature", "QwenVLImageProcessor", "QwenVLProcessor", "image_key"]


class BatchFeature(TokenizedBatch):
    """A dict of ``input_ids``, ``attention_mask`` and ``images`` whose entries are attributes too."""


class QwenVLProcessor:
    """Tokenizer, image processor and chat format of one model."""

    def __init__(
        self,
        tokenizer: QWenVLTokenizer,
        image_processor: QwenVLImageProcessor | None = None,
        *,
        policy: ImagePolicy | None = None,
        chat_format: str = "chatml",
        max_images: int = DEFAULT_MAX_IMAGES,
        max_length: int | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            tokenizer: of the model.
            image_processor: for images of 448 x 448 when None.
            policy: what images may be read from; ``ImagePolicy()`` (files yes, URLs no) when None.
            chat_format: "chatml" or "raw", used where a call names none.
            max_images: most images in one conversation.
            max_length: most ids of one prompt; the tokenizer's ``model_max_length`` when None.

        Raises:
            ConfigurationError: a value that cannot work.
        """
        check_chat_format(chat_format)
        check_integer("max_images", max_images, least=0)
        if max_length is not None:
            check_integer("max_length", max_length)
        self.tokenizer = tokenizer
        self.image_processor = image_processor if image_processor is not None else QwenVLImageProcessor()
        tokenizer.image_processor = self.image_processor  # so that the tokenizer draws what the model sees
        self.policy = policy if policy is not None else ImagePolicy()
        self.chat_format = chat_format
        self.max_images = max_images
        self.max_length = max_length if max_length is not None else tokenizer.model_max_length

    # ------------------------------------------------------------------ files

    @classmethod
    def from_pretrained(
        cls,
        name_or_dir: str | os.PathLike[str],
        *,
        exif_transpose: bool | None = None,
        background: Sequence[int] | str | None = None,
        **arguments: Any,
    ) -> QwenVLProcessor:
        """The processor of a directory, or of a model known by name.

        The image size comes from ``preprocessor_config.json`` or, where there is none, as with the published models,
        from ``config.json``; the number of image tokens from ``config.json``; the chat format from
        ``generation_config.json`` ("chatml" without one).

        Args:
            name_or_dir: a directory, a known name, or a name in a public store.
            exif_transpose: as in :class:`QwenVLImageProcessor`, before the file's.
            background: the same; it may be the name of a color.
            **arguments: those of the constructor; ``revision``, ``cache_dir``, ``token`` and ``local_files_only`` of
                the hub; and what else users of transformers write, see :mod:`.pretrained_arguments`.

        Raises:
            CheckpointError, ConfigurationError, ModelNotFoundError.
        """
        from ...checkpoint import hub

        options, rest = split_arguments(arguments)
        directory = hub.resolve(name_or_dir, weights=False, **options)
        return cls.from_directory(directory, exif_transpose=exif_transpose, background=background, **rest)

    @classmethod
    def from_directory(
        cls,
        directory: Path,
        *,
        exif_transpose: bool | None = None,
        background: Sequence[int] | str | None = None,
        **options: Any,
    ) -> QwenVLProcessor:
        """As :meth:`from_pretrained`, where the directory is known; ``options``: arguments of the constructor.

        Raises:
            CheckpointError, ConfigurationError.
        """
        visual = read_visual(directory) or {}
        settings = read_preprocessor_config(directory, visual.get("image_size"))
        if exif_transpose is not None:
            settings["exif_transpose"] = exif_transpose
        if background is not None:
            settings["background"] = parse_color(background) if isinstance(background, str) else background
        sizes = {"num_image_tokens": visual["n_queries"]} if visual else {}
        tokenizer = QWenVLTokenizer.from_directory(directory, **sizes)
        generation = read_generation_config(directory) or {}
        options.setdefault("chat_format", generation.get("chat_format") or "chatml")
        return cls(tokenizer, QwenVLImageProcessor.from_dict(settings), **options)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> tuple[str, ...]:
        """Write tokenizer files and ``preprocessor_config.json`` into a directory (made if absent); their paths.

        Raises:
            CheckpointError: they cannot be written; each file is then as it was.
        """
        files = self.tokenizer.save_pretrained(directory)
        path = Path(directory) / PREPROCESSOR_CONFIG_FILE
        with told_as_checkpoint_error(path.parent):
            write_json(path, self.image_processor.to_dict())
        return (*files, str(path))

    # ------------------------------------------------------------------ to the model

    def __call__(
        self,
        messages: str | Sequence[Any] | None = None,
        images: Any = None,
        *,
        query: Sequence[Any] | None = None,
        return_tensors: str | None = None,
        max_length: int | None = None,
        policy: ImagePolicy | None = None,
        **rendering: Any,
    ) -> BatchFeature:
        """Everything the model is called with: ``input_ids`` and ``attention_mask`` [rows, length], ``images``.

        Args:
            messages: one conversation (a list of messages) or a list of conversations; or a text, or a list of texts,
                each of which is then a user's message.
            images: with a text, an image or list of images that come before it; with a list of texts, one such entry
                (or None) per text.
            query: instead of messages, one list or several of ``{"image": X}``, ``{"text": str}`` and ``{"ref": str,
                "box": [..]}`` elements, as in PaddleMIX: a prompt in the raw format (unless ``chat_format`` is given),
                with the tags of references and boxes read out of its text.
            return_tensors: None (lists of ids, NumPy images), "np" or "pd" (int64 ids).
            max_length: for this call, instead of the processor's.
            policy: for this call, instead of the processor's.
            **rendering: ``chat_format``, ``add_generation_prompt``, ``trusted_tags``, ``image_labels``, ``system`` and
                the window of :meth:`render`.

        Returns:
            ``input_ids`` and ``attention_mask``, padded on the left; ``images`` float32 ``[n, 3, S, S]``, the images of
            all rows in order, or None when there are none.

        Raises:
            PromptError: malformed messages, too many images, a prompt that is too long.
            ImageError: an image cannot be read, or may not.
        """
        if (messages is None) == (query is None):
            raise PromptError("processor: expected messages (or a text), or query=, and not both")
        if return_tensors not in (None, "np", "pd"):
            raise ConfigurationError(f"return_tensors: got {return_tensors!r}, expected None, 'np' or 'pd'")
        if query is not None:
            if images is not None:
                raise PromptError("images: expected only with a text; images of a query are elements of it")
            conversations: list[Any] = _query_conversations(query)
            rendering = {"chat_format": "raw", "trusted_tags": True, **rendering}
        else:
            conversations = _conversations(messages, images)
        prompts = [self.render(conversation, max_length=max_length, **rendering) for conversation in conversations]
        features = [{"input_ids": p.input_ids, "attention_mask": [1] * len(p.input_ids)} for p in prompts]
        columns = self.tokenizer.pad(features, padding_side="left", return_tensors=return_tensors)
        sources = [source for prompt in prompts for source in prompt.images]
        pixels = self._load(sources, policy if policy is not None else self.policy)
        if pixels is not None and return_tensors == "pd":
            pixels = require("paddle", "return_tensors='pd'").to_tensor(pixels)
        return BatchFeature({**columns, "images": pixels})

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        chat_format: str | None = None,
        add_generation_prompt: bool | None = None,
        trusted_tags: bool = False,
        image_labels: bool = True,
        system: str | None = DEFAULT_SYSTEM,
        max_window_size: int | None = None,
        max_window_images: int | None = None,
        keep_last_image: bool = False,
        max_length: int | None = None,
    ) -> RenderedPrompt:
        """Ids of one conversation, and its images, not yet opened, in order of their placeholders.

        The raw format has no system message, window or start of an answer.

        Args:
            messages: the conversation.
            chat_format: "chatml", or "raw" for the last message alone; the processor's when None.
            add_generation_prompt: end with the start of an answer; None: when the last message is the user's.
            trusted_tags: read ``<ref> <box> <quad>`` out of the texts; other control tokens always stay text.
            image_labels: write ``Picture N: `` before each image.
            system: the system text where the messages have none; None for no system message.
            max_window_size: drop the oldest turns beyond that many ids, as the original does with 6144; None keeps
                all.
            max_window_images: with it, as in :func:`~.chat_template.render_chatml`.
            keep_last_image: with it, as in :func:`~.chat_template.render_chatml`.
            max_length: most ids, instead of the processor's.

        Raises:
            PromptError: malformed messages, too many images, a prompt that is too long.
        """
        chat_format = chat_format if chat_format is not None else self.chat_format
        check_chat_format(chat_format)
        normal = normalize_messages(messages)
        check_image_count(message_images(normal[-1:]), self.max_images, "messages")
        tags = {"trusted_tags": trusted_tags, "image_labels": image_labels}
        if chat_format == "raw":
            prompt = render_raw(self.tokenizer, normal, **tags)
        else:
            prompt = render_chatml(
                self.tokenizer,
                normal,
                default_system=system,
                max_window_size=max_window_size,
                max_window_images=max_window_images,
                keep_last_image=keep_last_image,
                add_generation_prompt=add_generation_prompt,
                **tags,
            )
        check_image_count(prompt.images, self.max_images, "messages")
        if max_length is not None:
            check_integer("max_length", max_length)
        limit = max_length if max_length is not None else self.max_length
        if len(prompt.input_ids) > limit:
            raise PromptError(
                f"messages: {len(prompt.input_ids)} ids, expected at most {limit}; shorten the text, send fewer "
                f"images ({self.tokenizer.num_image_tokens + 2} ids each), or drop old turns with max_window_size"
            )
        return prompt

    def apply_chat_template(
        self,
        messages: Sequence[Any],
        add_generation_prompt: bool = True,
        tokenize: bool = True,
        chat_format: str | None = None,
        **rendering: Any,
    ) -> list[int] | list[list[int]] | str | list[str]:
        """Ids of a conversation, or of each in a list; with ``tokenize=False`` as text, images as ``<img></img>``.

        Images are not opened. The text is for reading: in it, control tokens cannot be told from text that looks like
        them. rendering: further arguments of :meth:`render`.
        """
        conversations = _conversations(messages, None)
        options = {"add_generation_prompt": add_generation_prompt, "chat_format": chat_format, **rendering}
        rows: list[Any] = [self.render(conversation, **options).input_ids for conversation in conversations]
        if not tokenize:
            rows = [self.tokenizer.decode(row) for row in rows]
        return rows if _is_batch(messages) else rows[0]

    def _load(self, sources: Sequence[Any], policy: ImagePolicy) -> np.ndarray | None:
        return self.image_processor(sources, policy) if sources else None

    # ------------------------------------------------------------------ from the model

    def decode(self, token_ids: Any, **options: Any) -> str:
        """Text of a row of ids (list, array or tensor; [1, length] too); options of the tokenizer's ``decode``.

        By default special tokens are left out, but for the tags of references and boxes.
        """
        ids = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
        if isinstance(ids, (list, tuple)) and len(ids) == 1 and isinstance(ids[0], (list, tuple)):
            ids = ids[0]
        return self.tokenizer.decode(ids, **{"skip_special_tokens": True, "keep_image_special": True, **options})

    def draw_bbox_on_latest_picture(
        self,
        response: str,
        history: Sequence[tuple[str, str | None]] | None = None,
        policy: ImagePolicy | None = None,
    ) -> Image | None:
        """As :meth:`QWenVLTokenizer.draw_bbox_on_latest_picture`, of the image as this processor shows it."""
        return self.tokenizer.draw_bbox_on_latest_picture(response, history, policy, self.image_processor)

    def batch_decode(self, sequences: Any, **options: Any) -> list[str]:
        """:meth:`decode` of every row."""
        return [self.decode(row, **options) for row in sequences]


def _conversations(messages: Any, images: Any) -> list[Sequence[Mapping[str, Any]]]:
    """Whatever ``__call__`` takes as messages, as a list of conversations."""
    if isinstance(messages, str):
        return [[user_message(messages, images)]]
    if not isinstance(messages, (list, tuple)) or not messages:
        raise PromptError(f"messages: got {_kind(messages)}, expected a text, a list of messages, or a list of these")
    if all(isinstance(text, str) for text in messages):
        if images is None:
            images = [None] * len(messages)
        if not isinstance(images, (list, tuple)) or len(images) != len(messages):
            expected = f"a list with one entry (image, list of images or None) for each of {len(messages)} texts"
            raise PromptError(f"images: got {_kind(images)}, expected {expected}")
        return [[user_message(text, entry)] for text, entry in zip(messages, images)]
    if images is not None:
        raise PromptError("images: expected only with a text; images of messages are parts of their content")
    return list(messages) if _is_batch(messages) else [messages]


def _is_batch(messages: Any) -> bool:
    """Whether these are several conversations or texts, rather than one."""
    return not isinstance(messages, str) and not any(isinstance(item, Mapping) for item in messages)


def _query_conversations(query: Any) -> list[list[dict[str, Any]]]:
    """PaddleMIX's lists of elements as conversations of one message."""
    if isinstance(query, str):
        return [[user_message(query)]]
    if not isinstance(query, (list, tuple)) or not query:
        raise PromptError(
            f"query: got {_kind(query)}, expected a list of elements like {{'image': X}} or {{'text': str}}"
        )
    rows = query if not any(isinstance(element, Mapping) for element in query) else [query]
    return [_query_message(row) for row in rows]


def _query_message(elements: Any) -> list[dict[str, Any]]:
    if isinstance(elements, str):
        return [user_message(elements)]
    if not isinstance(elements, (list, tuple)):
        raise PromptError(f"query: got {_kind(elements)} in it, expected lists of elements like {{'text': str}}")
    content = []
    for index, element in enumerate(elements):
        if not isinstance(element, Mapping):
            raise PromptError(f"query[{index}]: got {type(element).__name__}, expected a dict")
        if "image" in element:
            content.append({"type": "image", "image": element["image"]})
        else:
            content.append({"type": "text", "text": from_list_format([dict(element)])})
    return [{"role": "user", "content": content}]


def _kind(value: Any) -> str:
    """What a value is, for messages: its type, and its length where it is a list."""
    kind = type(value).__name__
    return f"{kind} of length {len(value)}" if isinstance(value, (list, tuple)) else kind
