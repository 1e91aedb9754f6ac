"""Evaluation: the right loss, the right questions with the right history, and a training that is not disturbed."""

import json
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from PIL import Image

from paddlemix import QWenLMHeadModel
from paddlemix.adapters import LoRAConfig, inject
from paddlemix.data.encoding import encode
from paddlemix.data.records import read_records
from paddlemix.engine.engine import Engine
from paddlemix.finetune import evaluation
from paddlemix.finetune.evaluation import MAX_SAMPLES, evaluate
from paddlemix.finetune.model import FinetuneModel
from paddlemix.models.qwen_vl.processing import QwenVLProcessor
from tests.tiny_model import ANSWER, write_tiny_model

FAR = "<ref>bus</ref><box>(700,700),(900,900)</box>"


@pytest.fixture
def loaded(tiny_model_dir):
    """A model that always answers ANSWER, in training mode, and its processor."""
    model = FinetuneModel(QWenLMHeadModel.from_pretrained(tiny_model_dir))
    model.train()
    return model, QwenVLProcessor.from_pretrained(tiny_model_dir)


@pytest.fixture
def write(tmp_path):
    """Writes a file of records, each a list of (question, answer); a question beginning with "*" has an image."""

    def write(*conversations, labeled=True):
        Image.new("RGB", (64, 48), (0, 90, 200)).save(tmp_path / "image.png")
        entries = [_labeled(turns) if labeled else _messages(turns) for turns in conversations]
        (tmp_path / "records.jsonl").write_text("\n".join(map(json.dumps, entries)))
        return read_records(tmp_path / "records.jsonl")

    return write


def _labeled(turns):
    values = []
    for question, answer in turns:
        question = question.replace("*", "Picture 1: <img>image.png</img>\n")
        values += [{"from": "user", "value": question}, {"from": "assistant", "value": answer}]
    return {"conversations": values}


