"""Programs whose streams are closed, full, narrow or no longer read, run as a shell runs them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest

from paddlemix.cli import console

SAYS = """
from paddlemix.cli import common as cli
def main(arguments):
    cli.note("note: \\x1b[31mred")
    cli.output("response: 这是 é \\x1b]0;title\\x07\\tend\\nline two")
    cli.output_json({"text": "这 \\U0001f600 \\x9b \\ud800"})
    return 0
cli.run(main)
"""


def shell(redirections: str, program: str = SAYS, **environment: str) -> subprocess.CompletedProcess:
    command = f'"$0" -c "$1" {redirections}'
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}", sys.executable, program],
        capture_output=True,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("utf-8", "response: 这是 é "), ("latin-1", "response: ?? \xe9 "), ("ascii", "response: ?? ? "),
     ("cp1252", "response: ?? \xe9 ")],
)  # fmt: skip
def test_what_a_stream_cannot_encode_is_replaced_and_json_stays_json(encoding, shown):
    done = shell("", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.decode(encoding).splitlines()
    assert first == shown + "\\x1b]0;title\\x07\tend" and second == "line two"
    assert json.loads(third) == {"text": "这 \U0001f600 \x9b \ud800"}
    assert "\x9b" not in third
    assert done.stderr == b"note: \\x1b[31mred\n"


@pytest.mark.parametrize(
    ("redirections", "error"),
    [
        ("> /dev/full", b"error: stdout: the output cannot be written: No space left on device\n"),
        (">&-", b"error: stdout: is closed, so the output cannot be written\n"),
    ],
)
def test_an_output_that_is_full_or_closed_is_one_line(redirections, error):
    done = shell(redirections)
    assert done.returncode == 1
    assert done.stderr == b"note: \\x1b[31mred\n" + error


def test_a_reader_that_has_gone_ends_the_program_quietly():
    many = SAYS.replace("return 0", "[cli.output('x' * 1000) for _ in range(2000)]")
    done = shell("| head -1", many)
    assert done.returncode == 1
    assert done.stdout.startswith("response: 这是".encode())
    assert done.stderr == b"note: \\x1b[31mred\n"


@pytest.mark.parametrize("redirections", ["> /dev/full", "| true"])
def test_help_has_no_traceback_either(redirections):
    many = SAYS.replace("cli.note", "cli.Parser(epilog='这' * 100000).parse_args(['--help']); cli.note")
    done = shell(redirections, many, PYTHONIOENCODING="ascii")
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


def test_notes_do_not_go_into_the_output_where_stderr_is_closed():
    done = shell("2>&-")
    assert done.returncode == 0
    assert b"red" not in done.stdout and done.stdout.count(b"\n") == 3


def test_what_libraries_write_to_a_closed_stderr_does_not_end_up_in_files(tmp_path):
    file = tmp_path / "file"
    program = f"""
import os
from paddlemix.cli import common as cli
def main(arguments):
    with open({str(file)!r}, "wb"):
        os.write(2, b"log line")
    return 0
cli.run(main)
"""
    assert shell("2>&-", program).returncode == 0
    assert file.read_bytes() == b""


def test_an_error_without_a_message_is_named_by_its_type():
    assert console.error_line(RecursionError()) == "error: RecursionError"


def test_a_stream_of_strings_takes_json(monkeypatch):
    monkeypatch.setattr("sys.stdout", io.StringIO())
    console.output_json({"text": "这"})
    assert sys.stdout.getvalue() == '{"text": "这"}\n'
