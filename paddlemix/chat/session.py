"""A conversation with a model: any number of turns and images, without computing anything twice."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine.options import GenerationOptions
from ..errors import ConfigurationError, PromptError
from ..media import ImagePolicy
from ..models.qwen_vl.chat_template import DEFAULT_SYSTEM, RenderedPrompt
from ..models.qwen_vl.generation import AnswerStream, chat_settings
from ..models.qwen_vl.messages import (
    Message,
    check_question,
    image_list,
    message_images,
    messages_to_json,
    normalize_messages,
    user_message,
)
from ..utils.display import quoted, shorten
from ..utils.files import read_json, reason, write_json
from ..utils.validation import check_path, check_text_or_none
from .base import KEPT_IMAGES, ReplyStream, Session, Stopwatch
from .reply import Reply

if TYPE_CHECKING:
    from ..models.qwen_vl.modeling import QWenLMHeadModel
    from ..models.qwen_vl.processing import QwenVLProcessor

FILE_FORMAT = "paddlemix chat 1"
# Saved images are PNG, which may be larger than the file that they came from.
_MAX_SAVED_BYTES = 1 << 30
_MAX_CONVERSATION_BYTES = 4 << 30


class ChatSession(Session):
    """A conversation.

    Every image is loaded and encoded once, and the keys and values of the part of the conversation that has not
    changed are kept, so that a turn costs what is new in it. Of a conversation longer than the model's window the model
    is shown the newest turns, and the newest one with an image. An answer that was broken off (an error, Ctrl-C, a
    stream that was not read to its end) leaves the session as it was before the question. The weights must stay as they
    are while a session lives: what it has computed with them it does not compute again.

    Threads that share a session wait for each other: each question is the next turn. A stream that another thread has
    not read to its end is completed first; its reader finds the rest ready.

    Args:
        model: in evaluation mode.
        processor: of the same model.
        system: the system message; ``None``: the usual one.
        image_cache_size: for so many images the encoded features are kept, the least recently used go first.
        policy: what images may be read from; the processor's by default.
        trusted_tags: read ``<ref> <box> <quad>`` out of the user's text; otherwise text is only text.
        **options: fields of :class:`GenerationOptions`, for all turns.

    Raises:
        ConfigurationError: a base model, which knows no chat, or a wrong option.
    """

    def __init__(
        self,
        model: QWenLMHeadModel,
        processor: QwenVLProcessor,
        *,
        system: str | None = None,
        image_cache_size: int = KEPT_IMAGES,
        policy: ImagePolicy | None = None,
        trusted_tags: bool = False,
        **options: Any,
    ) -> None:
        check_text_or_none("system", system)
        self._window = chat_settings(model)
        super().__init__(model, processor, policy, trusted_tags, image_cache_size, options)
        self._turns: list[Message] = []
        self._answering: AnswerStream | None = None
        self._turn = 0
        self._resets = 0
        self._newest: weakref.ref[ReplyStream] | None = None  # unread, it may go whenever its reader drops it
        self.system = DEFAULT_SYSTEM if system is None else system

    @property
    def messages(self) -> list[Message]:
        """The conversation so far, with the system message; images as PIL images."""
        messages = normalize_messages([_text_message("system", self.system), *self._turns])
        for message in messages:
            for part in message["content"]:
                if part["type"] == "image":
                    part["image"] = part["image"].image
        return messages

    def stream(self, text: str, images: Sequence[Any] = (), **options: Any) -> ReplyStream:
        """Like :meth:`ask`, but returns at once the pieces of the answer's text, to be iterated over.

        The question is checked here; the model starts with the first piece. Another question of the same thread, or
        :meth:`reset`, gives this one up if its answer is not complete.
        """
        with self._lock:
            self._complete_other_threads()
            stream = ReplyStream(self._begin(text, images, options), self._lock)
            self._newest = weakref.ref(stream)
            return stream

    def _begin(self, text: str, images: Sequence[Any], options: dict[str, Any]) -> Generator[str, None, Reply]:
        watch = Stopwatch()
        resolved = self._resolve(options)
        images = image_list(images)
        check_question(text, images)
        question = user_message(text, [self._loaded_image(image) for image in self._load_images(images)])
        prompt = self._processor.render(
            [_text_message("system", self.system), *self._turns, question],
            chat_format="chatml",
            trusted_tags=self._trusted_tags,
            max_window_size=self._window.size,
            max_window_images=self._window.images,
            keep_last_image=True,
        )
        self._turn += 1
        watch.stage("load")
        return self._answer(self._turn, question, prompt, resolved, watch)

    def _complete_other_threads(self) -> None:
        """Give no answer up that another thread is reading, nor wait for it to read on."""
        stream = None if self._newest is None else self._newest()
        if stream is not None:
            stream.complete()

    def reset(self) -> None:
        """Forget the conversation; the features of its images stay, should they come again."""
        with self._lock:
            self._complete_other_threads()
            self._turn += 1
            self._resets += 1
            self._turns = []

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the conversation as JSON, its images included (PNG), for :meth:`load`.

        Raises:
            ConfigurationError: the file cannot be written; an older one is still there.
        """
        check_path("path", path)
        content = {"format": FILE_FORMAT, "messages": json.loads(messages_to_json(self.messages))}
        try:
            write_json(Path(path), content)
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{os.fspath(path)}: cannot be written: {reason(error)}") from error

    def load(self, path: str | os.PathLike[str], *, open_files: bool = False) -> None:
        """Go on with a saved conversation instead of this one.

        Args:
            path: a file that :meth:`save` wrote.
            open_files: also read the files and URLs that it names as images. :meth:`save` names none, since the
                file holds its images itself; in another file they are the choice of whoever wrote it.

        Raises:
            PromptError: the file is missing, is not a saved conversation, or names images that are not to be opened;
                this one stays as it was.
            ImageError: an image in it cannot be read.
        """
        check_path("path", path)
        system, turns = _read_conversation(Path(path))
        if not open_files:
            _refuse_named_images(turns, path)
        policy = self._policy.replace(max_bytes=max(self._policy.max_bytes, _MAX_SAVED_BYTES))
        for message in turns:
            for part in message["content"]:
                if part["type"] == "image":
                    part["image"] = self._loaded_image(self.load_image(part["image"], policy))
        with self._lock:
            self.reset()
            self.system = system
            self._turns = turns

    def _answer(
        self,
        turn: int,
        question: Message,
        prompt: RenderedPrompt,
        options: GenerationOptions,
        watch: Stopwatch,
    ) -> Generator[str, None, Reply]:
        ids, images, dropped = prompt
        self._check_current(turn)
        if self._answering is not None:
            self._answering.close()
        answer = self._answering = self._begin_answer(ids, images, options, watch, salt=str(self._resets).encode())
        text = ""
        for piece in answer:
            text += piece
            yield piece
            self._check_current(turn)
        self._turns = [*self._turns, question, _text_message("assistant", text.strip())]
        seen = message_images(self._turns)
        return self._reply(text, answer, watch, len(ids), seen[-1].image if seen else None, dropped)

    def _check_current(self, turn: int) -> None:
        if self._turn != turn:
            raise ConfigurationError(
                "stream: the session went on to something else before this answer was complete; read one answer to its "
                "end before the next question, or use two sessions"
            )


