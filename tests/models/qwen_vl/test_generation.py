import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paddlenlp.generation import GenerationConfig, LogitsProcessor, TextIteratorStreamer
from PIL import Image

from paddlemix.engine.local import LocalEngine
from paddlemix.engine.options import GenerationOptions
from paddlemix.errors import ConfigurationError, NumericalError, PromptError
from paddlemix.models.qwen_vl.generation import AnswerStream, generate_rows
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from paddlemix.models.qwen_vl.runner import LOCAL_BLOCK, QWenVLRunner, local_engine
from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer
from tests.golden_model import FOLDER, LANGUAGE_CASES, golden_arrays, golden_model, new_golden_model, prompt
from tests.plain_generation import greedy_tokens
from tests.random_model import random_model
from tests.tiny_model import ANSWER

pytestmark = pytest.mark.usefixtures("any_backend")

GREEDY = GenerationConfig(eos_token_id=290, pad_token_id=290)


def generate(case, **options):
    """New ids and scores as arrays; greedy unless asked otherwise."""
    ids, scores = golden_model().generate(**prompt(case), generation_config=GREEDY, **{"max_new_tokens": 40, **options})
    return ids.numpy(), scores.numpy()


def golden_tokens(case):
    return golden_arrays("language")[f"{case}.greedy_tokens"]


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("random"))


@pytest.fixture
def fed(monkeypatch):
    """Shapes of what the decoder is fed: one ``(rows, positions)`` per pass."""
    calls = []
    forward = QWenVLRunner.forward

    def counted(runner, rows, cache):
        calls.append((len(rows), max(len(row.ids) for row in rows)))
        return forward(runner, rows, cache)

    monkeypatch.setattr(QWenVLRunner, "forward", counted)
    return calls


def rows_of(case):
    """The rows of a batch, without padding."""
    inputs = prompt(case)
    ids, mask = inputs["input_ids"].numpy(), inputs["attention_mask"].numpy().astype(bool)
    return [row[kept].tolist() for row, kept in zip(ids, mask)]


# ---------------------------------------------------------------- greedy


@pytest.mark.parametrize("case", [case for case in LANGUAGE_CASES if not case.startswith("batch")])
def test_greedy_equals_the_original_token_for_token(case):
    np.testing.assert_array_equal(generate(case)[0], golden_tokens(case))


@pytest.mark.parametrize("case", [case for case in LANGUAGE_CASES if case.startswith("batch")])
def test_so_do_padded_batches_of_the_model_itself(case):
    """There padding counts for positions, as in the original."""
    np.testing.assert_array_equal(greedy_tokens(golden_model(), 40, **prompt(case)), golden_tokens(case))


@pytest.mark.parametrize("case", ["one_image", "two_images"])
def test_images_may_be_named_in_the_ids(case, monkeypatch):
    monkeypatch.chdir(FOLDER / "images")
    ids, _ = golden_model().generate(prompt(case)["input_ids"], GREEDY, max_new_tokens=5)
    np.testing.assert_array_equal(ids.numpy(), golden_tokens(case)[:, :5])


@pytest.mark.parametrize(
    ("case", "chunk"),
    [
        ("text_short", 1),
        ("text_short", 36),
        ("text_short", 1000),
        ("one_image", 37),
        ("long_a3", 64),
        ("two_images", 50),
    ],
)
def test_a_prompt_fed_in_parts_gives_the_same(case, chunk, fed):
    ids, _ = generate(case, prefill_chunk_size=chunk, max_new_tokens=8)
    np.testing.assert_array_equal(ids, golden_tokens(case)[:, :8])
    assert max(length for _, length in fed) <= chunk


def test_the_prompt_is_fed_once_and_then_one_token_at_a_time(fed):
    generate("text_short", max_new_tokens=5)
    assert fed == [(1, 37), (1, 1), (1, 1), (1, 1), (1, 1)]


