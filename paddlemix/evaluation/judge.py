"""A judge compares answers with reference answers: TouchStone.

Each pair is judged twice, with the answers in both orders, by any server of OpenAI's protocol. Replies are kept in the
run's folder, so that nothing is asked twice; a round without usable scores is counted and never becomes a number.

Source of the procedure: Bai et al., "TouchStone" (2023), and the authors' program. The request here says the same in
other words; whoever has the published text passes it as a file. Scores of different judges do not compare.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EvaluationError
from ..utils.display import shorten
from ..utils.files import read_json_lines, read_json_object
from .answer_files import read_folder
from .benchmarks import Benchmark
from .line_writer import LineWriter
from .metrics.touchstone import OVERALL, parse_reply, touchstone_scores
from .openai_client import ClientOptions, OpenAIClient
from .records import Answer, Question, Score
from .statistics import bootstrap_interval
from .tasks import Note, questions_of

FILE = "judgments.jsonl"
_PLACES = ("{description}", "{question}", "{first}", "{second}")
_PLACE = re.compile("|".join(map(re.escape, _PLACES)))
MODEL, REFERENCE = "model", "reference"
_ATTEMPTS = 3
"""Of a round whose reply has no usable scores."""
_FAILURES_SHOWN = 5
_MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class JudgePrompt:
    """What a judge is told.

    Attributes:
        system: text of the system.
        user: text with ``{description}``, ``{question}``, ``{first}`` and ``{second}`` in it.
    """

    system: str = "You compare answers to questions about images, exactly and without favor."
    user: str = (
        "Description of the image:\n{description}\n\nQuestion:\n{question}\n\n"
        "Answer of assistant 1:\n{first}\n\nAnswer of assistant 2:\n{second}\n\n"
        "Two AI assistants answered the question about the described image. Rate how helpful, relevant, accurate and "
        "comprehensive each answer is, on a scale from 1 to 10, higher being better. The order of the answers must not "
        "matter. Write the two scores, that of assistant 1 first, on the first line: two numbers with one space "
        "between them and nothing else. Explain them on the following lines."
    )

    @classmethod
    def from_file(cls, path: Path) -> JudgePrompt:
        """A prompt from a JSON object with ``system`` and ``user``.

        Raises:
            EvaluationError: it cannot be read, or lacks one or a place in it.
        """
        content = read_json_object(path, error=EvaluationError) or {}
        prompt = cls(str(content.get("system")), str(content.get("user")))
        missing = [place for place in _PLACES if place not in prompt.user]
        if "system" not in content or missing:
            raise EvaluationError(f"{path}: expected system, and user with {', '.join(_PLACES)} in it")
        return prompt

    def messages(self, question: Question, first: str, second: str) -> list[dict[str, str]]:
        """The judge's conversation about two answers."""
        values = {
            "{description}": str(question.metadata["human_annotation"]),
            "{question}": str(question.metadata["question"]),
            "{first}": first,
            "{second}": second,
        }
        user = _PLACE.sub(lambda found: values[found[0]], self.user)
        return [{"role": "system", "content": self.system}, {"role": "user", "content": user}]


@dataclass(frozen=True)
class JudgeOptions:
    """A judge.

    Attributes:
        client: its address.
        model: its name.
        concurrency: requests at once.
        prompt: what it is told.
    """

    client: ClientOptions
    model: str
    concurrency: int = 4
    prompt: JudgePrompt = JudgePrompt()


@dataclass(frozen=True)
class _Round:
    question: str
    number: int
    messages: Sequence[Mapping[str, str]]
    key: str


def judge_folder(folder: Path, data_dir: Path, options: JudgeOptions, note: Note) -> int:
    """Ask the judge about every answer of a run that it has not judged.

    Args:
        folder: of the run, complete or not.
        data_dir: with the benchmark's files.
        options: the judge.
        note: takes lines about rounds that failed.

    Returns:
        How many rounds failed; they have no line in the file, and are asked again by the next call.

    Raises:
        EvaluationError: the benchmark has no judge, or answers are missing or damaged.
        OutputError: the file cannot be written.
    """
    stored = read_folder(folder)
    benchmark, _, questions = questions_of(stored, data_dir, str(folder))
    _require_judged(benchmark)
    answered = [question for question in questions if question.id in stored.answers]
    rounds = [item for q in answered for item in _rounds(q, stored.answers[q.id], options)]
    known = {str(line["key"]) for line in _lines(folder / FILE)}
    todo = [item for item in rounds if item.key not in known]
    note(f"{benchmark.name}: {len(rounds):,} rounds, {len(rounds) - len(todo):,} of them judged already")
    client = OpenAIClient(options.client)
    failed = 0
    with ThreadPoolExecutor(options.concurrency, "judge") as pool, LineWriter(folder / FILE) as lines:
        for item, (reply, trouble) in zip(todo, pool.map(lambda item: _ask(client, options.model, item), todo)):
            if reply is None:
                failed += 1
                if failed <= _FAILURES_SHOWN:
                    note(f"question {item.question}, round {item.number}: no scores: {trouble}")
                continue
            place = {"judge": options.model, "question": item.question, "round": item.number}
            lines.append({"key": item.key, **place, "reply": reply})
    client.close()
    return failed


