"""Arrow keys, a history that outlives the program, and Tab for commands and paths, where Python has readline."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

HISTORY_LINES = 1000


def completions(line: str, commands: Mapping[str, bool]) -> list[str]:
    """The lines that ``line`` may be the beginning of: its command completed, or the path after the command.

    Args:
        line: what was typed so far.
        commands: name -> whether a path comes after it.
    """
    name, space, path = line.partition(" ")
    if not space:
        known = [f"{command} " if takes_path else command for command, takes_path in commands.items()]
        return [command for command in known if line.startswith("/") and command.startswith(line)]
    if not commands.get(name.removesuffix("!")):
        return []
    return [f"{name} {found}" for found in _paths(path)]


def _paths(start: str) -> list[str]:
    """Files and folders (with a slash) whose path begins with ``start``; hidden ones where it asks for them."""
    folder, name = os.path.split(start)
    try:
        entries = sorted(os.scandir(os.path.expanduser(folder) or "."), key=lambda entry: entry.name)
    except (OSError, ValueError):
        return []
    found = [e for e in entries if e.name.startswith(name) and (name or not e.name.startswith("."))]
    return [os.path.join(folder, entry.name) + ("/" if _is_folder(entry) else "") for entry in found]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


@contextlib.contextmanager
def line_editing(commands: Mapping[str, bool]) -> Iterator[None]:
    """While it lasts, ``input()`` edits lines, completes them with Tab and knows those of earlier chats."""
    try:
        import readline
    except ImportError:  # a Python without it reads plain lines
        yield
        return

    def complete(line: str, state: int) -> str | None:
        found = completions(line, commands)
        return found[state] if state < len(found) else None

    file = history_file()
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    delimiters, completer = readline.get_completer_delims(), readline.get_completer()
    readline.set_completer_delims("")  # the whole line: paths may have spaces
    readline.set_completer(complete)
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
    try:
        yield
    finally:
        readline.set_completer_delims(delimiters)
        readline.set_completer(completer)
        _write_history(readline, file)


def history_file() -> Path:
    """Where the lines of chats are kept: ``chat_history`` in ``PADDLEMIX_HOME``, else in ``~/.paddlemix``."""
    home = os.environ.get("PADDLEMIX_HOME") or os.environ.get("PPMIX_HOME") or "~/.paddlemix"
    return Path(os.path.expanduser(home)) / "chat_history"


def _write_history(readline: ModuleType, file: Path) -> None:
    """Keep the newest lines, for this user's eyes only; a chat does not end in an error where that cannot be."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0), 0o600))
        readline.set_history_length(HISTORY_LINES)
        readline.write_history_file(file)
