"""Conversations as token ids: ChatML and the raw format, for messages and for the original's text with paths.

ChatML is ``<|im_start|>role\\ncontent<|im_end|>`` per message, joined by line ends. Role, line end and content are
encoded apart from each other, as in the original, since byte pairs would merge differently across their borders.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from ...errors import ConfigurationError
from .batching import IGNORED_LABEL
from .chat_window import DEFAULT_WINDOW, ChatWindow, kept_turns
from .codec import QWenVLCodec
from .list_format import history_turns
from .messages import Message, conversation_turns, normalize_messages
from .vocabulary import ENDOFTEXT, GROUNDING_TAGS, IM_END, IM_START, IMAGE_TAGS

DEFAULT_SYSTEM = "You are a helpful assistant."
CHAT_FORMATS = ("chatml", "raw")


class UnknownChatFormatError(ConfigurationError, NotImplementedError):
    """``chat_format`` is neither "chatml" nor "raw"."""


class RenderedPrompt(NamedTuple):
    """Ids of a prompt, and the images that belong to its blocks of slots, in order of appearance (unopened).

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


# ---------------------------------------------------------------- messages


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

    trusted_tags: read ``<ref> <box> <quad>`` out of system and user text. In the assistant's text they always are read,
        so that an answer goes back into the prompt as the ids it was generated as.
    image_labels: put ``Image N: `` before and a line end after each image. N counts over the whole conversation.
    default_system: system text where the messages have none; None for no system message at all.
    max_window_size: drop the oldest turns, images included, until the system message and the turns before the last
        question have fewer ids than this. The question itself is not counted, as in the original. None keeps all.
        The numbers of images stay those of the whole conversation.
    max_window_images: drop the oldest turns beyond that many images, the question's included.
    keep_last_image: where the question has no image, keep the newest turn that has one.
    add_generation_prompt: end with the start of an assistant message. None: when the last message is the user's.
    Raises PromptError for malformed messages.
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
    for the paths in the image slots.
    """
    encoded = _encode_messages(tokenizer, messages, default_system, trusted_tags, image_labels)
    newline = tokenizer.encode("\n", allowed_special=())
    ids: list[int] = []
    labels: list[int] = []
    for message in encoded:
        ids += message.ids + newline
        labels += _labels(message, newline)
    return TrainingExample(ids, labels, [image for message in encoded for image in message.images])


class _Content(NamedTuple):
    ids: list[int]
    images: list[Any]


class _Encoded(NamedTuple):
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
) -> list[_Encoded]:
    normal = normalize_messages(messages)
    if default_system is not None and normal[0]["role"] != "system":
        normal = normalize_messages([{"role": "system", "content": default_system}, *normal])
    encode_content = _ContentEncoder(tokenizer, trusted_tags, image_labels)
    encoded = []
    for message in normal:
        content = encode_content(message)
        encoded.append(_wrap(tokenizer, message["role"], content.ids, content.images))
    return encoded


def _wrap(tokenizer: QWenVLCodec, role: str, content: list[int], images: Sequence[Any] = ()) -> _Encoded:
    header = [
        tokenizer.im_start_id,
        *tokenizer.encode(role, allowed_special=()),
        *tokenizer.encode("\n", allowed_special=()),
    ]
    return _Encoded(role, [*header, *content, tokenizer.im_end_id], len(header), list(images))


def _labels(message: _Encoded, newline: list[int]) -> list[int]:
    """Labels of a message and the line end after it."""
    content = message.ids[message.header : -1]
    if message.role != "assistant":
        content = [IGNORED_LABEL] * len(content)
    return [message.ids[0], *[IGNORED_LABEL] * (message.header - 1), *content, message.ids[-1], *newline]


def _fit(
    encoded: list[_Encoded], window: ChatWindow, keep_last_image: bool, newline: int
) -> tuple[list[_Encoded], int]:
    """The system message, the turns that stay, and the last question with what follows it; and how many turns went."""
    system = encoded[:1] if encoded[0].role == "system" else []
    # a turn is a user's message with the answers after it; answers before any question are a turn too
    turns: list[list[_Encoded]] = []
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


# ---------------------------------------------------------------- text with paths, as the original takes it


def make_context(
    tokenizer: QWenVLCodec,
    query: str,
    history: Sequence[tuple[str, str | None]] | None = None,
    system: str = "",
    max_window_size: int = DEFAULT_WINDOW,
    chat_format: str = "chatml",
    *,
    max_window_images: int | None = None,
    keep_last_image: bool = False,
) -> tuple[str, list[int]]:
    """The prompt for ``query`` after ``history``, as text and as ids.

    ``<img>path</img>`` is read out of the queries, which must be trusted; not out of answers and the system text, for
    an answer is what an image or a prompt made the model write. The tags of references and boxes are read out of all.
    For text from strangers, and for paths longer than the image slots, use messages and :func:`render_chatml`.
    The newest turns are kept while the system message and they have fewer than ``max_window_size`` ids; the query is
    not counted. ``max_window_images`` and ``keep_last_image`` are those of :func:`render_chatml`.
    In the "raw" format the prompt is the query alone, with every special token read out of it.
    Raises UnknownChatFormatError, and PromptError for a path that does not fit or a turn that is no pair of texts.
    """
    if chat_format == "raw":
        return query, tokenizer.encode(query)
    check_chat_format(chat_format)
    newline = tokenizer.encode("\n", allowed_special=())
    system_ids = _wrap_text(tokenizer, "system", system).ids
    query_ids = _wrap_text(tokenizer, "user", query).ids
    texts: list[str] = []
    rows: list[list[int]] = []
    for turn_query, turn_response in history_turns(history):
        text = f"\n{_markup('user', turn_query)}\n"
        ids = newline + _wrap_text(tokenizer, "user", turn_query).ids + newline
        if turn_response is not None:
            text += _markup("assistant", turn_response)
            ids += _wrap_text(tokenizer, "assistant", turn_response).ids
        texts.append(text)
        rows.append(ids)
    images = [row.count(tokenizer.img_start_id) for row in rows]
    window = ChatWindow(max_window_size, max_window_images)
    question_images = query_ids.count(tokenizer.img_start_id)
    kept = kept_turns(window, len(system_ids), list(map(len, rows)), images, question_images, keep_last_image)
    raw_text = "".join([_markup("system", system), *(texts[index] for index in kept)])
    raw_text += f"\n{_markup('user', query)}\n{IM_START}assistant\n"
    prompt_start = [tokenizer.im_start_id, *tokenizer.encode("assistant", allowed_special=()), *newline]
    earlier = [token for index in kept for token in rows[index]]
    return raw_text, [*system_ids, *earlier, *newline, *query_ids, *newline, *prompt_start]


def render_conversation(
    tokenizer: QWenVLCodec, conversations: Sequence[Mapping[str, Any]], system: str = DEFAULT_SYSTEM
) -> TrainingExample:
    """A fine-tuning record ``[{"from": "user" | "assistant", "value": str}]`` exactly as the original trains on it.

    Every special token is read out of the values; paths stay in the image slots, so ``images`` is empty. A leading
    assistant turn is dropped. Nothing is cut or padded. Raises PromptError that names the index and field.
    """
    newline = tokenizer.encode("\n", allowed_special=())
    ids: list[int] = []
    labels: list[int] = []
    for role, value in [("system", system), *conversation_turns(conversations)]:
        message = _wrap_text(tokenizer, role, value, allowed_special="all")
        ids += message.ids + newline
        labels += _labels(message, newline)
    return TrainingExample(ids, labels, [])


def _wrap_text(
    tokenizer: QWenVLCodec, role: str, text: str, allowed_special: str | Collection[str] | None = None
) -> _Encoded:
    """A message of trusted text: by default with images in what the user says, and marks of places in all."""
    if allowed_special is None:
        allowed_special = IMAGE_TAGS if role == "user" else GROUNDING_TAGS
    return _wrap(tokenizer, role, tokenizer.encode(text, allowed_special=allowed_special))


def _markup(role: str, text: str) -> str:
    return f"{IM_START}{role}\n{text}{IM_END}"


# ---------------------------------------------------------------- the end of an answer


def get_stop_words_ids(chat_format: str, tokenizer: QWenVLCodec) -> list[list[int]]:
    """The sequences of ids that end an answer. Raises UnknownChatFormatError."""
    check_chat_format(chat_format)
    if chat_format == "raw":
        return [tokenizer.encode("Human:"), [tokenizer.eod_id]]
    return [[tokenizer.im_end_id], [tokenizer.im_start_id]]


def decode_tokens(
    tokens: Sequence[int],
    tokenizer: QWenVLCodec,
    raw_text_len: int,
    context_length: int,
    chat_format: str,
    return_end_reason: bool = False,
    errors: str = "replace",
) -> str | tuple[str, str]:
    """The answer in a row of ids that begins with its prompt, stripped of surrounding space.

    raw_text_len: characters of the prompt's text, which are cut off the decoded text. As in the original this is off
        where NFC changes the length of the prompt; decoding only the new ids is the better way.
    context_length: ids of the prompt.
    return_end_reason: return (answer, reason) with the original's wording of the reason.
    In ChatML the answer ends before the first ``<|im_end|>`` or ``<|im_start|>``. Without one it is the whole rest but
    for ``<|endoftext|>`` at its end: no token is lost at the length limit. Raises UnknownChatFormatError.
    """
    check_chat_format(chat_format)
    tokens = [int(token) for token in tokens]
    end = len(tokens)
    reason = f"Gen length {len(tokens)}"
    if chat_format == "chatml":
        stops = (tokenizer.im_end_id, tokenizer.im_start_id)
        stop = next((i for i in range(context_length, len(tokens)) if tokens[i] in stops), None)
        if stop is not None:
            end = stop
            reason = f"Gen {tokenizer.decode(tokens[stop])!r}"
        while stop is None and end > context_length and tokens[end - 1] == tokenizer.eod_id:
            end -= 1
    text = tokenizer.decode(tokens[:end], errors=errors)[raw_text_len:]
    if chat_format == "raw":
        text = text.replace(ENDOFTEXT, "")
    return (text.strip(), reason) if return_end_reason else text.strip()


def check_chat_format(chat_format: str) -> None:
    """Raise UnknownChatFormatError unless ``chat_format`` is one of :data:`CHAT_FORMATS`."""
    if chat_format not in CHAT_FORMATS:
        raise UnknownChatFormatError(f"chat_format: got {chat_format!r}, expected one of {', '.join(CHAT_FORMATS)}")