def judged_score(
    folder: Path, questions: Sequence[Question], answers: Mapping[str, Answer], *, as_original: bool = False
) -> Score | None:
    """The score of a run by the judge that was asked last; None where none was.

    Args:
        folder: of the run.
        questions: of the run.
        answers: by question id.
        as_original: numbers outside 1 to 10 count, too.

    Raises:
        EvaluationError: the judge gave no usable scores.
    """
    lines = list(_lines(folder / FILE))
    if not lines:
        return None
    judge = lines[-1]["judge"]
    scores: dict[tuple[str, int], dict[str, float]] = {}
    for line in lines:
        told = parse_reply(line["reply"], as_original=as_original) if line["judge"] == judge else None
        if told is not None:
            scores[line["question"], line["round"]] = _by_name(line["round"], told)
    answered = [question for question in questions if question.id in answers]
    rounds = [(question, scores.get((question.id, number))) for question in answered for number in (1, 2)]
    failed = sum(by_name is None for _, by_name in rounds)
    if failed == len(rounds):
        raise EvaluationError(f"{folder}: the judge {judge} gave no usable scores; ask it again, or another one")
    table = touchstone_scores((_categories(question), by_name) for question, by_name in rounds)
    own: dict[str, list[float]] = {}
    for question, by_name in rounds:
        if by_name is not None:
            own.setdefault(question.id, []).append(by_name[MODEL])
    per_question = {name: sum(values) / len(values) for name, values in own.items()}
    counts = Counter(c for q in answered if q.id in own for c in _categories(q).split(","))
    notes = [f"the judge is {judge}; scores of other judges, the published ones among them, do not compare"]
    if failed:
        notes.append(f"{failed:,} of {len(rounds):,} rounds have no scores and do not count")
    return Score(
        name="judge's score",
        value=table[OVERALL][MODEL],
        unit="points",
        n=len(own),
        interval=bootstrap_interval([100 * value for value in per_question.values()]),
        by_category={
            name: Score(name, part[MODEL], "points", counts[name]) for name, part in table.items() if name != OVERALL
        },
        per_question=per_question,
        others={"reference answers": table[OVERALL][REFERENCE]},
        notes=tuple(notes),
    )


def _categories(question: Question) -> str:
    return str(question.metadata["category"])


def _require_judged(benchmark: Benchmark) -> None:
    if not benchmark.is_judged:
        raise EvaluationError(f"{benchmark.name}: no judge is needed; `paddlemix evaluate score` scores it")


def _rounds(question: Question, answer: Answer, options: JudgeOptions) -> Iterator[_Round]:
    reference = str(question.metadata["gpt4_ha_answer"])
    for number, pair in ((1, (reference, answer.text)), (2, (answer.text, reference))):
        messages = options.prompt.messages(question, *pair)
        key = hashlib.sha256(json.dumps([options.model, messages]).encode()).hexdigest()[:24]
        yield _Round(question.id, number, messages, key)


def _by_name(number: int, told: tuple[float, float]) -> dict[str, float]:
    """The scores of a round by whose they are: the model's answer is the second one in the first round."""
    first, second = (REFERENCE, MODEL) if number == 1 else (MODEL, REFERENCE)
    return {first: told[0], second: told[1]}


def _ask(client: OpenAIClient, model: str, item: _Round) -> tuple[str | None, str]:
    """The judge's reply, or None and why there is none."""
    trouble = ""
    for _ in range(_ATTEMPTS):
        body = {"model": model, "messages": list(item.messages), "temperature": 0, "stop": ["\n"], "max_tokens": 32}
        try:
            reply = client.post("/chat/completions", body)
            text = reply["choices"][0]["message"]["content"]
        except EvaluationError as error:
            return None, str(error)  # the client has tried often enough
        except (KeyError, IndexError, TypeError):
            return None, "the reply has no text"
        if isinstance(text, str) and parse_reply(text, as_original=True) is not None:
            return text, ""
        trouble = f"the judge wrote {shorten(str(text), 60)!r}, expected two numbers"
    return None, trouble


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of judgments; a torn last one is left out.

    Raises:
        EvaluationError: another line is damaged.
    """
    if not path.exists():
        return
    with LineWriter(path):
        """It cuts a torn line off."""
    for number, line in read_json_lines(path, limit=_MAX_BYTES, error=EvaluationError):
        if not isinstance(line, dict) or not {"key", "judge", "question", "round", "reply"} <= line.keys():
            raise EvaluationError(f"{path}:{number}: is no judgment; remove the line")
        yield line
