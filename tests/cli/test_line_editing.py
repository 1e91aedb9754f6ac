"""Tab completion, and lines that are kept."""

from __future__ import annotations

import os
import pty
import sys

import pytest

from paddlemix.cli.line_editing import completions, history_file

COMMANDS = {"/image": True, "/load": True, "/help": False}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("street one.png", "street two.png", "talk.json", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/", ["/image ", "/load ", "/help"]),
        ("/i", ["/image "]),
        ("/image str", ["/image street one.png", "/image street two.png"]),
        ("/image street t", ["/image street two.png"]),
        ("/image i", ["/image images/"]),
        ("/image images/", ["/image images/a.png"]),
        ("/image .h", ["/image .hidden"]),
        ("/load! t", ["/load! talk.json"]),
        ("/help t", []),
        ("/nothing t", []),
        ("what is t", []),
        ("", []),
        ("/image nowhere/x", []),
        ("/image \0", []),
    ],
)
def test_commands_and_paths_are_completed(folder, line, expected):
    assert completions(line, COMMANDS) == expected


def test_paths_of_the_home_and_absolute_ones_are_completed(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert completions("/load ~/ta", COMMANDS) == ["/load ~/talk.json"]
    assert completions(f"/load {folder}/ta", COMMANDS) == [f"/load {folder}/talk.json"]


CHAT = """
import sys
from paddlemix.cli.line_editing import line_editing
with line_editing({"/image": True, "/help": False}):
    sys.stdout.write("got " + repr(input("> ")) + "\\n")
"""


def typed(keys: bytes, home: str) -> str:
    """What a program on a terminal reads where these keys are pressed."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(PADDLEMIX_HOME=home, TERM="dumb")
        os.execv(sys.executable, [sys.executable, "-c", CHAT])
    shown = b""
    sent = False
    try:
        while True:
            try:
                data = os.read(terminal, 4096)
            except OSError:  # Linux: the other end was closed
                break
            if not data:
                break
            shown += data
            if b"> " in shown and not sent:
                sent = True
                os.write(terminal, keys)
    finally:
        os.close(terminal)
        assert os.waitpid(pid, 0)[1] == 0
    return shown[shown.index(b"got ") :].decode().strip()


def test_tab_completes_on_a_terminal_and_lines_are_kept_for_the_next_chat(folder):
    pytest.importorskip("readline")
    home = str(folder / "home")
    assert typed(b"/im\tstreet t\t\n", home) == "got '/image street two.png'"
    file = folder / "home" / "chat_history"
    assert file.read_text().splitlines()[-1] == "/image street two.png"
    assert file.stat().st_mode & 0o077 == 0
    assert typed(b"\x1b[A\n", home) == "got '/image street two.png'"


def test_the_history_lies_beside_the_models(monkeypatch, tmp_path):
    monkeypatch.setenv("PADDLEMIX_HOME", str(tmp_path))
    assert history_file() == tmp_path / "chat_history"
