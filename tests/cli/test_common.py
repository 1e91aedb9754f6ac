"""What the programs share: booleans, options, one-line errors."""

from __future__ import annotations

import argparse
import errno
import io
import os

import pytest

from paddlemix.cli import common as cli
from paddlemix.errors import ImageError
from paddlemix.options import GENERATION


@pytest.mark.parametrize(("text", "value"), [("True", True), ("false", False), ("1", True), ("no", False)])
def test_booleans_have_their_usual_spellings(text, value):
    assert cli.boolean(text) is value


def test_another_word_is_no_boolean():
    with pytest.raises(argparse.ArgumentTypeError, match="got 'maybe', expected True or False"):
        cli.boolean("maybe")


def test_generation_options_are_those_that_were_given():
    parser = cli.Parser()
    cli.add_options(parser, GENERATION)
    arguments = "--do_sample --top_p 0.5 --stop_strings a --stop_strings b".split()
    options = cli.generation_options(parser.parse_args(arguments))
    assert options == {"do_sample": True, "top_p": 0.5, "stop_strings": ["a", "b"], "seed": 1234}
    assert cli.generation_options(parser.parse_args(["--do_sample", "False", "--seed", "-1"])) == {"do_sample": False}
    assert cli.generation_options(parser.parse_args([])) == {"seed": 1234}


@pytest.mark.parametrize(
    ("raised", "status", "stderr"),
    [
        (ImageError("two\nlines"), 1, "error: two lines\n"),
        (
            ModuleNotFoundError("No module named 'PIL'", name="PIL"),
            1,
            "error: the package 'PIL' is not installed; what paddlemix needs: "
            "pip install -e '.[cpu]' in the checkout of paddlemix\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_a_deliberate_error_is_one_line_and_a_status(capsys, monkeypatch, raised, status, stderr):
    monkeypatch.setattr("sys.stdout", io.StringIO())

    def main(arguments):
        raise raised

    with pytest.raises(SystemExit) as exit_:
        cli.run(main)
    assert exit_.value.code == status
    assert capsys.readouterr().err == stderr


def test_an_output_that_cannot_be_written_is_one_line_and_a_status(capsys, monkeypatch):
    def refuse():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    stdout = io.StringIO()
    stdout.flush = refuse
    monkeypatch.setattr("sys.stdout", stdout)
    with pytest.raises(SystemExit) as exit_:
        cli.run(lambda arguments: print("text"))
    assert exit_.value.code == 1
    assert capsys.readouterr().err == "error: stdout: the output cannot be written: No space left on device\n"


def test_an_error_line_is_of_readable_length_and_shows_controls_escaped(capsys):
    def main(arguments):
        raise ImageError(f"\x1b]0;title\x07{'a' * 10_000_000} the end")

    with pytest.raises(SystemExit):
        cli.run(main)
    line = capsys.readouterr().err
    assert line.startswith("error: \\x1b]0;title\\x07aaa") and line.endswith("aaa the end\n")
    assert len(line) < 900


def test_a_bug_is_not_disguised():
    def main(arguments):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.run(main)


def test_the_bundled_model_is_introduced_and_others_are_not(capsys):
    cli.model_note(None)
    assert "drawn scenes" in capsys.readouterr().err
    cli.model_note("somewhere/else")
    assert capsys.readouterr().err == ""


def test_wrong_options_give_one_line(capsys):
    parser = cli.Parser()
    with pytest.raises(SystemExit) as exit_:
        parser.parse_args(["--nonsense"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "error: unrecognized arguments: --nonsense (--help lists the options)\n"
