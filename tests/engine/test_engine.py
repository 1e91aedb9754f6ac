"""Whatever happens around a request, its answer is the one that it gets alone."""

import time
from dataclasses import replace

import numpy as np
import paddle
import pytest

from paddlemix.engine.request import FinishReason, ImageInput, Request, SamplingParams
from paddlemix.errors import ConfigurationError, EngineError, ImageError, NumericalError, PromptError
from paddlemix.models.qwen_vl.kv_cache import ntk_alpha
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from tests.engine.engines import engine_of, finish, image_input, random_request, run, text, tokens
from tests.plain_generation import answer_tokens
from tests.random_model import SLOTS, random_model


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """NTK factors 1, 3 and 7 within the lengths that the tests use."""
    return random_model(tmp_path_factory.mktemp("small"), seq_length=48, max_position_embeddings=256)


def alone(model, processor, request):
    """What a plain loop over the model answers."""
    params = request.sampling
    pixels = [image.pixels for image in request.images]
    return answer_tokens(
        model, request.prompt_ids, paddle.to_tensor(np.stack(pixels)) if pixels else None,
        max_tokens=params.max_tokens, vocab_size=processor.tokenizer.vocab_size, stop_ids=params.stop_token_ids,
        temperature=params.temperature, top_k=params.top_k, top_p=params.top_p, seed=params.seed,
        repetition_penalty=params.repetition_penalty,
    )  # fmt: skip


def requests_of(count, processor, seed=0):
    generator = np.random.default_rng(seed)
    sampled = {"temperature": 0.9, "top_k": 40, "top_p": 0.9}
    requests = [
        random_request(
            f"r{i}", generator, processor, seed=i, repetition_penalty=1.1 if i % 5 == 0 else 1.0,
            prompt_lookup_num_tokens=5 if i % 4 == 0 else 0, **(sampled if i % 3 == 0 else {}),
        )
        for i in range(count)
    ]  # fmt: skip
    for i in range(1, count, 8):  # long answers, for which blocks run out
        requests[i] = replace(requests[i], sampling=replace(requests[i].sampling, max_tokens=90))
    for i in range(5, count, 6):  # another answer to the same prompt
        requests[i] = replace(requests[i], prompt_ids=requests[i - 1].prompt_ids, images=requests[i - 1].images)
    return requests


@paddle.no_grad()
def joined_at_random(engine, requests):
    """Outputs of requests that come at random times; others come, too, and leave before they are done."""
    generator = np.random.default_rng(0)
    waiting, outputs, passing = list(requests), {}, []
    left = {request.id for request in requests}
    while left:
        while waiting and generator.random() < 0.4:
            engine.add(waiting.pop(0))
        if generator.random() < 0.1:
            passing.append(f"passing {engine.stats().steps}")
            ids = tuple(generator.integers(0, 200, 100).tolist())
            engine.add(Request(passing[-1], ids, (image_input(3, 7),)))
        if passing and generator.random() < 0.2:
            engine.abort(passing.pop(int(generator.integers(len(passing)))))
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
            if output.finish_reason is not None:
                left.discard(output.request_id)
        engine.check()
    for name in passing:
        engine.abort(name)
    engine.check()
    return outputs


def test_requests_that_join_and_leave_at_random_are_what_they_are_alone(small):
    model, processor = small
    requests = requests_of(200, processor)
    assert {ntk_alpha(len(request.prompt_ids), model.config) for request in requests} >= {1.0, 3.0, 7.0}
    engine = engine_of(model, processor, blocks=8, block_size=32, chunk_size=60)
    outputs = joined_at_random(engine, requests)
    stats = engine.stats()
    assert stats.preemptions > 0 and stats.prefix_hits > 0 and stats.blocks_owned == 0
    assert [r.id for r in requests if tokens(outputs[r.id]) != alone(model, processor, r)] == []


def test_so_they_are_without_kernels_and_with_them(small, any_backend):
    model, processor = small
    requests = requests_of(8, processor, seed=2)
    outputs = joined_at_random(engine_of(model, processor, blocks=16, block_size=32), requests)
    assert [r.id for r in requests if tokens(outputs[r.id]) != alone(model, processor, r)] == []


def test_so_they_are_with_a_cache_in_bfloat16(tmp_path):
    sizes = {"seq_length": 48, "max_position_embeddings": 256, "kv_cache_dtype": "bfloat16"}
    model, processor = random_model(tmp_path, **sizes)
    requests = requests_of(12, processor, seed=3)
    outputs = joined_at_random(engine_of(model, processor, blocks=16, block_size=32), requests)
    assert [r.id for r in requests if tokens(outputs[r.id]) != alone(model, processor, r)] == []


