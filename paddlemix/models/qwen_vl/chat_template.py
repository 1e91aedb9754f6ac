"""Chat template: messages as token ids, in ChatML and in the raw format of base models, within a window.

ChatML is ``<|im_start|>role``, a line end, the content and ``<|im_end|>`` per message, joined by line ends.
Role, line end and content are encoded apart from each other, as in the original, since byte pairs would merge
differently across their borders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...errors import ConfigurationError
from .codec import QWenVLCodec
from .messages import Message, box_pieces, normalize_messages
from .vocabulary import GROUNDING_TAGS, IGNORE_INDEX

DEFAULT_WINDOW = 6144


class ChatWindow(NamedTuple):
    """How much of a conversation a model is shown.

    Attributes:
        size: the system message and the turns before the question have fewer ids than this. As in the original, the
            question is not counted.
        images: most images with which earlier turns are shown; None for any number. The question may have more.
    """

    size: int = DEFAULT_WINDOW
    images: int | None = None


def kept_turns(
    window: ChatWindow,
    system: int,
    sizes: Sequence[int],
    images: Sequence[int],
    question_images: int,
    keep_last_image: bool,
) -> list[int]:
    """Which turns before a question stay in its prompt, in order: the newest ones that fit.

    Args:
        window: the limits.
        system: ids of the system message.
        sizes: ids of each turn, the oldest first.
        images: images of each turn.
        question_images: images of the question itself.
        keep_last_image: for a question without an image, the newest turn with one stays in any case, for the question
            is most likely about it.
    """
    count = len(sizes)
    shown = [index for index in range(count) if images[index]]
    subject = shown[-1] if keep_last_image and shown and not question_images else None
    first = _first_within(window.images, images, question_images)
    size = system + (0 if subject is None else sizes[subject])
    kept = set() if subject is None else {subject}
    for index in reversed(range(first, count)):
        if index == subject:
            continue
        size += sizes[index]
        if size >= window.size:
            break
        kept.add(index)
    return sorted(kept)


def _first_within(limit: int | None, images: Sequence[int], question_images: int) -> int:
    """The oldest turn that may stay. Turns without an image go with the image that they are about, the one before."""
    if limit is None:
        return 0
    first, total = len(images), question_images
    for index in reversed(range(len(images))):
        if images[index]:
            total += images[index]
            if total > limit:
                return first
            first = index
    return 0


DEFAULT_SYSTEM = "You are a helpful assistant."
CHAT_FORMATS = ("chatml", "raw")


class UnknownChatFormatError(ConfigurationError, NotImplementedError):
    """``chat_format`` is neither "chatml" nor "raw"."""


class RenderedPrompt(NamedTuple):
    """Ids of a prompt, and the images that belong to its placeholders, in order of appearance (unopened).

    ``dropped_turns`` is how many earlier turns the window left out.
    """

    input_ids: list[int]
    images: list[Any]
    dropped_turns: int = 0


class TrainingExample(NamedTuple):
    """Ids of a conversation, the label of each id (-100: not trained), and the images in order of appearance."""

    input_ids: list[int]
    labels: list[int]
    images: list[Any]


def check_chat_format(chat_format: str) -> None:
    """Raise UnknownChatFormatError unless ``chat_format`` is one of :data:`CHAT_FORMATS`."""
    if chat_format not in CHAT_FORMATS:
        raise UnknownChatFormatError(f"chat_format: got {chat_format!r}, expected one of {', '.join(CHAT_FORMATS)}")


def render_chatml(
    tokenizer: QWenVLCodec,
    messages: Sequence[Mapping[str, Any]],
    *,
    trusted_tags: bool = False,
    image_labels: bool = True,
    default_system: str | None = DEFAULT_SYSTEM,
    max_window_size: int | None = None,
    max_window_images: int | None = None,
    keep_last_image: bool = False,
    add_generation_prompt: bool | None = None,
) -> RenderedPrompt:
    """Messages in ChatML. Text never becomes a control token.

    Args:
        tokenizer: of the model.
        messages: as of :mod:`.messages`.
        trusted_tags: read ``<ref> <box> <quad>`` out of system and user text. In the assistant's text they always are
            read, so that an answer goes back into the prompt as the ids it was generated as.
        image_labels: put ``Picture N: `` before and a line end after each image. N counts over the whole conversation.
        default_system: system text where the messages have none; None for no system message at all.
        max_window_size: drop the oldest turns, images included, until the system message and the turns before the last
            question have fewer ids than this. The question itself is not counted, as in the original. None keeps all.
            The numbers of images stay those of the whole conversation.
        max_window_images: drop the oldest turns beyond that many images, the question's included.
        keep_last_image: where the question has no image, keep the newest turn that has one.
        add_generation_prompt: end with the start of an assistant message. None: when the last message is the user's.

    Raises:
        PromptError: malformed messages.
    """
    encoded = _encode_messages(tokenizer, messages, default_system, trusted_tags, image_labels)
    if add_generation_prompt is None:
        add_generation_prompt = encoded[-1].role == "user"
    newline = tokenizer.encode("\n", allowed_special=())
    kept, dropped = encoded, 0
    if max_window_size is not None:
        kept, dropped = _fit(encoded, ChatWindow(max_window_size, max_window_images), keep_last_image, len(newline))
    ids: list[int] = []
    for message in kept:
        ids += (newline if ids else []) + message.ids
    if add_generation_prompt:
        ids += newline + [tokenizer.im_start_id] + tokenizer.encode("assistant", allowed_special=()) + newline
    return RenderedPrompt(ids, [image for message in kept for image in message.images], dropped)


def render_raw(
    tokenizer: QWenVLCodec,
    messages: Sequence[Mapping[str, Any]],
    *,
    trusted_tags: bool = False,
    image_labels: bool = True,
) -> RenderedPrompt:
    """The last message alone, without roles: the format of the base model, which knows no chat and no history.

    The arguments are those of :func:`render_chatml`; the images of this message count from 1.
    """
    message = normalize_messages(messages)[-1]
    content = _ContentEncoder(tokenizer, trusted_tags, image_labels)(message)
    return RenderedPrompt(content.ids, content.images)


def render_training(
    tokenizer: QWenVLCodec,
    messages: Sequence[Mapping[str, Any]],
    *,
    trusted_tags: bool = True,
    image_labels: bool = True,
    default_system: str = DEFAULT_SYSTEM,
) -> TrainingExample:
    """Messages in ChatML with labels: what the assistant says is trained, and every message's markers.

    Not trained are roles with their line ends, and the text of the system and the user. The example ends with a line
    end. The arguments are those of :func:`render_chatml`. For a fine-tuning record of the original, convert it with
    :func:`.messages.conversation_to_messages` and pass ``image_labels=False``: the ids are then the original's, but
    for the paths in the image placeholders.
    """
    encoded = _encode_messages(tokenizer, messages, default_system, trusted_tags, image_labels)
    newline = tokenizer.encode("\n", allowed_special=())
    ids: list[int] = []
    labels: list[int] = []
    for message in encoded:
        ids += message.ids + newline
        labels += message_labels(message, newline)
    return TrainingExample(ids, labels, [image for message in encoded for image in message.images])


class _Content(NamedTuple):
    ids: list[int]
    images: list[Any]


class EncodedMessage(NamedTuple):
    """A message between its markers, both included; the content begins after ``header`` ids."""

    role: str
    ids: list[int]
    header: int
    images: list[Any]


class _ContentEncoder:
    """Encodes the contents of messages, counting their images."""

    def __init__(self, tokenizer: QWenVLCodec, trusted_tags: bool, image_labels: bool) -> None:
        self._tokenizer = tokenizer
        self._trusted_tags = trusted_tags
        self._image_labels = image_labels
        self._n_images = 0

    def __call__(self, message: Message) -> _Content:
        tags = GROUNDING_TAGS if self._trusted_tags or message["role"] == "assistant" else ()
        ids: list[int] = []
        images = []
        text = ""  # all text up to the next image is encoded at once, labels and line ends included
        for part in message["content"]:
            if part["type"] == "text":
                text += part["text"]
                continue
            if part["type"] == "box":
                ids += self._tokenizer.encode(text, allowed_special=tags)
                for piece, tagged in box_pieces(part):
                    ids += self._tokenizer.encode(piece, allowed_special=GROUNDING_TAGS if tagged else ())
                text = ""
                continue
            self._n_images += 1
            if self._image_labels:
                text += f"Picture {self._n_images}: "
            ids += self._tokenizer.encode(text, allowed_special=tags) + self._tokenizer.image_block()
            text = "\n" if self._image_labels else ""
            images.append(part["image"])
        return _Content(ids + self._tokenizer.encode(text, allowed_special=tags), images)


def _encode_messages(
    tokenizer: QWenVLCodec,
    messages: Sequence[Mapping[str, Any]],
    default_system: str | None,
    trusted_tags: bool,
    image_labels: bool,
) -> list[EncodedMessage]:
    normal = normalize_messages(messages)
    if default_system is not None and normal[0]["role"] != "system":
        normal = normalize_messages([{"role": "system", "content": default_system}, *normal])
    encode_content = _ContentEncoder(tokenizer, trusted_tags, image_labels)
    encoded = []
    for message in normal:
        content = encode_content(message)
        encoded.append(wrap_message(tokenizer, message["role"], content.ids, content.images))
    return encoded


def wrap_message(tokenizer: QWenVLCodec, role: str, content: list[int], images: Sequence[Any] = ()) -> EncodedMessage:
    """A message's ids between its markers; ``content`` is encoded already."""
    header = [
        tokenizer.im_start_id,
        *tokenizer.encode(role, allowed_special=()),
        *tokenizer.encode("\n", allowed_special=()),
    ]
    return EncodedMessage(role, [*header, *content, tokenizer.im_end_id], len(header), list(images))