def test_the_score_is_the_mean_log_probability():
    ids, scores = generate("text_short", max_new_tokens=6)
    with paddle.no_grad():
        whole = paddle.concat([prompt("text_short")["input_ids"], paddle.to_tensor(ids[:, :-1])], axis=1)
        log_probs = paddle.nn.functional.log_softmax(golden_model()(whole).logits[0, -6:], axis=-1).numpy()
    assert scores[0] == pytest.approx(log_probs[np.arange(6), ids[0]].mean(), abs=1e-4)


def test_a_cache_from_outside_is_refused_with_what_to_do():
    with pytest.raises(ConfigurationError, match="past_key_values: .*ChatSession.*model"):
        generate("text_short", past_key_values=golden_model().new_cache(1, 37))


# ---------------------------------------------------------------- stopping


def test_hitting_the_limit_loses_no_token():
    for limit in (1, 2, 7):
        np.testing.assert_array_equal(
            generate("text_short", max_new_tokens=limit)[0], golden_tokens("text_short")[:, :limit]
        )


def test_a_stop_id_ends_the_answer_and_is_part_of_it():
    expected = golden_tokens("text_short")[0]
    stop = int(expected[4])
    end = int(np.flatnonzero(expected == stop)[0])
    np.testing.assert_array_equal(generate("text_short", eos_token_id=[stop, 511])[0][0], expected[: end + 1])
    assert generate("text_short", eos_token_id=-1)[0].shape == (1, 40)


def test_a_stop_sequence_ends_the_answer_where_it_is_complete():
    expected = golden_tokens("text_short")[0]
    ids, _ = generate("text_short", stop_token_sequences=[expected[5:8].tolist(), [1, 2, 3]])
    np.testing.assert_array_equal(ids[0], expected[:8])


def test_rows_that_end_early_are_padded_and_change_nothing_for_others():
    expected = golden_tokens("batch_text")
    stops = [int(row[k]) for row, k in zip(expected[:2], (2, 9))]
    ids, scores = generate("batch_text", eos_token_id=stops, pad_token_id=0)
    for row, full in zip(ids, expected):
        hits = np.flatnonzero(np.isin(full, stops))
        end = int(hits[0]) + 1 if len(hits) else 40
        np.testing.assert_array_equal(row[:end], full[:end])
        assert not row[end:].any()
    assert np.isfinite(scores).all()


def test_finished_rows_leave_the_batch(fed):
    expected = golden_tokens("batch_text")
    first = [int(row[0]) for row in expected[:2]]
    if int(expected[2][0]) in first:
        pytest.fail("the golden rows begin alike; choose other stops")
    generate("batch_text", eos_token_id=first, max_new_tokens=3)
    assert fed == [*((1, len(row)) for row in rows_of("batch_text")), (1, 1), (1, 1)]


def test_scores_of_finished_rows_count_their_own_tokens():
    stop = int(golden_tokens("batch_text")[0][1])
    _, alone = generate("batch_text", max_new_tokens=2)
    ids, scores = generate("batch_text", eos_token_id=stop, pad_token_id=0)
    assert ids[0, 2:].sum() == 0
    assert scores[0] == pytest.approx(alone[0], abs=1e-5)


def test_a_stop_id_beyond_the_vocabulary_is_never_reached():
    ids, _ = generate("text_short", eos_token_id=10**6, min_new_tokens=2, max_new_tokens=3)
    assert ids.shape == (1, 3)


def test_min_new_tokens_holds_the_stop_id_back():
    stop = int(golden_tokens("text_short")[0][0])
    ids, _ = generate("text_short", eos_token_id=stop, min_new_tokens=5)
    assert len(ids[0]) >= 6 and stop not in ids[0][:5]


