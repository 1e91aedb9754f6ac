"""One session, and one Appflow, in many threads."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable

import paddle
import pytest

from paddlemix.appflow import Appflow
from paddlemix.chat.session import ChatSession
from paddlemix.chat.single_turn import SingleTurnSession
from paddlemix.errors import NumericalError
from paddlemix.inference import load_model
from paddlemix.models.qwen_vl.runner import QWenVLRunner
from tests.tiny_model import ANSWER

THREADS = 8
PATIENCE = 120  # seconds, after which threads that wait for each other are taken to wait for ever


@pytest.fixture(scope="module")
def loaded(tiny_model_dir):
    return load_model(tiny_model_dir)


@pytest.fixture
def session(loaded):
    return ChatSession(loaded.model, loaded.processor)


def in_threads(*works: Callable[[], object]) -> list[object]:
    """What each piece of work gives in a thread of its own, or raises."""
    results: list[object] = [None] * len(works)

    def run(index: int) -> None:
        try:
            results[index] = works[index]()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads), "threads wait for each other"
    return results


def test_questions_of_many_threads_are_turns_one_after_the_other(session):
    replies = in_threads(*[lambda n=n: [session.ask(f"{n} {i}?").text for i in range(3)] for n in range(THREADS)])
    assert replies == [[ANSWER] * 3] * THREADS
    roles = [message["role"] for message in session.messages]
    assert roles == ["system"] + ["user", "assistant"] * 3 * THREADS
    assert len({message["content"][0]["text"] for message in session.messages[1::2]}) == 3 * THREADS


def test_streams_of_many_threads_are_complete(session):
    texts = in_threads(*[lambda n=n: "".join(session.stream(f"{n}?")) for n in range(THREADS)])
    assert texts == [ANSWER] * THREADS
    assert len(session.messages) == 1 + 2 * THREADS


def test_a_half_read_stream_keeps_nobody_waiting_and_can_be_read_on(session):
    stream = session.stream("one?")
    first = next(stream)
    (reply,) = in_threads(lambda: session.ask("two?"))
    assert reply.text == ANSWER
    assert first + "".join(stream) == ANSWER == stream.reply.text
    assert [message["content"][0]["text"] for message in session.messages[1::2]] == ["one?", "two?"]


def test_a_half_read_stream_that_was_dropped_leaves_no_turn(session):
    stream = session.stream("one?")
    next(stream)
    del stream
    gc.collect()
    assert in_threads(lambda: session.ask("two?").text) == [ANSWER]
    assert len(session.messages) == 3


def test_a_closed_stream_stays_closed(session):
    stream = session.stream("one?")
    next(stream)
    in_threads(stream.close)
    assert list(stream) == [] and len(session.messages) == 1
    assert session.ask("two?").text == ANSWER


def test_resets_do_not_break_questions_of_other_threads(session):
    def work() -> list[str]:
        texts = []
        for _ in range(5):
            session.reset()
            texts.append(session.ask("what?").text)
        return texts

    assert in_threads(*[work] * THREADS) == [[ANSWER] * 5] * THREADS


def test_an_error_of_an_answer_goes_to_its_reader_alone(session, loaded, monkeypatch):
    stream = session.stream("one?")
    first = next(stream)
    forward = QWenVLRunner.forward
    asked = []

    def fails_once(runner, rows, cache):
        asked.append(rows)
        return [logits * (float("nan") if len(asked) == 1 else 1.0) for logits in forward(runner, rows, cache)]

    monkeypatch.setattr(QWenVLRunner, "forward", fails_once)
    (reply,) = in_threads(lambda: session.ask("two?"))
    assert reply.text == ANSWER
    with pytest.raises(NumericalError):
        list(stream)
    assert first and len(session.messages) == 3


def test_questions_to_a_base_model_are_answered_in_any_thread(tiny_base_model_dir):
    base = load_model(tiny_base_model_dir)
    session = SingleTurnSession(base.model, base.processor)
    works = [lambda: session.ask("what?").text, lambda: "".join(session.stream("what?"))]
    assert in_threads(*works * 4) == [ANSWER] * THREADS


def test_one_appflow_in_many_threads(tiny_model_dir):
    task = Appflow(app="image2text_generation", models=[str(tiny_model_dir)])
    works = [
        lambda: task(prompt="what?")["result"],
        lambda: "".join(task(prompt="what?", stream=True)),
        lambda: task(prompt=["what?", "where?"])["result"][1],
        lambda: task.reset() or task(prompt="what?")["result"],
    ]
    assert in_threads(*works * 4) == [ANSWER] * 16


def test_no_thread_keeps_gradients(session):
    def answer() -> bool:
        assert paddle.is_grad_enabled()  # of this thread, as Paddle starts it
        session.ask("what?")
        return all(key.stop_gradient for key in session._engine.engine._cache.memory.keys)

    assert in_threads(answer) == [True]
