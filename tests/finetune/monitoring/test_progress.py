"""Progress is one line on a terminal, and plain lines elsewhere."""

import io
import os

import pytest

from paddlemix.finetune.monitoring import progress
from paddlemix.finetune.monitoring.progress import Progress, ProgressLine, clock, describe, fit


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr(progress.shutil, "get_terminal_size", lambda: os.terminal_size((60, 20)))


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0:00"),
        (0.2, "0:01"),
        (59.5, "1:00"),
        (192, "3:12"),
        (3600, "1:00:00"),
        (90061, "1 d 1:01:01"),
        (-5, "0:00"),
    ],
)
def test_clock(seconds, shown):
    assert clock(seconds) == shown


def test_what_is_not_known_yet_is_not_shown_but_that_the_time_is_being_estimated():
    assert describe(Progress(0, 200)) == "  0/200"
    assert describe(Progress(5, 200)) == "  5/200  estimating the time left"


def test_everything_known_is_shown():
    line = describe(Progress(35, 200, 1.23456, 9.5e-5, 1234.4, 192), "answering")
    assert line == " 35/200  loss 1.2346  lr 9.50e-05  1,234 tokens/s  3:12 left  answering"


def test_the_bar_fills_up_and_goes_where_there_is_no_room():
    assert fit("text", 40, 0, 10).count("█") == 0
    assert fit("text", 40, 5, 10).count("█") == progress.BAR_WIDTH // 2
    assert fit("text", 40, 10, 10).count("░") == 0
    assert fit("a long text", 15, 5, 10) == "a long text"
    assert fit("a long text", 6, 5, 10) == "a long"
    assert fit("公共汽车", 5, 5, 10) == "公共"


def test_a_terminal_shows_one_line_no_wider_than_itself(narrow):
    stream = Terminal()
    line = ProgressLine(stream)
    line.draw("first and longer", 1, 10)
    line.draw("second", 2, 10)
    line.close()
    written = stream.getvalue()
    assert written.count("\n") == 1 and written.endswith("\n")
    assert max(map(len, written.rstrip("\n").split("\r"))) < 60
    last = written.rstrip("\n").split("\r")[-1]
    assert last.rstrip().endswith("second") and len(last) >= len(written.split("\r")[1])


def test_a_line_that_stays_takes_the_place_of_the_progress(narrow):
    stream = Terminal()
    line = ProgressLine(stream)
    line.draw("progress", 1, 10)
    line.print("step 1: eval_loss 2.0")
    line.close()
    assert stream.getvalue().split("\r")[-1] == "step 1: eval_loss 2.0\n"


def test_elsewhere_only_lines_that_stay_are_written():
    stream = io.StringIO()
    line = ProgressLine(stream)
    line.draw("progress", 1, 10)
    line.print("step 1")
    line.close()
    assert stream.getvalue() == "step 1\n"


def test_a_terminal_that_cannot_show_the_bar_gets_plain_lines():
    class Old(Terminal):
        encoding = "ascii"

    assert not ProgressLine(Old()).is_terminal