@pytest.mark.parametrize(
    ("weights", "count"),
    [("int4", 40), *(pytest.param(weights, 200, marks=pytest.mark.slow) for weights in ("int8", "int4"))],
)
def test_so_they_are_with_quantized_weights(small, tmp_path, weights, count):
    floats, processor = small
    floats.save_pretrained(tmp_path)
    model = QWenLMHeadModel.from_pretrained(tmp_path, quantization=weights)
    requests = requests_of(count, processor, seed=1)
    outputs = joined_at_random(engine_of(model, processor, blocks=12, block_size=32), requests)
    assert [r.id for r in requests if tokens(outputs[r.id]) != alone(model, processor, r)] == []


def test_text_and_usage(small):
    model, processor = small
    request = random_request("a", np.random.default_rng(1), processor, max_tokens=20, stop_token_ids=())
    outputs = run(engine_of(model, processor), request)["a"]
    decoded = processor.tokenizer.decode(tokens(outputs), skip_special_tokens=True, errors="replace")
    assert text(outputs) == decoded and decoded
    assert outputs[-1].finish_reason is FinishReason.LENGTH
    assert [output.finish_reason for output in outputs[:-1]] == [None] * 19
    assert (outputs[-1].prompt_tokens, outputs[-1].completion_tokens) == (len(request.prompt_ids), 20)


def test_a_stop_string_ends_an_answer_and_is_not_in_its_text(small):
    model, processor = small
    whole = run(engine_of(model, processor), prompt_of("a", 40, max_tokens=20))["a"]
    stop = text(whole)[4:7]
    outputs = run(engine_of(model, processor), prompt_of("a", 40, max_tokens=20, stop_strings=(stop,)))["a"]
    assert outputs[-1].finish_reason is FinishReason.STOP and outputs[-1].stop_string == stop
    assert text(outputs) == text(whole)[: text(whole).index(stop)]


def test_log_probabilities_come_with_the_likeliest_alternatives(small):
    outputs = run(engine_of(*small), prompt_of("a", 40, max_tokens=5, logprobs=3))["a"]
    for output in outputs:
        (token,) = output.logprobs
        assert token.top[0] == (token.token_id, token.logprob) and len(token.top) == 3
        assert token.logprob < 0 and token.top[1][1] >= token.top[2][1]


def prompt_of(name, length, images=(), salt=b"", deadline=None, start=0, **sampling):
    ids = (np.arange(start, start + length) * 7 % 250).tolist()
    return Request(name, tuple(ids), images, SamplingParams(**sampling), salt=salt, deadline=deadline)


def test_a_second_turn_computes_only_what_is_new(small):
    model, processor = small
    engine = engine_of(model, processor, block_size=32)
    first = run(engine, prompt_of("a", 120, max_tokens=60))["a"]
    ids = (*prompt_of("a", 120).prompt_ids, *tokens(first), 5, 6, 7)
    request = Request("b", ids, sampling=SamplingParams(max_tokens=5))
    second = run(engine, request)["b"]
    # Of the 180 ids all but the last were computed.
    assert second[-1].cached_tokens == 179
    assert tokens(second) == alone(model, processor, request)
    assert engine.stats().prefix_hits == 179


def test_a_prompt_of_full_blocks_that_is_known_computes_its_last_block_again(small):
    engine = engine_of(*small, block_size=32)
    first, second = (run(engine, prompt_of(name, 128, max_tokens=3))[name] for name in "ab")
    assert second[-1].cached_tokens == 96 and tokens(first) == tokens(second)


def test_a_block_that_is_not_full_goes_to_one_that_begins_alike(small):
    model, processor = small
    engine = engine_of(model, processor, block_size=32)
    first = prompt_of("a", 40, max_tokens=3)
    run(engine, first)
    forked = [Request(name, (*first.prompt_ids[:36], *ids), sampling=SamplingParams(max_tokens=4)) for name, ids in
              (("b", (1, 2, 3)), ("c", (4, 5, 6)))]  # fmt: skip
    outputs = run(engine, *forked)
    # The second of them finds the full block alone: the other one is being written by the first.
    assert [outputs[request.id][-1].cached_tokens for request in forked] == [36, 32]
    for request in forked:
        assert tokens(outputs[request.id]) == alone(model, processor, request)


