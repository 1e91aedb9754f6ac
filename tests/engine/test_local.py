"""Engines in the process of their callers."""

import threading

import paddle
import pytest

from paddlemix.engine.local import LocalEngine, answer_requests
from paddlemix.engine.request import Request, SamplingParams
from paddlemix.errors import NumericalError, PromptError
from tests.engine.engines import engine_of, run, tokens
from tests.random_model import random_model


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("small"), max_position_embeddings=256)


def request_of(name, first=1, max_tokens=6, **fields):
    return Request(name, tuple(range(first, first + 20)), sampling=SamplingParams(max_tokens=max_tokens), **fields)


def local_of(small):
    return LocalEngine(engine_of(*small, chunk_size=64), paddle.no_grad)


def rest_of(local, name):
    outputs = []
    while not outputs or outputs[-1].finish_reason is None:
        outputs.append(local.next(name))
    return outputs


def alone(small, request):
    return tokens(run(engine_of(*small), request)[request.id])


def test_streams_that_take_turns_are_what_they_are_alone(small):
    local = local_of(small)
    requests = [request_of("a"), request_of("b", first=5, max_tokens=9)]
    for request in requests:
        local.add(request)
    firsts = [local.next("b"), local.next("a")]
    others = [rest_of(local, "b"), rest_of(local, "a")]
    for request, first, other in zip(requests[::-1], firsts, others):
        assert tokens([first, *other]) == alone(small, request)


def test_one_that_is_abandoned_ends_before_anything_else_is_computed(small):
    local = local_of(small)
    local.add(request_of("a", max_tokens=200))
    local.next("a")
    thread = threading.Thread(target=local.abandon, args=("a",))  # as a finalizer may
    thread.start()
    thread.join()
    assert local.engine.stats().running == 1
    local.add(request_of("b"))
    assert local.engine.stats().running == 0
    assert tokens(rest_of(local, "b")) == alone(small, request_of("b"))
    local.abandon("b")  # it has ended: nothing to do
    local.add(request_of("c"))
    local.engine.check()


def test_ids_are_new(small):
    local = local_of(small)
    assert len({local.new_id() for _ in range(5)}) == 5


def test_what_ended_a_request_is_raised_as_it_was(small):
    local = local_of(small)
    local.add(request_of("a", logits_hook=lambda ids, logits: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        local.next("a")
    local.add(request_of("b", logits_hook=lambda ids, logits: logits * float("nan")))
    with pytest.raises(NumericalError):
        local.next("b")
    with pytest.raises(PromptError, match="no ids"):
        local.add(Request("c", ()))
    local.add(request_of("d"))
    assert tokens(rest_of(local, "d")) == alone(small, request_of("d"))
    local.engine.check()


def test_requests_are_asked_for_as_there_is_room(small):
    engine = engine_of(*small, chunk_size=64)
    given, open_at_once = [], []

    def requests():
        for index in range(7):
            given.append(index)
            yield request_of(str(index), first=index + 1, max_tokens=2 + index % 3)

    answered = []
    for name, answer in answer_requests(engine, requests(), 3, paddle.no_grad):
        answered.append(name)
        open_at_once.append(len(given) - len(answered) + 1)
        assert answer.finish_reason == "length" and len(answer.tokens) == 2 + int(name) % 3
        assert answer.tokens == alone(small, request_of(name, int(name) + 1, 2 + int(name) % 3))
    assert sorted(answered) == list("0123456") and max(open_at_once) == 3
    assert list(answer_requests(engine, [], 3)) == []


def test_the_first_error_ends_all(small):
    requests = [request_of("a", max_tokens=100), request_of("b", logits_hook=lambda ids, logits: 1 / 0)]
    with pytest.raises(ZeroDivisionError):
        list(answer_requests(engine_of(*small), requests, 2, paddle.no_grad))
