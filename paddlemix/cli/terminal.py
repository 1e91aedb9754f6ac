"""A chat in the terminal: lines in, streamed answers out, commands that begin with a slash."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..errors import ConfigurationError, OutputError, PaddleMixError, PromptError
from ..inference import load_model, with_seed
from ..media import ImagePolicy
from ..media.saving import save_image
from ..options import check_generation_options, split_options
from ..utils.dependencies import require
from ..utils.display import escape_controls
from ..utils.files import read_text, strip_bom
from ..zoo import DEFAULT_MODEL
from .common import cut_off_words
from .console import error_line, write
from .line_editing import line_editing

if TYPE_CHECKING:
    from ..chat.reply import Reply
    from ..chat.session import ChatSession

COMMANDS = {
    "/image PATH_OR_URL": "show an image with the next message; several may be given",
    "/reset": "forget the conversation",
    "/save FILE": "write the conversation to a new JSON file; /save! replaces an older one",
    "/load FILE": "go on with a conversation that was saved; /load! opens files it names",
    "/help": "this list",
    "/quit": "leave (so does Ctrl-D)",
}
_TAKES_ARGUMENT = {usage.partition(" ")[0]: " " in usage for usage in COMMANDS}
PROMPT = "> "
IMAGE_NAME = "chat.jpg"


class TerminalChat:
    """A session with a person at a terminal, or with a script.

    What the model, files and error messages say is shown with control characters escaped. A drawn image that cannot
    be saved is a note; ``lost_images`` counts them.

    Args:
        session: the conversation.
        output_dir: where drawn images go, each under a name of its own (chat.jpg, chat-2.jpg …).
        policy: what ``/image`` may read; by default files and public URLs.
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
        self._images: list[Any] = []
        self._told_of_window = False
        self.lost_images = 0

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        output_dir: str | os.PathLike[str] = "output",
        seed: int | None = None,
        **options: Any,
    ) -> TerminalChat:
        """A chat with a model.

        Args:
            model: a directory, a known name, or a name in a public store.
            output_dir: where drawn images go.
            seed: sets Paddle's random generator, from which the answers' seeds are drawn; ``None`` or -1: a new one.
            **options: fields of :class:`paddlemix.options.ModelOptions`, :class:`paddlemix.options.SessionOptions` and
                :class:`paddlemix.engine.options.GenerationOptions`.

        Raises:
            ConfigurationError: a base model, which knows no chat; and what loading raises.
        """
        model_options, session_options, generation = split_options(options, model=model)
        check_generation_options({"seed": seed})
        loaded = load_model(model_options)
        if loaded.is_base:
            raise ConfigurationError(
                f"model {str(model)!r}: a base model, which knows no chat; use a chat model, or paddlemix predict"
            )
        if seed not in (None, -1):
            require("paddle", "running a model").seed(seed)
        policy = session_options.policy
        session = loaded.new_chat(session_options.system, policy, session_options.trusted_tags)
        return cls(session, output_dir, policy, generation=generation)

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
        with line_editing(_TAKES_ARGUMENT):
            while self._ask_and_handle():
                pass

    def _ask_and_handle(self) -> bool:
        """One line of a person; False when the chat is over."""
        try:
            line = input(PROMPT)
        except EOFError:
            self._write("\n")
            return False
        except KeyboardInterrupt:
            self._write("\n(/quit or Ctrl-D leaves)\n")
            return True
        try:
            return self.handle(line)
        except (OutputError, BrokenPipeError):  # nobody sees what comes next
            raise
        except PaddleMixError as error:
            self._write(error_line(error) + "\n")
        except KeyboardInterrupt:
            self._write("\n(stopped; the conversation is as it was before this message)\n")
        except Exception as error:  # noqa: BLE001 - whatever it is, a person's conversation must not be lost to it
            self._write(f"{error_line(error)} (an unexpected {type(error).__name__}; the chat goes on)\n")
        return True

    def _answer(self, text: str) -> None:
        stream = self._session.stream(text, self._images, **with_seed(self._generation))
        try:
            for piece in stream:
                self._write(piece)
            reply = stream.wait()
        finally:
            stream.close()
        self._write("\n")
        self._images = []
        if reply.dropped_turns and not self._told_of_window:
            self._told_of_window = True
            self._write("note: the model's window is full; from here on it is shown the newest turns and image only\n")
        if reply.finish_reason == "length":
            self._write(f"note: {cut_off_words(reply.new_tokens)}\n")
        self._save_drawing(reply)

    def _save_drawing(self, reply: Reply) -> None:
        image = reply.image()
        if image is None:
            return
        try:
            path = save_image(image, self._output_dir / IMAGE_NAME, overwrite=False)
        except ConfigurationError as error:  # the answer stands without its drawing
            self.lost_images += 1
            self._write(f"note: the drawn image is missing: {error}\n")
        else:
            self._write(f"image: {path}\n")

    def _command(self, line: str) -> bool:
        name, _, argument = line.partition(" ")
        argument = _unquote(argument.strip())
        insists = name in ("/save!", "/load!")
        name = name.rstrip("!") if insists else name
        if name not in _TAKES_ARGUMENT:
            known = ", ".join(_TAKES_ARGUMENT)
            raise PromptError(f"{name}: unknown command, expected one of {known}; // begins a message with /")
        if _TAKES_ARGUMENT[name] != bool(argument):
            expected = next(usage for usage in COMMANDS if usage.partition(" ")[0] == name)
            raise PromptError(f"{name}: got {argument!r} after it, expected {expected!r}")
        if name == "/quit":
            return False
        actions: dict[str, Callable[..., None]] = {
            "/image": self._add_image,
            "/reset": self._reset,
            "/save": lambda path: self._save(path, overwrite=insists),
            "/load": lambda path: self._load(path, open_files=insists),
            "/help": self._help,
        }
        actions[name](*([argument] if argument else []))
        return True

    def _add_image(self, source: str) -> None:
        image = self._session.load_image(source, self._policy)
        self._images.append(image)
        self._write(f"image of {image.width}x{image.height} pixels goes with the next message\n")

    def _reset(self) -> None:
        self._session.reset()
        self._images = []
        self._told_of_window = False
        self._write("the conversation is forgotten\n")

    def _save(self, path: str, overwrite: bool) -> None:
        if not overwrite and os.path.lexists(path):
            raise PromptError(f"/save: {path!r} is there already; /save! {path} replaces it")
        self._session.save(path)
        self._write(f"saved: {path}\n")

    def _load(self, path: str, open_files: bool) -> None:
        self._session.load(path, open_files=open_files)
        self._images = []
        self._told_of_window = False
        self._write(f"loaded: {path}\n")

    def _help(self) -> None:
        self._write("".join(f"{usage:<20} {text}\n" for usage, text in COMMANDS.items()))

    def _write(self, text: str) -> None:
        write(self._out, escape_controls(text, keep="\n\t"))


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


def _unquote(text: str) -> str:
    """The text without quotation marks around it, as people copy paths from a shell."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
