"""The original's chat interface: queries and a history of texts, in which ``<img>path</img>`` stands for an image.

What works on ids alone, and loads no Paddle; ``chat`` and ``chat_stream`` are methods of the model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from .chat_template import (
    DEFAULT_SYSTEM,
    DEFAULT_WINDOW,
    ChatWindow,
    EncodedMessage,
    TrainingExample,
    check_chat_format,
    kept_turns,
    message_labels,
    wrap_message,
)
from .codec import QWenVLCodec
from .list_format import history_turns
from .messages import conversation_turns
from .vocabulary import ENDOFTEXT, GROUNDING_TAGS, IM_END, IM_START, IMAGE_TAGS

History = list[tuple[str, str]]

# ---------------------------------------------------------------- prompts


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
    For text from strangers, and for paths longer than an image placeholder, use messages and :func:`render_chatml`.
    The newest turns are kept while the system message and they have fewer than ``max_window_size`` ids; the query is
    not counted. ``max_window_images`` and ``keep_last_image`` are those of :func:`render_chatml`.
    In the "raw" format the prompt is the query alone, with every special token read out of it.

    Raises:
        UnknownChatFormatError: ``chat_format`` is neither "chatml" nor "raw".
        PromptError: a path that does not fit, or a turn that is no pair of texts.
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

    Every special token is read out of the values; paths stay in the image placeholders, so ``images`` is empty. A
    leading assistant turn is dropped. Nothing is cut or padded.

    Raises:
        PromptError: with index and field.
    """
    newline = tokenizer.encode("\n", allowed_special=())
    ids: list[int] = []
    labels: list[int] = []
    for role, value in [("system", system), *conversation_turns(conversations)]:
        message = _wrap_text(tokenizer, role, value, allowed_special="all")
        ids += message.ids + newline
        labels += message_labels(message, newline)
    return TrainingExample(ids, labels, [])


def _wrap_text(
    tokenizer: QWenVLCodec, role: str, text: str, allowed_special: str | Collection[str] | None = None
) -> EncodedMessage:
    """A message of trusted text: by default with images in what the user says, and marks of places in all."""
    if allowed_special is None:
        allowed_special = IMAGE_TAGS if role == "user" else GROUNDING_TAGS
    return wrap_message(tokenizer, role, tokenizer.encode(text, allowed_special=allowed_special))


def _markup(role: str, text: str) -> str:
    return f"{IM_START}{role}\n{text}{IM_END}"


# ---------------------------------------------------------------- the end of an answer


def get_stop_words_ids(chat_format: str, tokenizer: QWenVLCodec) -> list[list[int]]:
    """The sequences of ids that end an answer.

    Raises:
        UnknownChatFormatError: ``chat_format`` is neither "chatml" nor "raw".
    """
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

    In ChatML the answer ends before the first ``<|im_end|>`` or ``<|im_start|>``. Without one it is the whole rest but
    for ``<|endoftext|>`` at its end: no token is lost at the length limit.

    Args:
        tokens: the prompt and the answer.
        tokenizer: of the model.
        raw_text_len: characters of the prompt's text, which are cut off the decoded text. As in the original this is
            off where NFC changes the length of the prompt; decoding only the new ids is the better way.
        context_length: ids of the prompt.
        chat_format: ``"chatml"`` or ``"raw"``.
        return_end_reason: return (answer, reason) with the original's wording of the reason.
        errors: policy for bytes that are not UTF-8.

    Raises:
        UnknownChatFormatError: another chat format.
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