def test_a_stop_string_ends_the_answer(chat_model):
    model, processor = chat_model
    tokenizer = processor.tokenizer
    inputs = processor("hello", return_tensors="np", chat_format="raw")
    free, _ = model.generate(inputs["input_ids"], max_new_tokens=30, tokenizer=tokenizer, eos_token_id=-1)
    text = tokenizer.decode(free[0].tolist(), skip_special_tokens=True)
    stop = text[5:7]
    ids, _ = model.generate(
        inputs["input_ids"], max_new_tokens=30, tokenizer=tokenizer, stop_strings=[stop], eos_token_id=-1
    )
    shortened = tokenizer.decode(ids[0].tolist(), skip_special_tokens=True)
    assert stop in shortened
    assert stop not in tokenizer.decode(ids[0].tolist()[:-1], skip_special_tokens=True)


def test_stop_strings_need_the_tokenizer():
    with pytest.raises(ConfigurationError, match="tokenizer="):
        generate("text_short", stop_strings=["x"])


def test_ids_without_a_token_are_not_chosen(chat_model):
    model, processor = chat_model
    vocabulary = processor.tokenizer.vocab_size
    assert model.config.vocab_size > vocabulary
    ids, _ = model.generate(
        [[1, 2, 3]],
        tokenizer=processor.tokenizer,
        do_sample=True,
        temperature=100.0,
        seed=0,
        max_new_tokens=300,
        eos_token_id=-1,
    )
    assert int(ids.max()) < vocabulary


def test_the_window_bounds_the_answer(fed):
    model = golden_model()
    window = model.config.max_position_embeddings
    try:
        model.config.max_position_embeddings = 40
        assert generate("text_short", max_new_tokens=40)[0].shape == (1, 3)
        model.config.max_position_embeddings = 37
        fed.clear()
        with pytest.raises(PromptError, match="37 tokens leave no room in the model's window of 37"):
            generate("text_short")
        assert not fed
    finally:
        model.config.max_position_embeddings = window


# ---------------------------------------------------------------- sampling


def sampled(case, **options):
    return generate(case, do_sample=True, **{"temperature": 1.5, "max_new_tokens": 12, **options})[0]


def test_a_seed_repeats_an_answer_whatever_the_global_state():
    paddle.seed(1)
    np.random.seed(1)
    first = sampled("text_short", seed=4)
    paddle.seed(2)
    np.random.seed(2)
    np.testing.assert_array_equal(sampled("text_short", seed=4), first)
    assert (sampled("text_short", seed=5) != first).any()
    assert (sampled("text_short") != sampled("text_short")).any()


def test_generating_leaves_the_global_state_alone():
    paddle.seed(3)
    expected = paddle.rand([2]).numpy()
    paddle.seed(3)
    sampled("text_short", seed=4)
    np.testing.assert_array_equal(paddle.rand([2]).numpy(), expected)


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 0.0}, {"temperature": 1e-4}])
def test_sampling_narrowed_to_one_token_is_greedy(options):
    ids = sampled("text_short", **options)
    np.testing.assert_array_equal(ids, golden_tokens("text_short")[:, :12])


def test_several_answers_share_image_and_prompt(fed, monkeypatch):
    encoded = []
    visual = golden_model().visual
    begin = visual.begin
    monkeypatch.setattr(visual, "begin", lambda images: encoded.append(images.shape[0]) or begin(images))
    ids = sampled("one_image", num_return_sequences=3, seed=1)
    assert ids.shape == (3, 12) and len({tuple(row) for row in ids.tolist()}) == 3
    # All but the last block of the prompt, which is not full, is there for the others.
    assert encoded == [1] and fed[:4] == [(1, 286), (1, 286 % LOCAL_BLOCK), (1, 286 % LOCAL_BLOCK), (3, 1)]
    np.testing.assert_array_equal(sampled("one_image", seed=1)[0], ids[0])


def test_answers_to_one_prompt_stand_together():
    ids = sampled("batch_text", num_return_sequences=2, temperature=1e-4)
    np.testing.assert_array_equal(ids, golden_tokens("batch_text")[:, :12].repeat(2, axis=0))


