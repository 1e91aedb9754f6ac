"""A run: every question of its tasks is asked once, and every answer is on the disk before the next is waited for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .answer_files import AnswerWriter, read_folder
from .backends.base import Backend, Failure
from .progress import Progress
from .records import Answer
from .settings import check_same
from .tasks import Note, RunOptions, Task, measured_rates, plan_line

_FAILURES_SHOWN = 5


@dataclass
class TaskReport:
    """What a run did.

    Attributes:
        task: that was run.
        answered: answers that were there before.
        new: answers of this run.
        failures: questions without an answer.
    """

    task: Task
    answered: int = 0
    new: int = 0
    failures: list[Failure] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether all questions of this shard are answered."""
        return self.answered + self.new == len(self.task.questions)


def run(
    tasks: Sequence[Task],
    options: RunOptions,
    make_backend: Callable[[], Backend],
    note: Note,
    *,
    plan_only: bool = False,
) -> list[TaskReport]:
    """Ask what is not answered yet.

    Args:
        tasks: as of :func:`.tasks.make_task`.
        options: of the run.
        make_backend: loads the model; called after the answers that are there were read.
        note: takes lines about what is going on.
        plan_only: end after the plan.

    Raises:
        EvaluationError: answers that are there are of another run or damaged, or nothing can be answered any more.
        OutputError: answers cannot be written.
    """
    for task in tasks:  # damaged files are told before a model is loaded
        _stored_answers(task, None, note)
    backend = make_backend()
    try:
        stored = [_stored_answers(task, backend, lambda line: None) for task in tasks]
        for task, answers in zip(tasks, stored):
            rates = measured_rates(task, backend) if len(answers) < len(task.questions) else None
            note(plan_line(task, len(answers), rates))
        if plan_only:
            return [TaskReport(task, len(answers)) for task, answers in zip(tasks, stored)]
        return [_run_task(task, answers, options, backend, note) for task, answers in zip(tasks, stored)]
    finally:
        backend.close()


def _stored_answers(task: Task, backend: Backend | None, note: Note) -> dict[str, Answer]:
    """The answers to questions of the task that any shard's file has."""
    stored = read_folder(task.folder)
    for line in stored.notes:
        note(line)
    if stored.settings is not None:
        given = dict(task.settings) if backend is None else {**task.settings, **backend.settings}
        check_same({name: value for name, value in stored.settings.items() if name in given}, given, str(task.folder))
    return {question.id: stored.answers[question.id] for question in task.questions if question.id in stored.answers}


def _run_task(task: Task, answers: dict[str, Answer], options: RunOptions, backend: Backend, note: Note) -> TaskReport:
    report = TaskReport(task, len(answers))
    todo = [question for question in task.questions if question.id not in answers]
    if not todo:
        return report
    settings = {**task.settings, **backend.settings}
    with AnswerWriter(task.folder, options.shard, settings, options.sample) as writer:
        progress = Progress(task, answers, note)
        results = backend.answers(todo, task.benchmark.generation)
        try:
            for result in results:
                if isinstance(result, Failure):
                    report.failures.append(result)
                    if len(report.failures) <= _FAILURES_SHOWN:
                        note(f"{task.title}: question {result.id} got no answer: {result.reason}")
                else:
                    writer.write(result)
                    answers[result.id] = result
                    report.new += 1
                progress.advance()
        finally:
            progress.close()
    return report
