"""Readers of questions with short answers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ...errors import EvaluationError
from ..data.files import Record, image_ref, numbered, read_list, read_records, read_value, unique
from ..prompts import example_answer, few_shot_prompt, vqa_prompt
from ..records import Prompt, Question
from ..sampling import Shots
from .base import Split

GQA_QUESTIONS = "gqa/testdev_balanced_questions.json"
KINDS = ("answer_type", "question_type")

Truth = dict[str, tuple[tuple[str, ...], dict[str, str]]]
"""Question id -> accepted answers, and the kinds of question and answer where they are known."""
TruthReader = Callable[[Path], Truth]


def read_vqa(
    name: str,
    data_dir: Path,
    split: Split,
    shots: Shots | None,
    *,
    has_repeated_ids: bool = False,
    read_truth: TruthReader | None = None,
) -> list[Question]:
    """The questions of a split: converted records, joined with the truth in the file that the split names second.

    Args:
        name: of the benchmark.
        data_dir: holds the split's files.
        split: to read.
        shots: how examples are drawn; None for none.
        has_repeated_ids: the files have an image's name for an id, which several questions may share.
        read_truth: reads the second file; None for the annotations of VQA data sets.

    Raises:
        EvaluationError: a file is missing or damaged, or the two are of different splits.
    """
    read_truth = read_truth or _annotations
    path = data_dir / split.files[0]
    records = read_records(path)
    ids = [record.id("question_id") for record in records]
    ids = numbered(ids) if has_repeated_ids else unique(lambda record: record.id("question_id"), records, "question_id")
    annotations = read_truth(data_dir / split.files[1]) if len(split.files) > 1 else None
    examples = Examples(data_dir, split, shots)
    questions = []
    for id_, record in zip(ids, records):
        metadata = {"question_id": record.values["question_id"], "image": record.text("image")}
        if annotations is not None:
            if id_ not in annotations:
                raise EvaluationError(
                    f"{record.where}: question {id_} is not in {split.files[1]}; expected files of the same split"
                )
            truth, kinds = annotations[id_]
            metadata |= kinds
        elif split.is_scored:
            truth = record.texts("answer")
        else:
            truth = ()
        prompt = vqa_prompt(image_ref(data_dir, record.text("image")), record.text("question"))
        prompt = examples.before(prompt, id_, record.text("image"))
        questions.append(Question(id_, name, split.name, prompt, truth, metadata=metadata))
    return questions


class Examples:
    """The training records that examples are drawn from; none where no examples are asked for."""

    def __init__(self, data_dir: Path, split: Split, shots: Shots | None) -> None:
        self.shots = shots
        if shots is None:
            return
        if not split.train:
            raise EvaluationError(f"shots: there are no training records for {split.name!r}; expected 0")
        records = read_records(data_dir / split.train)
        self._images = [record.text("image") for record in records]
        self._records = records
        self._data_dir = data_dir

    def before(self, prompt: Prompt, question_id: str, image: str) -> Prompt:
        """The prompt, behind the question's examples."""
        if self.shots is None:
            return prompt
        drawn = self.shots.draw(self._records, self._images, question_id, image)
        return few_shot_prompt([self._example(record, self.shots.as_original) for record in drawn], prompt)

    def _example(self, record: Record, as_original: bool) -> tuple[Prompt, str]:
        record.texts("answer")
        image = image_ref(self._data_dir, record.text("image"))
        return vqa_prompt(image, record.text("question")), example_answer(record.values, as_original=as_original)


def _annotations(path: Path) -> Truth:
    """Question id -> the annotators' answers, and the kinds of question and answer where they are known."""
    result: Truth = {}
    for record in read_list(path, "annotations"):
        answers = record.values.get("answers")
        if not isinstance(answers, list) or not answers:
            raise record.error("answers", "a list of the annotators' answers")
        try:
            # The same few words again and again: one object each.
            texts = tuple(sys.intern(str(answer["answer"])) for answer in answers)
        except (TypeError, KeyError) as error:
            raise record.error("answers", 'a list of {"answer": "text"}') from error
        kinds = {key: sys.intern(record.text(key)) for key in KINDS if record.values.get(key)}
        result[record.id("question_id")] = (texts, kinds)
    return result


def docvqa_truth(path: Path) -> Truth:
    """Question id -> accepted answers."""
    return {record.id("questionId"): (record.texts("answers"), {}) for record in read_list(path, "data")}


def read_chartqa(data_dir: Path, split: Split, shots: Shots | None) -> list[Question]:
    """Both halves, each with its own ids. Raises as :func:`read_vqa`."""
    questions = []
    for half, file in zip(("human", "augmented"), split.files):
        part = Split(split.name, (file,), train=f"chartqa/train_{half}.jsonl")
        for question in read_vqa("chartqa", data_dir, part, shots, has_repeated_ids=True):
            metadata = {**question.metadata, "half": half}
            questions.append(replace(question, id=f"{half}-{question.id}", metadata=metadata))
    return questions


def read_gqa(data_dir: Path, split: Split, shots: Shots | None) -> list[Question]:
    """The questions, with the records of the data set's own question file where that is there.

    Raises as :func:`read_vqa`.
    """
    questions = read_vqa("gqa", data_dir, split, shots)
    path = data_dir / GQA_QUESTIONS
    if not path.is_file():
        return questions
    records = read_value(path)
    return [replace(q, metadata={**q.metadata, "record": records.get(q.id)}) for q in questions]