def test_images_in_a_block_that_is_not_full_are_compared(small):
    model, processor = small
    engine = engine_of(model, processor, block_size=32)
    ids = list(prompt_of("a", 50).prompt_ids)
    for start in (2, 40):
        ids[start - 1], ids[start + SLOTS] = processor.tokenizer.img_start_id, processor.tokenizer.img_end_id
    for name, other, cached in (("a", 0, 0), ("b", 1, 40), ("c", 1, 49)):
        images = (image_input(2, 0), image_input(40, other))
        request = Request(name, tuple(ids), images, SamplingParams(max_tokens=5))
        outputs = run(engine, request)[name]
        assert outputs[-1].cached_tokens == cached
        assert tokens(outputs) == alone(model, processor, request)


@pytest.mark.parametrize("other", ["image", "salt", "factor", "adapter"])
def test_a_prefix_is_never_shared_across(small, other):
    model, processor = small
    engine = engine_of(model, processor, block_size=32)
    first = prompt_of("a", 150, (image_input(2, 0),), max_tokens=3)
    run(engine, first)
    image = image_input(2, 1 if other == "image" else 0)
    length = 220 if other == "factor" else 150
    if other == "adapter":
        engine._runner.identity += b"another"
    second = prompt_of("b", length, (image,), salt=b"s" if other == "salt" else b"", max_tokens=3)
    assert run(engine, second)["b"][-1].cached_tokens == 0
    again = prompt_of("c", length, (image,), salt=second.salt, max_tokens=3)
    assert run(engine, again)["c"][-1].cached_tokens > 0


def test_an_image_is_encoded_once_and_kept_by_its_content(small):
    engine = engine_of(*small)
    images = (image_input(2, 0), image_input(2 + SLOTS, 1), image_input(2 + 2 * SLOTS, 0))
    run(engine, prompt_of("a", 40, images, max_tokens=2))
    assert (engine.stats().image_queries, engine.stats().image_hits) == (3, 1)
    run(engine, prompt_of("b", 41, images, start=9, max_tokens=2))
    assert engine.stats().image_hits == 4


@paddle.no_grad()
def test_features_that_are_there_are_taken(small):
    model, processor = small
    image = image_input(2, 0)
    features = model.visual(paddle.to_tensor(image.pixels[None])).numpy()[0]
    with_pixels = run(engine_of(model, processor), prompt_of("a", 40, (image,), max_tokens=5))["a"]
    given = ImageInput(2, b"features", features=features)
    assert tokens(run(engine_of(model, processor), prompt_of("a", 40, (given,), max_tokens=5))["a"]) == tokens(
        with_pixels
    )


@paddle.no_grad()
@pytest.mark.parametrize("stage", range(9))
def test_an_abort_at_any_stage_leaves_nothing_behind(small, stage):
    model, processor = small
    engine = engine_of(model, processor, chunk_size=16)
    engine.add(prompt_of("stays", 30, max_tokens=12))
    engine.step()
    engine.add(prompt_of("leaves", 60, (image_input(1, 1), image_input(8, 2)), max_tokens=4))
    for _ in range(stage):
        engine.step()
        engine.check()
    output = engine.abort("leaves")
    assert output.finish_reason is FinishReason.ABORT and engine.abort("leaves") is None
    engine.check()
    outputs = finish(engine)
    assert "leaves" not in outputs and outputs["stays"][-1].completion_tokens == 12
    assert engine.stats().blocks_owned == 0 and engine.stats().finished == {"abort": 1, "length": 1}


def test_a_running_answer_gets_a_token_in_every_step_while_another_prompt_is_computed(small):
    engine = engine_of(*small, chunk_size=16)
    with paddle.no_grad():
        engine.add(prompt_of("runs", 30, max_tokens=40))
        while not engine.stats().running:
            engine.step()
        engine.add(prompt_of("comes", 200, (image_input(1, 1),), max_tokens=2))
        while engine.stats().waiting:
            assert "runs" in {output.request_id for output in engine.step()}


def test_a_row_that_was_preempted_keeps_the_factor_of_its_prompt(small):
    model, processor = small
    requests = [prompt_of(name, 46, start=i, max_tokens=60) for i, name in enumerate("abcd")]
    engine = engine_of(model, processor, blocks=10, block_size=32)
    outputs = run(engine, *requests)
    assert engine.stats().preemptions > 0
    for request in requests:
        assert tokens(outputs[request.id]) == alone(model, processor, request)


