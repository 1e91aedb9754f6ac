"""The thread around an engine, with an engine that counts."""

import threading

import pytest

from paddlemix.engine.request import EngineStats, FinishReason, Output, Request
from paddlemix.engine.thread import EngineThread
from paddlemix.errors import ConfigurationError, EngineError, PromptError


class CountingEngine:
    """Each request gets one token a step: as many as its prompt has ids."""

    def __init__(self):
        self.left = {}
        self.threads = set()
        self.go = threading.Event()
        self.go.set()

    def add(self, request):
        if not request.prompt_ids:
            raise PromptError("prompt: empty")
        if request.prompt_ids == (-1,):
            raise KeyError("a bug")
        self.left[request.id] = len(request.prompt_ids)

    def abort(self, request_id):
        if self.left.pop(request_id, None) is None:
            return None
        return Output(request_id, finish_reason=FinishReason.ABORT)

    def step(self):
        self.threads.add(threading.current_thread().name)
        assert self.go.wait(10)
        outputs = []
        for name in list(self.left):
            self.left[name] -= 1
            done = not self.left[name]
            outputs.append(Output(name, (1,), finish_reason=FinishReason.STOP if done else None))
            if done:
                del self.left[name]
        return outputs

    def has_work(self):
        return bool(self.left)

    def stats(self):
        return EngineStats(running=len(self.left))


class Reader:
    def __init__(self):
        self.calls, self.done = [], threading.Event()

    def __call__(self, outputs):
        self.calls.append(outputs)
        if any(output.finish_reason for output in outputs):
            self.done.set()


@pytest.fixture
def started():
    engine = CountingEngine()
    thread = EngineThread(lambda: engine, name="the engine")
    thread.start()
    assert thread.wait_until_ready(10) and thread.ready
    yield engine, thread
    engine.go.set()
    assert thread.stop(10)


def test_outputs_come_step_by_step_from_the_engine_s_own_thread(started):
    engine, thread = started
    reader = Reader()
    thread.submit(Request("a", (1, 2, 3)), reader)
    assert reader.done.wait(10)
    assert [len(call) for call in reader.calls] == [1, 1, 1]
    assert reader.calls[-1][0].finish_reason is FinishReason.STOP
    assert engine.threads == {"the engine"}
    assert thread.drain(10) and thread.pending == 0 and thread.heartbeat == 0


def test_requests_that_share_a_callback_share_its_calls(started):
    engine, thread = started
    reader = Reader()
    engine.go.clear()
    thread.submit(Request("first", (1,) * 3), reader)
    for name in "ab":
        thread.submit(Request(name, (1, 2)), reader)
    engine.go.set()
    assert thread.drain(10)
    assert max(len(call) for call in reader.calls) >= 2


def test_a_refused_request_ends_with_its_error_and_others_go_on(started):
    _, thread = started
    readers = [Reader() for _ in range(3)]
    for reader, name, ids in zip(readers, "abc", [(), (-1,), (1,)]):
        thread.submit(Request(name, ids), reader)
    assert all(reader.done.wait(10) for reader in readers)
    refused, broken, fine = (reader.calls[-1][-1] for reader in readers)
    assert isinstance(refused.error, PromptError)
    assert isinstance(broken.error, EngineError)
    assert fine.finish_reason is FinishReason.STOP


def test_a_callback_that_raises_ends_nothing(started):
    _, thread = started
    reader = Reader()
    thread.submit(Request("a", (1,)), lambda outputs: 1 / 0)
    thread.submit(Request("b", (1, 2)), reader)
    assert reader.done.wait(10)


def test_abort_ends_a_request_and_knows_no_others(started):
    engine, thread = started
    reader = Reader()
    engine.go.clear()
    thread.submit(Request("a", (1,) * 1000), reader)
    with pytest.raises(ConfigurationError, match="unique"):
        thread.submit(Request("a", (1,)), reader)
    thread.abort("a")
    thread.abort("never there")
    engine.go.set()
    assert reader.done.wait(10)
    assert reader.calls[-1][0].finish_reason is FinishReason.ABORT
    assert sum(len(call) for call in reader.calls) < 10


def test_draining_finishes_what_runs_and_takes_nothing_new(started):
    engine, thread = started
    reader = Reader()
    engine.go.clear()
    thread.submit(Request("a", (1, 2)), reader)
    assert not thread.drain(0.01)
    with pytest.raises(EngineError, match="stopped"):
        thread.submit(Request("b", (1,)), reader)
    assert not thread.ready and thread.alive
    engine.go.set()
    assert thread.drain(10) and reader.calls[-1][0].finish_reason is FinishReason.STOP


def test_stopping_aborts_what_runs():
    engine, reader = CountingEngine(), Reader()
    thread = EngineThread(lambda: engine)
    thread.start()
    engine.go.clear()
    thread.submit(Request("a", (1,) * 1000), reader)
    threading.Timer(0.05, engine.go.set).start()
    assert thread.stop(10) and not thread.alive
    assert reader.calls[-1][0].finish_reason is FinishReason.ABORT


def test_an_engine_that_breaks_leaves_nobody_waiting(started):
    engine, thread = started
    readers = [Reader() for _ in range(2)]
    engine.go.clear()
    engine.has_work = lambda: 1 / 0
    for index, reader in enumerate(readers):
        try:
            thread.submit(Request(str(index), (1,)), reader)
        except EngineError:
            continue
        assert reader.done.wait(10)
        assert isinstance(reader.calls[-1][0].error, EngineError)
    assert readers[0].calls and not thread.alive and not thread.ready


def test_the_real_engine_in_its_thread(tmp_path):
    """The model is made, warmed up and run there, without gradients; many threads ask at once."""
    import paddle

    from paddlemix.engine.request import SamplingParams
    from tests.engine.engines import engine_of, tokens
    from tests.random_model import random_model

    def load():
        return engine_of(*random_model(tmp_path))

    thread = EngineThread(load, context=paddle.no_grad)
    thread.start()
    assert thread.wait_until_ready(60)
    readers = [Reader() for _ in range(12)]

    def ask(index):
        params = SamplingParams(max_tokens=5, temperature=0.8, seed=index % 3)
        thread.submit(Request(str(index), (1, 2, 3 + index % 3), sampling=params), readers[index])

    askers = [threading.Thread(target=ask, args=(index,)) for index in range(12)]
    for asker in askers:
        asker.start()
    assert all(reader.done.wait(60) for reader in readers)
    answers = [tokens([output for call in reader.calls for output in call]) for reader in readers]
    assert all(answers[index] == answers[index % 3] and len(answers[index]) == 5 for index in range(12))
    assert thread.drain(60) and thread.stats().finished == {"length": 12} and thread.stats().blocks_owned == 0
    assert thread.stop(60)


def test_a_model_that_cannot_be_loaded_is_reported_to_whoever_waits():
    def load():
        raise PromptError("no model")

    thread = EngineThread(load)
    thread.start()
    with pytest.raises(PromptError, match="no model"):
        thread.wait_until_ready(10)
    assert not thread.alive
    assert thread.stop(10)
