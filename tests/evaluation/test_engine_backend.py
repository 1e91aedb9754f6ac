from __future__ import annotations

from pathlib import Path

import paddle
import pytest

from paddlemix.errors import EvaluationError
from paddlemix.evaluation.backends.base import Failure
from paddlemix.evaluation.backends.engine import EngineBackend, engine_config
from paddlemix.evaluation.benchmarks import Generation
from paddlemix.evaluation.metrics.choice import option_losses
from paddlemix.evaluation.records import Answer, Question
from paddlemix.inference import load_model
from paddlemix.options import ModelOptions
from tests.evaluation.toys import toy_benchmark, write_images
from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    write_images(folder)
    write_tiny_model(folder / "model")
    return folder


def backend(folder: Path, rows: int = 4) -> EngineBackend:
    return EngineBackend(ModelOptions(model=str(folder / "model")), engine_config("cpu", rows, 1 << 24))


def ask(folder: Path, questions: list[Question], generation: Generation, rows: int = 4) -> list[Answer | Failure]:
    return list(backend(folder, rows).answers(questions, generation))


def test_answers_come_in_the_order_of_the_questions_and_batches_do_not_change_them(folder: Path) -> None:
    questions = toy_benchmark(questions=13).questions(folder)
    alone, together = (ask(folder, questions, Generation(2, 30, "chat"), rows) for rows in (1, 8))
    assert [answer.id for answer in together] == [question.id for question in questions]
    assert alone == together
    assert all(
        isinstance(answer, Answer) and "10,23" in answer.text and answer.finish_reason == "stop" for answer in alone
    )


def test_an_answer_has_at_least_and_at_most_so_many_tokens(folder: Path) -> None:
    questions = toy_benchmark(questions=1, form="raw").questions(folder)
    (short,) = ask(folder, questions, Generation(0, 3, "raw"))
    (long,) = ask(folder, questions, Generation(40, 44, "raw"))
    assert isinstance(short, Answer) and (short.tokens, short.finish_reason) == (3, "length")
    assert isinstance(long, Answer) and long.tokens >= 40


@pytest.mark.parametrize("choices", [(" A", " B", " C"), (" one thing", " two", " A")], ids=["tokens", "texts"])
def test_losses_are_those_of_a_pass_for_each_choice(folder: Path, choices: tuple[str, ...]) -> None:
    questions = toy_benchmark(questions=3, form="raw", choices=choices).questions(folder)
    loaded = load_model(str(folder / "model"))
    tokenizer = loaded.processor.tokenizer
    for question, answer in zip(questions, ask(folder, questions, Generation(form="raw"))):
        assert isinstance(answer, Answer) and answer.finish_reason == "choice"
        for choice, loss in zip(choices, answer.losses):
            content = [
                {"type": "image", "image": question.images[0].path},
                {"type": "text", "text": question.prompt[1]},
            ]
            inputs = loaded.processor(
                [{"role": "user", "content": content}], chat_format="raw", image_labels=False, return_tensors="pd"
            )
            ids = tokenizer.encode(choice)
            row = paddle.concat([inputs["input_ids"], paddle.to_tensor([ids])], axis=1)
            with paddle.no_grad():
                logits = loaded.model(row, images=inputs["images"]).logits
            (expected,) = option_losses(row.numpy(), logits.numpy(), [len(ids)])
            assert loss == pytest.approx(float(expected), abs=2e-4)


def test_a_question_that_cannot_be_asked_is_a_failure_and_the_others_go_on(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(b"\x89PNG torn")
    for color in ("green", "blue", "yellow"):
        (tmp_path / f"{color}.png").write_bytes((folder / f"{color}.png").read_bytes())
    first, *rest = ask(folder, toy_benchmark(questions=4).questions(tmp_path), Generation(0, 2, "chat"))
    assert isinstance(first, Failure) and "red.png" in first.reason
    assert [type(answer) for answer in rest] == [Answer] * 3


def test_what_is_under_way_ends_with_the_run(folder: Path) -> None:
    asked = backend(folder)
    answers = asked.answers(toy_benchmark().questions(folder), Generation(0, 8, "chat"))
    next(answers)
    answers.close()
    assert not asked.engine.has_work()
    asked.engine.check()


def test_a_conversation_needs_a_chat_model(folder: Path, tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "base", chat_format="raw")
    base = EngineBackend(ModelOptions(model=str(tmp_path / "base")), engine_config("cpu", 1, 1 << 24))
    with pytest.raises(EvaluationError, match="base model"):
        next(base.answers(toy_benchmark().questions(folder), Generation(0, 1, "chat")))
    (answer,) = base.answers(toy_benchmark(questions=1).questions(folder), Generation(0, 1, "raw"))
    assert isinstance(answer, Answer)


def test_settings_tell_models_and_options_apart(folder: Path, tmp_path: Path) -> None:
    first = backend(folder).settings
    model = tmp_path / "other"
    write_tiny_model(model, answer="<ref>car</ref>")
    assert EngineBackend(ModelOptions(model=str(model)), engine_config("cpu")).settings["model"] != first["model"]
    assert first["computed"] == "QWenLMHeadModel float32 float32"