def test_a_deadline_ends_a_request_that_waits_and_one_that_runs(small):
    engine = engine_of(*small, max_rows=1)
    now = time.monotonic()
    outputs = run(
        engine,
        prompt_of("late", 20, max_tokens=5, deadline=now - 1),
        prompt_of("fine", 20, max_tokens=5, deadline=now + 1000),
    )
    assert outputs["late"][-1].finish_reason is FinishReason.DEADLINE and not tokens(outputs["late"])
    assert outputs["fine"][-1].finish_reason is FinishReason.LENGTH
    with paddle.no_grad():
        engine.add(prompt_of("runs", 20, max_tokens=100, deadline=time.monotonic() + 0.2))
        engine.step()
        time.sleep(0.2)
        (output,) = engine.step()
    assert output.finish_reason is FinishReason.DEADLINE and engine.stats().blocks_owned == 0


def test_a_step_that_fails_ends_its_rows_and_the_engine_goes_on(small, monkeypatch):
    engine = engine_of(*small)
    forward = engine._runner.forward
    calls = iter(range(100))
    monkeypatch.setattr(engine._runner, "forward", lambda *given: 1 / 0 if next(calls) == 2 else forward(*given))
    outputs = run(engine, *(prompt_of(name, 10, start=ord(name), max_tokens=20) for name in "abc"))
    # The third pass was the second token of "a", or the first of "b": whichever, the others ended as they would.
    failed = [name for name, its in outputs.items() if isinstance(its[-1].error, EngineError)]
    assert len(failed) == 1 and engine.stats().finished == {"error": 1, "length": 2}
    engine.check()
    assert tokens(run(engine, prompt_of("next", 10, max_tokens=4))["next"])
    assert engine.stats().failures == 0 and engine.stats().blocks_owned == 0


def test_a_row_whose_logits_are_no_numbers_ends_alone(small, monkeypatch):
    engine = engine_of(*small)
    forward = engine._runner.forward

    def damaged(rows, cache):
        logits = forward(rows, cache)
        return [np.full_like(part, np.nan) if row.start == 25 else part for row, part in zip(rows, logits)]

    monkeypatch.setattr(engine._runner, "forward", damaged)
    outputs = run(engine, prompt_of("bad", 20, max_tokens=20), prompt_of("good", 60, max_tokens=20))
    assert isinstance(outputs["bad"][-1].error, NumericalError) and len(tokens(outputs["bad"])) == 6
    assert outputs["good"][-1].finish_reason is FinishReason.LENGTH
    assert engine.stats().failures == 0


def test_pixels_of_another_shape_end_their_request_alone(small):
    image = ImageInput(1, b"odd", np.zeros([3, 27, 28], np.float32))
    outputs = run(engine_of(*small), prompt_of("bad", 20, (image,)), prompt_of("good", 20, max_tokens=2))
    assert isinstance(outputs["bad"][-1].error, ImageError)
    assert outputs["good"][-1].finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"prompt_ids": ()}, PromptError, "no ids"),
        ({"prompt_ids": (1, -1)}, PromptError, "expected ids from 0"),
        ({"prompt_ids": (10**6,)}, PromptError, "expected ids from 0"),
        ({"prompt_ids": (1,) * 256}, PromptError, "256 tokens leave no room in the model's window of 256"),
        ({"images": (image_input(7, 0),)}, PromptError, "stands at 7 to 10"),
        ({"images": (ImageInput(0, b""),)}, PromptError, "neither pixels nor features"),
        ({"sampling": SamplingParams(temperature=-1)}, ConfigurationError, "temperature"),
        ({"sampling": SamplingParams(temperature=float("nan"))}, ConfigurationError, "temperature"),
        ({"sampling": SamplingParams(max_tokens=0)}, ConfigurationError, "max_tokens"),
        ({"sampling": SamplingParams(logit_bias={10**6: 1.0})}, ConfigurationError, "logit_bias"),
        ({"sampling": SamplingParams(prompt_lookup_num_tokens=8)}, ConfigurationError, "prompt_lookup"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_computed(small, changes, error, message):
    engine = engine_of(*small)
    with pytest.raises(error, match=message):
        engine.add(Request(**{"id": "a", "prompt_ids": (1,) * 10, **changes}))
    assert not engine.has_work()


def test_a_prompt_that_can_never_fit_is_refused_and_an_answer_is_cut_to_what_does(small):
    engine = engine_of(*small, blocks=1)
    with pytest.raises(PromptError, match="the cache of 64"):
        engine.add(prompt_of("a", 64))
    assert run(engine, prompt_of("b", 60))["b"][-1].completion_tokens == 4


def test_an_id_in_use_is_refused(small):
    engine = engine_of(*small)
    engine.add(prompt_of("a", 5))
    with pytest.raises(ConfigurationError, match="unique"):
        engine.add(prompt_of("a", 5))
    engine.abort("a")
