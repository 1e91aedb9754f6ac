"""Streams of text: pieces first, the result afterwards, and what threads and errors do to them."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from paddlemix.chat.stream import TextStream
from paddlemix.errors import ConfigurationError, NumericalError


def pieces(*texts: str, error: Exception | None = None) -> Generator[str, None, str]:
    yield from texts
    if error is not None:
        raise error
    return "".join(texts)


def test_the_result_comes_with_the_end() -> None:
    stream = TextStream(pieces("a", "b"))
    assert next(stream) == "a" and stream.result is None
    assert list(stream) == ["b"]
    assert stream.result == stream.reply == stream.wait() == "ab"
    assert list(stream) == []


def test_waiting_reads_the_rest() -> None:
    stream = TextStream(pieces("a", "b"))
    next(stream)
    assert stream.wait() == "ab"


def test_a_closed_stream_has_no_result() -> None:
    stream = TextStream(pieces("a", "b"))
    next(stream)
    stream.close()
    assert list(stream) == [] and stream.result is None
    with pytest.raises(ConfigurationError, match="closed before the answer was complete"):
        stream.wait()


def completed_by_another_thread(stream: TextStream[str]) -> None:
    thread = threading.Thread(target=stream.complete)
    thread.start()
    thread.join()


def test_another_thread_completes_it_and_its_reader_finds_the_rest() -> None:
    stream = TextStream(pieces("a", "b", "c"))
    next(stream)
    stream.complete()  # its own thread turned to something else: nothing is generated
    assert stream.result is None
    completed_by_another_thread(stream)
    assert stream.result == "abc"
    assert list(stream) == ["b", "c"]


def test_an_error_is_its_readers() -> None:
    stream = TextStream(pieces("a", error=NumericalError("not a number")))
    completed_by_another_thread(stream)
    assert next(stream) == "a"
    with pytest.raises(NumericalError, match="not a number"):
        next(stream)
    assert list(stream) == []