def test_repetition_penalty_counts_prompt_and_answer_but_not_padding():
    expected = golden_tokens("batch_text")
    ids, _ = generate("batch_text", repetition_penalty=50.0, max_new_tokens=20)
    for row, prompt_row in zip(ids, rows_of("batch_text")):
        assert len(set(row.tolist())) == 20
        assert not set(row.tolist()) & set(prompt_row)
    seen = []

    class Spy(LogitsProcessor):
        def __call__(self, input_ids, logits):
            seen.append(input_ids.numpy().tolist())
            return logits

    np.testing.assert_array_equal(
        generate("batch_text", logits_processor=[Spy()], max_new_tokens=2)[0], expected[:, :2]
    )
    prompts = rows_of("batch_text")
    assert seen[:3] == [[row] for row in prompts]
    assert seen[3:] == [[[*row, first]] for row, first in zip(prompts, expected[:, 0].tolist())]


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize("case", ["batch_mixed", "batch_text"])
def test_a_padded_batch_is_its_rows_alone(case):
    inputs = prompt(case)
    placed = [(np.array(row) == golden_model().config.visual.image_start_id).sum() for row in rows_of(case)]
    ends = np.cumsum(placed)
    batch, scores = generate(case, max_new_tokens=8)
    for index, row in enumerate(rows_of(case)):
        images = inputs["images"][ends[index] - placed[index] : ends[index]] if placed[index] else None
        ids, score = golden_model().generate([row], GREEDY, images=images, max_new_tokens=8)
        np.testing.assert_array_equal(batch[index], ids.numpy()[0])
        assert scores[index] == pytest.approx(float(score), abs=1e-5)