def _text_message(role: str, text: str) -> Message:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _read_conversation(path: Path) -> tuple[str, list[Message]]:
    """System text and turns of a saved conversation."""
    content = read_json(path, limit=_MAX_CONVERSATION_BYTES, error=PromptError)
    if not isinstance(content, dict) or content.get("format") != FILE_FORMAT:
        raise PromptError(f"{path}: not a saved conversation; expected JSON with format {FILE_FORMAT!r}")
    stored: Any = content.get("messages")
    messages = normalize_messages(stored)
    roles = [message["role"] for message in messages]
    if roles != ["system", *["user", "assistant"] * (len(roles) // 2)]:
        got = shorten(", ".join(roles), 80)
        raise PromptError(f"{path}: expected a system message, then questions and answers in turn, got {got}")
    system = "".join(part["text"] for part in messages[0]["content"])
    return system, messages[1:]


def _refuse_named_images(turns: list[Message], path: str | os.PathLike[str]) -> None:
    images = message_images(turns)
    named = [image for image in images if not (isinstance(image, str) and image[:5].lower() == "data:")]
    if named:
        first = quoted(named[0]) if isinstance(named[0], str) else type(named[0]).__name__
        raise PromptError(
            f"{os.fspath(path)}: names {len(named)} image(s) to be read from elsewhere, the first is {first}; "
            "where you trust the file, load(..., open_files=True) or /load! in the chat reads them"
        )