def _messages(turns):
    messages = []
    for question, answer in turns:
        image = [{"type": "image", "image": "image.png"}] if question.startswith("*") else []
        content = [*image, {"type": "text", "text": question.lstrip("*")}]
        messages += [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return {"messages": messages}


def run(loaded, records, **options):
    return evaluate(*loaded, records, **{"batch_size": 2, "max_length": 400, "num_answered": 8, **options})


VARIED = (
    [("*Where is the bus?", ANSWER)],
    [("Two plus two?", "Four."), ("Are you sure? " * 9, "Quite sure, yes.")],
    [("*What is this?", "A blue field " * 12)],
)


# ---------------------------------------------------------------- loss


def plain_loss(model, processor, records):
    """Sum of the losses and number of targets, one record at a time from all logits."""
    total, count = 0.0, 0
    model.eval()
    for record in records:
        example = encode(record, processor.tokenizer)
        images = processor.image_processor(list(example.images)) if example.images else None
        with paddle.no_grad():
            logits = model.model(
                paddle.to_tensor(example.input_ids[None]),
                images=None if images is None else paddle.to_tensor(images),
            ).logits
        # Not Paddle's log_softmax, which on a CPU takes no probability for less than exp(-64).
        scores = logits[0, :-1].numpy().astype(np.float64)
        scores -= scores.max(axis=-1, keepdims=True)
        log_probs = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
        targets = example.labels[1:]
        learned = np.flatnonzero(targets != -100)
        total -= log_probs[learned, targets[learned]].sum()
        count += len(learned)
    model.train()
    return total, count


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_loss_is_the_mean_over_all_tokens_whatever_the_batches(loaded, write, any_backend, batch_size):
    records = write(*VARIED)
    total, count = plain_loss(*loaded, records)
    metrics = run(loaded, records, batch_size=batch_size, num_answered=0)
    assert metrics == {"eval_loss": pytest.approx(total / count, rel=1e-5)}


def test_processes_share_the_work_and_get_the_result_of_one(loaded, write, monkeypatch):
    records = write(*VARIED, *VARIED[:2])
    alone = run(loaded, records)
    totals = []
    for rank in range(2):
        monkeypatch.setattr(
            evaluation,
            "dist",
            SimpleNamespace(
                get_rank=lambda rank=rank: rank,
                get_world_size=lambda: 2,
                all_reduce=lambda sums: totals.append(sums.clone()),
            ),
        )
        run(loaded, records)

    def all_reduce(sums):
        sums.set_value(totals[0] + totals[1])

    evaluation.dist.all_reduce = all_reduce
    assert run(loaded, records) == {name: pytest.approx(value, rel=1e-6) for name, value in alone.items()}
    assert all(part.numpy()[1] > 0 for part in totals)


# ---------------------------------------------------------------- answers


def test_found_boxes_are_counted_over_all_expected_ones(loaded, write, any_backend):
    records = write([("*Where is the bus?", ANSWER)], [("*And now?", ANSWER + FAR)], [("*Where?", FAR)])
    assert run(loaded, records)["eval_iou_accuracy"] == pytest.approx(2 / 4)


def test_answers_without_boxes_have_to_be_exactly_right(tmp_path, write):
    directory = write_tiny_model(tmp_path / "model", answer="a red bus")
    loaded = FinetuneModel(QWenLMHeadModel.from_pretrained(directory)), QwenVLProcessor.from_pretrained(directory)
    records = write([("*What is it?", "a red bus")], [("What is it?", "a blue bus")], [("Where?", FAR)])
    metrics = run(loaded, records)
    assert (metrics["eval_exact_answers"], metrics["eval_iou_accuracy"]) == (0.5, 0.0)


def test_what_was_not_asked_is_not_in_the_result(loaded, write):
    assert set(run(loaded, write([("*Where?", FAR)]))) == {"eval_loss", "eval_iou_accuracy"}
    assert set(run(loaded, write([("Where?", "There")]))) == {"eval_loss", "eval_exact_answers"}


def test_a_model_whose_settings_sample_answers_greedily(loaded, write):
    model, _ = loaded
    model.model.generation_config.do_sample = True
    model.model.generation_config.temperature = 50.0
    records = write([("*Where is the bus?", ANSWER)])
    assert run(loaded, records)["eval_iou_accuracy"] == 1.0


@pytest.fixture
def prompts(monkeypatch):
    """The ids of every prompt that is answered, in the order of asking."""
    asked = []
    add = Engine.add

    def spy(self, request):
        asked.append(list(request.prompt_ids))
        add(self, request)

    monkeypatch.setattr(Engine, "add", spy)
    return asked


@pytest.mark.parametrize("labeled", [True, False])
def test_prompts_are_what_training_has_before_each_answer(loaded, write, prompts, labeled):
    (record,) = write(
        [("*Where is the bus?", FAR), ("And the <ref>cat</ref>?", "No cat."), ("Why?", "So.")], labeled=labeled
    )
    run(loaded, [record])
    tokenizer = loaded[1].tokenizer
    ids = encode(record, tokenizer).input_ids.tolist()
    assert len(prompts) == 3
    for prompt, answer in zip(sorted(prompts, key=len), (FAR, "No cat.", "So.")):
        expected = [*tokenizer.encode(answer), tokenizer.im_end_id]
        assert ids[: len(prompt)] == prompt and ids[len(prompt) :][: len(expected)] == expected


def test_turns_that_training_leaves_out_are_not_asked(loaded, write, prompts):
    (record,) = write([("One?", "Yes."), ("Two? " * 30, "No."), ("Three?", "Yes.")])
    first_turn = len(encode(record, loaded[1].tokenizer, 60))
    assert first_turn < 60
    run(loaded, [record], max_length=60)
    assert len(prompts) == 1


def test_the_records_asked_are_spread_evenly(loaded, write, prompts):
    records = write(*[[(f"Question {n}?", "Yes.")] for n in range(9)])
    run(loaded, records, num_answered=3)
    texts = sorted(loaded[1].tokenizer.decode(prompt) for prompt in prompts)
    assert [text[text.index("Question") :][9] for text in texts] == ["0", "3", "6"]


# ---------------------------------------------------------------- the training goes on


def test_modes_and_random_numbers_are_as_before(loaded, write, tmp_path):
    model, _ = loaded
    model.model.transformer.visual.eval()
    modes = {name: layer.training for name, layer in model.named_sublayers(include_self=True)}
    paddle.seed(3)
    np.random.seed(3)
    states = [state.current_seed() for state in paddle.get_rng_state()], np.random.get_state()[1].tolist()
    drawn = paddle.rand([4]).numpy()
    paddle.seed(3)
    run(loaded, write(*VARIED), samples_dir=tmp_path / "samples")
    assert {name: layer.training for name, layer in model.named_sublayers(include_self=True)} == modes
    assert ([state.current_seed() for state in paddle.get_rng_state()], np.random.get_state()[1].tolist()) == states
    np.testing.assert_array_equal(paddle.rand([4]).numpy(), drawn)


def test_a_step_after_evaluation_has_the_same_gradients(loaded, write):
    model, processor = loaded
    (record,) = write([("Two plus two?", "Four.")])
    example = encode(record, processor.tokenizer)
    ids, labels = (paddle.to_tensor(array[None]) for array in (example.input_ids, example.labels))

    def gradients():
        model(ids, labels)["loss"].backward()
        found = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
        model.clear_gradients()
        return found

    before = gradients()
    run(loaded, [record])
    after = gradients()
    assert before.keys() == after.keys()
    for name, gradient in before.items():
        np.testing.assert_array_equal(after[name], gradient)


def test_modes_come_back_after_an_error(loaded, write, tmp_path):
    records = write(*VARIED)
    (tmp_path / "image.png").unlink()
    with pytest.raises(ValueError, match=r"records\.jsonl:\d: image"):
        run(loaded, records)
    assert loaded[0].training and loaded[0].model.transformer.training


@pytest.mark.parametrize("quantization", [None, "int4"])
def test_models_with_adapters_are_evaluated(tiny_model_dir, write, any_backend, quantization):
    model = QWenLMHeadModel.from_pretrained(tiny_model_dir, quantization=quantization)
    finetuned, processor = FinetuneModel(model), QwenVLProcessor.from_pretrained(tiny_model_dir)
    records = write([("*Where is the bus?", ANSWER)])
    before = run((finetuned, processor), records)
    inject(model, LoRAConfig(r=4))
    finetuned.train()
    fresh = run((finetuned, processor), records)
    assert fresh == {name: pytest.approx(value, rel=1e-5) for name, value in before.items()}
    for name, parameter in model.named_parameters():
        if name.endswith("lora_B"):
            parameter.set_value(paddle.full_like(parameter, 1.0))
    assert run((finetuned, processor), records)["eval_loss"] != pytest.approx(before["eval_loss"], rel=1e-2)


# ---------------------------------------------------------------- images


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_one_image_is_drawn_for_each_record_that_has_one(loaded, write, tmp_path):
    records = write([("*Hello?", "Hi."), ("Where is the bus?", ANSWER)], [("Two?", "No.")], [("*What?", "A field.")])
    run(loaded, records, samples_dir=tmp_path / "samples", step=40)
    assert names(tmp_path / "samples") == ["step-40-1.png", "step-40-2.png"]


def test_of_a_record_the_question_about_a_box_is_drawn(loaded, write, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(evaluation, "draw_sample", lambda image, *texts: drawn.append((image.size, *texts)) or image)
    run(
        loaded,
        write([("*Hello?", "Hi."), ("Where is the bus?", ANSWER), ("And now?", FAR)]),
        samples_dir=tmp_path / "samples",
        step=7,
    )
    ((size, title, question, expected, answer),) = drawn
    assert size == (64, 48) and question == "Where is the bus?" and expected == answer == ANSWER
    assert title.startswith("step 7 · ") and "records.jsonl:1" in title and title.endswith("1 of 1 box found")


def test_no_more_images_are_drawn_than_a_person_looks_at(loaded, write, tmp_path):
    records = write(*[[("*Where?", FAR)]] * (MAX_SAMPLES + 2))
    run(loaded, records, num_answered=len(records), samples_dir=tmp_path / "samples")
    assert len(names(tmp_path / "samples")) == MAX_SAMPLES