@settings(max_examples=8)
@given(
    st.lists(st.lists(st.integers(0, 289), min_size=1, max_size=20), min_size=1, max_size=4),
    st.sampled_from([0, 1, 5]),
    st.booleans(),
)
def test_a_batch_equals_its_rows_alone(rows, chunk, do_sample):
    """Short texts; with sampling, row i of a batch draws what the first row would at that place."""
    width = max(map(len, rows))
    ids = np.array([[290] * (width - len(row)) + row for row in rows])
    mask = np.array([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    options = {"max_new_tokens": 5, "prefill_chunk_size": chunk}
    if do_sample:
        options.update(do_sample=True, seed=1, top_k=20)
        rows = rows[:1]
    batch, _ = golden_model().generate(ids, GREEDY, attention_mask=mask, **options)
    for row, answer in zip(rows, batch.numpy()):
        alone, _ = golden_model().generate([row], GREEDY, **options)
        np.testing.assert_array_equal(answer[: alone.shape[1]], alone.numpy()[0])


@settings(max_examples=6)
@given(st.lists(st.integers(0, 289), min_size=1, max_size=30), st.integers(1, 8))
def test_cached_equals_uncached(row, steps):
    ids, _ = golden_model().generate([row], GREEDY, max_new_tokens=steps, eos_token_id=-1)
    for new in ids.numpy()[0]:
        with paddle.no_grad():
            assert int(golden_model()(paddle.to_tensor([row]), logits_to_keep=1).logits[0, -1].argmax()) == new
        row = [*row, int(new)]


# ---------------------------------------------------------------- the rest of the interface


class Recorder:
    def __init__(self, **attributes):
        self.put_values, self.ended = [], 0
        vars(self).update(attributes)

    def put(self, value):
        assert not self.ended
        self.put_values.append(value.tolist())

    def end(self):
        self.ended += 1


def test_a_streamer_gets_every_new_token_and_the_end():
    streamer = Recorder()
    ids, _ = generate("batch_text", streamer=streamer, max_new_tokens=4)
    assert streamer.put_values == [[[token] for token in step] for step in ids.T.tolist()]
    assert streamer.ended == 1


def test_a_streamer_that_skips_the_prompt_gets_one_to_skip():
    streamer = Recorder(skip_prompt=True)
    ids, _ = generate("text_short", streamer=streamer, max_new_tokens=2)
    assert streamer.put_values[0] == prompt("text_short")["input_ids"].tolist()
    assert streamer.put_values[1:] == [[[token]] for token in ids[0].tolist()]


@pytest.mark.parametrize("skip_prompt", [False, True])
def test_paddlenlps_streamer_works(chat_model, skip_prompt):
    model, processor = chat_model
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=skip_prompt, timeout=5)
    ids, _ = model.generate([[100, 101, 102]], streamer=streamer, max_new_tokens=9, tokenizer=processor.tokenizer)
    assert "".join(streamer) == processor.tokenizer.decode(ids[0].tolist())


def test_each_row_has_the_reason_why_it_ended():
    expected = golden_tokens("batch_text")
    stop = int(expected[1][3])
    assert stop not in expected[0]
    inputs = {name: value for name, value in prompt("batch_text").items() if value is not None}
    rows = generate_rows(golden_model(), **inputs, generation_config=GREEDY, max_new_tokens=40, eos_token_id=[stop])
    ended = [bool((row == stop).any()) for row in rows.tokens]
    assert rows.finish_reasons == ["stop" if end else "length" for end in ended]
    assert rows.finish_reasons[:2] == ["length", "stop"]
    assert rows.lengths == [row.index(stop) + 1 if stop in row else 40 for row in expected.tolist()]


def test_stopping_early_stops_the_work(fed, chat_model):
    model, processor = chat_model
    engine = LocalEngine(local_engine(model, processor.tokenizer), paddle.no_grad)
    ids = processor.tokenizer.encode("hello")
    pieces = iter(AnswerStream(engine, processor.tokenizer, ids, GenerationOptions(max_new_tokens=40)))
    next(pieces)
    pieces.close()
    passes = len(fed)
    "".join(AnswerStream(engine, processor.tokenizer, ids, GenerationOptions(max_new_tokens=3)))
    assert {rows for rows, _ in fed} == {1} and len(fed) == passes + 3
    engine.engine.check()


def test_mistakes_show_before_anything_is_computed(fed):
    with pytest.raises(PromptError, match="attention_mask"):
        golden_model().generate([[1, 2]], GREEDY, attention_mask=[[0, 0]])
    assert not fed


@pytest.mark.parametrize("images", [paddle.zeros([1, 3, 448, 448]), None])
def test_images_and_placeholders_belong_together(images):
    inputs = prompt("two_images" if images is not None else "text_short")
    given = {"images": images} if images is not None else {"image_features": paddle.zeros([1, 256, 64])}
    with pytest.raises(PromptError, match="images: got 1 for [02] <img> placeholder"):
        golden_model().generate(inputs["input_ids"], GREEDY, **given)
    with pytest.raises(PromptError, match="give one of them"):
        golden_model().generate([[1, 2]], GREEDY, images=paddle.zeros([1]), image_features=paddle.zeros([1]))


def test_encoded_images_are_taken_instead_of_pixels():
    inputs = prompt("two_images")
    with paddle.no_grad():
        features = golden_model().visual(inputs["images"])
    ids, _ = golden_model().generate(inputs["input_ids"], GREEDY, image_features=features, max_new_tokens=6)
    np.testing.assert_array_equal(ids.numpy(), golden_tokens("two_images")[:, :6])


def test_what_the_model_raises_comes_out_as_it_is(monkeypatch):
    monkeypatch.setattr(QWenVLRunner, "forward", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate("text_short")


def test_damaged_weights_are_an_error_and_not_an_answer():
    model = new_golden_model()
    weight = model.transformer.ln_f.weight.numpy()
    weight[3] = np.nan
    model.transformer.ln_f.weight.set_value(weight)
    with pytest.raises(NumericalError, match="not a number at new token 1"):
        model.generate([[1, 2, 3]], GREEDY)


def test_a_finished_row_is_asked_for_nothing_more():
    asked = []

    class Spy(LogitsProcessor):
        def __call__(self, input_ids, logits):
            asked.append(tuple(input_ids[0, :5].tolist()))
            return logits

    ended = golden_tokens("batch_text")[0, 0]
    assert (golden_tokens("batch_text")[1:, :4] != ended).all()
    generate("batch_text", logits_processor=[Spy()], eos_token_id=int(ended), max_new_tokens=4)
    assert [asked.count(tuple(row[:5])) for row in rows_of("batch_text")] == [1, 4, 4]


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 3}])
def test_prompt_lookup_saves_passes_and_changes_nothing(fed, options, tiny_model_dir):
    """The prompt quotes the answer."""
    model = QWenLMHeadModel.from_pretrained(tiny_model_dir)
    tokenizer = QWenVLTokenizer.from_pretrained(tiny_model_dir)
    ids = [tokenizer.encode(f"{ANSWER}\n")]
    said, scores = model.generate(ids, max_new_tokens=12, **options)
    once = len(fed)
    streamer = Recorder()
    again, same_scores = model.generate(
        ids, max_new_tokens=12, prompt_lookup_num_tokens=10, streamer=streamer, **options
    )
    np.testing.assert_array_equal(again.numpy(), said.numpy())
    np.testing.assert_allclose(same_scores.numpy(), scores.numpy(), atol=1e-5)
    assert streamer.put_values == [[[token]] for token in said[0].tolist()]
    assert once == 12 and max(length for _, length in fed[once + 1 :]) == 8
    assert len(fed) - once < once / 2


