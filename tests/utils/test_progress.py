from __future__ import annotations

import io
import sys

import pytest

from paddlemix.utils.progress import Counter, ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("last", [2000, 2064])  # headers may come on top
def test_a_bar_ends_at_all_of_it(monkeypatch: pytest.MonkeyPatch, last: int) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with ProgressBar("converting", delay=0) as advance:
        for done in (-64, 0, 1000, last):
            advance(done, 2000)
    shown = sys.stderr.getvalue()
    assert shown.split("\r")[-1].startswith("converting: 100%|")
    assert "2.00k/2.00k" in shown


def test_nothing_is_shown_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with ProgressBar("converting", delay=0) as advance:
        advance(5, 10)
    assert sys.stderr.getvalue() == ""


def test_no_bar_without_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with ProgressBar("verifying", delay=0):
        pass
    assert sys.stderr.getvalue() == ""


def test_pieces_add_up_to_all_and_no_more() -> None:
    told: list[tuple[int, int]] = []
    counter = Counter(10, lambda *now: told.append(now))
    for count in (4, 4, 4):
        counter.add(count)
    counter.finish()
    assert told == [(4, 10), (8, 10), (10, 10), (10, 10)]
