"""A chat in the terminal: lines in, streamed answers out, commands that begin with a slash."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..dependencies import require
from ..errors import ConfigurationError, PaddleMixError, PromptError
from ..files import read_text, strip_bom
from ..inference import check_generation_options, load_model, with_seed
from ..media import ImagePolicy, load_image
from ..media.saving import save_image

if TYPE_CHECKING:
    from .session import ChatSession

COMMANDS = {
    "/image PATH_OR_URL": "show a picture with the next message; several may be given",
    "/reset": "forget the conversation",
    "/save FILE": "write the conversation to a JSON file",
    "/load FILE": "go on with a conversation that was saved",
    "/help": "this list",
    "/quit": "leave (so does Ctrl-D)",
}
PROMPT = "> "
PICTURE_NAME = "chat.jpg"


class TerminalChat:
    """A session with a person at a terminal, or with a script.

    Args:
        session: the conversation.
        output_dir: where drawn pictures go, each under a name of its own (chat.jpg, chat-2.jpg …).
        policy: what ``/image`` may read; by default files and public addresses.
        generation: options of every answer.
        out: where the chat is written.
    """

    def __init__(
        self,
        session: ChatSession,
        output_dir: str | os.PathLike[str] = "output",
        policy: ImagePolicy | None = None,
        generation: dict[str, Any] | None = None,
        out: TextIO | None = None,
    ) -> None:
        self._session = session
        self._output_dir = Path(output_dir)
        self._policy = policy or ImagePolicy.scripts()
        self._generation = generation or {}
        self._out = out or sys.stdout
        self._pictures: list[Any] = []

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str],
        *,
        dtype: str | None = None,
        device: str | None = None,
        quantization: str | None = None,
        vision_quantization: str | None = None,
        kv_cache_dtype: str | None = None,
        adapter: str | os.PathLike[str] | None = None,
        system: str | None = None,
        trusted_tags: bool = False,
        seed: int | None = None,
        output_dir: str | os.PathLike[str] = "output",
        **generation: Any,
    ) -> TerminalChat:
        """A chat with a model; see :func:`paddlemix.inference.load_model`.

        Raises:
            ConfigurationError: a base model, which knows no chat; and what loading raises.
        """
        generation = check_generation_options(generation)
        loaded = load_model(
            model,
            dtype,
            device,
            quantization=quantization,
            vision_quantization=vision_quantization,
            kv_cache_dtype=kv_cache_dtype,
            adapter=adapter,
        )
        if loaded.is_base:
            raise ConfigurationError(
                f"model {str(model)!r}: a base model, which knows no chat; use a chat model here, or run_predict.py"
            )
        if seed not in (None, -1):
            require("paddle", "running a model").seed(seed)
        return cls(loaded.new_session(system, trusted_tags=trusted_tags), output_dir, generation=generation)

    def handle(self, line: str) -> bool:
        """Do what one line says: a command, or a message to be answered. False when the chat is over.

        A message that begins with a slash is written with two. Raises PaddleMixError, the conversation being as before.
        """
        line = line.strip()
        if not line:
            return True
        if line.startswith("/") and not line.startswith("//"):
            return self._command(line)
        self._answer(line[1:] if line.startswith("//") else line)
        return True

    def run_script(self, lines: Iterable[str]) -> None:
        """Handle lines one after the other, showing each. Ends with ``/quit`` or the first error, which it raises."""
        for line in lines:
            if line.strip():
                self._write(f"{PROMPT}{line.strip()}\n")
                if not self.handle(line):
                    return

    def run_interactive(self) -> None:
        """Ask for lines until ``/quit`` or Ctrl-D. Errors are shown and the chat goes on; Ctrl-C stops an answer."""
        _enable_line_editing()
        while True:
            try:
                line = input(PROMPT)
            except EOFError:
                self._write("\n")
                return
            except KeyboardInterrupt:
                self._write("\n(/quit or Ctrl-D leaves)\n")
                continue
            try:
                if not self.handle(line):
                    return
            except PaddleMixError as error:
                self._write("error: " + " ".join(str(error).split()) + "\n")
            except KeyboardInterrupt:
                self._write("\n(stopped; the conversation is as it was before this message)\n")

    def _answer(self, text: str) -> None:
        stream = self._session.stream(text, self._pictures, **with_seed(self._generation))
        try:
            for piece in stream:
                self._write(piece)
        finally:
            stream.close()
        self._write("\n")
        self._pictures = []
        picture = stream.reply.image()
        if picture is not None:
            path = save_image(picture, self._output_dir / PICTURE_NAME, overwrite=False)
            self._write(f"picture: {path}\n")

    def _command(self, line: str) -> bool:
        name, _, argument = line.partition(" ")
        argument = _unquote(argument.strip())
        known = {usage.partition(" ")[0]: bool(usage.partition(" ")[2]) for usage in COMMANDS}
        if name not in known:
            raise PromptError(
                f"{name}: unknown command, expected one of {', '.join(known)}; // begins a message with /"
            )
        if known[name] != bool(argument):
            expected = next(usage for usage in COMMANDS if usage.partition(" ")[0] == name)
            raise PromptError(f"{name}: got {argument!r} after it, expected {expected!r}")
        if name == "/quit":
            return False
        actions = {
            "/image": self._add_picture,
            "/reset": self._reset,
            "/save": self._save,
            "/load": self._load,
            "/help": self._help,
        }
        actions[name](*([argument] if argument else []))
        return True

    def _add_picture(self, source: str) -> None:
        picture = load_image(source, self._policy)
        self._pictures.append(picture)
        self._write(f"picture of {picture.width}x{picture.height} pixels goes with the next message\n")

    def _reset(self) -> None:
        self._session.reset()
        self._pictures = []
        self._write("the conversation is forgotten\n")

    def _save(self, path: str) -> None:
        self._session.save(path)
        self._write(f"saved: {path}\n")

    def _load(self, path: str) -> None:
        self._session.load(path)
        self._pictures = []
        self._write(f"loaded: {path}\n")

    def _help(self) -> None:
        self._write("".join(f"{usage:<20} {text}\n" for usage, text in COMMANDS.items()))

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def script_lines(script: str | os.PathLike[str] | None) -> Iterable[str] | None:
    """The lines of a script file, or those piped into the program; None when a person sits at the keyboard.

    Raises:
        ConfigurationError: the file cannot be read, or is not UTF-8.
    """
    if script is None:
        return None if sys.stdin is not None and sys.stdin.isatty() else _piped_lines()
    return read_text(script, error=lambda message: ConfigurationError(f"--script: {message}")).splitlines()


def _piped_lines() -> Iterable[str]:
    if sys.stdin is None:
        return
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            text = line.decode("utf-8")
            yield strip_bom(text) if number == 1 else text
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"line {number} of the input is not UTF-8 text (byte {error.start})") from error


def _enable_line_editing() -> None:
    """Arrow keys and a history of lines, where Python was built with readline."""
    try:
        import readline  # noqa: F401 - importing it changes what input() can do
    except ImportError:
        pass


def _unquote(text: str) -> str:
    """The text without quotation marks around it, as people copy paths from a shell."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