def test_weights_that_change_between_calls_meet_nothing_that_was_computed_before():
    model = new_golden_model()
    ids, options = prompt("text_short")["input_ids"], {"max_new_tokens": 6}
    first, _ = model.generate(ids, GREEDY, **options)
    for block in model.transformer.h:
        block.attn.c_attn.weight.set_value(block.attn.c_attn.weight * 1.5)
    changed, _ = model.generate(ids, GREEDY, **options)
    assert (changed != first).any()
    np.testing.assert_array_equal(changed.numpy(), greedy_tokens(model, 6, input_ids=ids))


def test_a_model_in_training_is_refused():
    model = golden_model()
    model.train()
    try:
        with pytest.raises(ConfigurationError, match=r"eval\(\)"):
            generate("text_short")
    finally:
        model.eval()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_beams": 3}, "num_beams"), ({"max_tokens": 3}, "did you mean"), ({"temprature": 1.0}, "temperature")],
)
def test_unknown_options_are_refused_by_name(options, message):
    with pytest.raises(ConfigurationError, match=message):
        generate("text_short", **options)


def test_several_rows_that_may_end_need_a_padding_id(monkeypatch):
    monkeypatch.setattr(golden_model(), "generation_config", GenerationConfig())
    with pytest.raises(ConfigurationError, match="pad_token_id"):
        golden_model().generate([[1], [2]], GenerationConfig(), stop_token_sequences=[[5, 6]], eos_token_id=-1)


def test_no_gradients_are_kept():
    golden_model().generate([[1, 2]], GREEDY, max_new_tokens=2)
    assert paddle.is_grad_enabled()
    assert all(p.grad is None for p in golden_model().parameters())


def test_what_the_tokenizer_returns_goes_to_generate_as_it_is(chat_model, tmp_path, monkeypatch):
    model, processor = chat_model
    Image.new("RGB", (9, 9), "red").save(tmp_path / "p", format="PNG")
    monkeypatch.chdir(tmp_path)
    inputs = processor.tokenizer("<img>p</img>what", return_tensors="pd")
    pixels = paddle.to_tensor(processor.image_processor([tmp_path / "p"]))
    wanted, _ = model.generate(inputs.input_ids, images=pixels, max_new_tokens=4)
    np.testing.assert_array_equal(model.generate(**inputs, max_new_tokens=4)[0].numpy(), wanted.numpy())
    assert model(**inputs, images=pixels).logits.shape[:2] == inputs.input_ids.shape