def message_labels(message: EncodedMessage, newline: list[int]) -> list[int]:
    """Labels of a message and the line end after it."""
    content = message.ids[message.header : -1]
    if message.role != "assistant":
        content = [IGNORE_INDEX] * len(content)
    return [message.ids[0], *[IGNORE_INDEX] * (message.header - 1), *content, message.ids[-1], *newline]


def _fit(
    encoded: list[EncodedMessage], window: ChatWindow, keep_last_image: bool, newline: int
) -> tuple[list[EncodedMessage], int]:
    """The system message, the turns that stay, and the last question with what follows it; and how many turns went."""
    system = encoded[:1] if encoded[0].role == "system" else []
    # a turn is a user's message with the answers after it; answers before any question are a turn too
    turns: list[list[EncodedMessage]] = []
    for message in encoded[len(system) :]:
        if message.role == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    earlier, question = turns[:-1], turns[-1:]
    kept = kept_turns(
        window,
        sum(len(message.ids) for message in system),
        [sum(newline + len(message.ids) for message in turn) for turn in earlier],
        [sum(len(message.images) for message in turn) for turn in earlier],
        sum(len(message.images) for turn in question for message in turn),
        keep_last_image,
    )
    shown = [earlier[index] for index in kept] + question
    return system + [message for turn in shown for message in turn], len(earlier) - len(kept)
