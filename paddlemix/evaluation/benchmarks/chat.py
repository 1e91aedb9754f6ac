"""Asked as in a chat: MME and TouchStone."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import EvaluationError
from ...utils.files import read_text
from ..data.files import MAX_DATA_BYTES, image_ref, read_records, require_file, unique
from ..metrics.mme import COGNITION, PERCEPTION, category_score, parse_label
from ..prompts import labeled_prompt, mme_prompt
from ..records import Answer, Question, Score
from ..sampling import Shots
from ..statistics import Z
from ..submissions import write_mme, write_touchstone
from .base import Benchmark, Compat, Generation, Split, refuse_shots

CHAT = Generation(0, 512, form="chat")


def read_mme(data_dir: Path, split: Split, shots: Shots | None) -> list[Question]:
    """Both questions about each image, category by category."""
    refuse_shots("mme", shots)
    questions = []
    for file in split.files:
        path, category = data_dir / file, Path(file).stem
        require_file(path)
        lines = read_text(path, limit=MAX_DATA_BYTES, error=EvaluationError).rstrip("\n").split("\n")
        fields = [line.split("\t") for line in lines]
        for number, line in enumerate(fields, start=1):
            if len(line) != 3 or line[2].strip().lower() not in ("yes", "no"):
                raise EvaluationError(f"{path}:{number}: expected image, question and Yes or No with tabs between them")
        for number, (image, text, truth) in enumerate(fields):
            partner = number ^ 1
            if partner >= len(fields) or fields[partner][0] != image:
                raise EvaluationError(f"{path}:{number + 1}: {image} stands alone, expected two lines for each image")
            ref = image_ref(data_dir, f"data/mme/images/{category}/{image}")
            metadata = {"category": category, "image": image, "answer": truth.strip().lower()}
            group, prompt, truths = f"{category}/{number // 2}", mme_prompt(ref, text), (truth.strip(),)
            id_ = f"{group}/{number % 2}"
            questions.append(Question(id_, "mme", split.name, prompt, truths, group=group, metadata=metadata))
    return questions


def score_mme(questions: Sequence[Question], answers: Mapping[str, Answer], compat: Compat) -> Score:
    """Points of perception, cognition beside them; the original's numbers are the authors' script's, too."""
    pairs: dict[str, dict[str, list[tuple[str, str]]]] = defaultdict(lambda: defaultdict(list))
    for question in questions:
        pair = (question.metadata["answer"], answers[question.id].text)
        pairs[question.metadata["category"]][question.group].append(pair)
    scores, variances, undecided = {}, {}, 0
    for category, groups in pairs.items():
        result = category_score(list(groups.values()))
        variances[category] = _squared_error([category_score([pair]).score for pair in groups.values()])
        margin = Z * math.sqrt(variances[category])
        interval = (max(0.0, result.score - margin), min(200.0, result.score + margin))
        scores[category] = Score("points", result.score, "points", 2 * len(groups), interval)
        undecided += result.undecided
    parts = {
        name: [category for category in categories if category in scores]
        for name, categories in (("perception", PERCEPTION), ("cognition", COGNITION))
    }
    totals = {name: sum(scores[category].value for category in categories) for name, categories in parts.items()}
    margin = Z * math.sqrt(sum(variances[category] for category in parts["perception"]))
    notes = []
    if undecided:
        notes.append(f"{undecided} answers begin with neither yes nor no and count as wrong.")
    missing = len(PERCEPTION) + len(COGNITION) - len(scores)
    if missing:
        notes.append(f"{missing} of the 14 categories have no answers here: the totals do not compare.")
    total = totals["perception"]
    return Score(
        "MME perception",
        total,
        "points",
        len(questions),
        (total - margin, total + margin),
        scores,
        {q.id: float(parse_label(answers[q.id].text) == q.metadata["answer"]) for q in questions},
        {"cognition": totals["cognition"]},
        tuple(notes),
    )


def _squared_error(values: Sequence[float]) -> float:
    """The squared standard error of the mean."""
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)


def read_touchstone(data_dir: Path, split: Split, shots: Shots | None) -> list[Question]:
    """The questions, each with its images, and what the judge is told."""
    refuse_shots("touchstone", shots)
    records = read_records(data_dir / split.files[0])
    questions = []
    for id_, record in zip(unique(lambda record: record.id("index"), records, "index"), records):
        images = tuple(image_ref(data_dir, name) for name in record.texts("image"))
        names = ("question", "human_annotation", "gpt4_ha_answer", "category", "task_name")
        metadata = {name: record.text(name) for name in names}
        prompt = labeled_prompt(images, record.text("question"))
        questions.append(Question(id_, "touchstone", split.name, prompt, metadata=metadata))
    return questions


def score_touchstone(questions: Sequence[Question], answers: Mapping[str, Answer], compat: Compat) -> Score:
    """Raises EvaluationError: the answers have to be judged."""
    raise EvaluationError("touchstone: answers alone have no score; `paddlemix evaluate judge` asks a judge")


MME = Benchmark(
    "mme",
    "MME",
    {
        "test": Split(
            "test",
            tuple(f"mme/Your_Results/{category}.txt" for category in (*PERCEPTION, *COGNITION)),
            2_374,
            1_187,
            published={"Qwen-VL-Chat": 1487.58, "Qwen-VL-Chat (cognition)": 360.71},
        )
    },
    CHAT,
    "points of perception",
    read_mme,
    score_mme,
    write_mme,
    ".zip",
)

TOUCHSTONE = Benchmark(
    "touchstone",
    "TouchStone",
    {
        "en": Split(
            "en", ("touchstone/touchstone_20230831.jsonl",), 908,
            published={"Qwen-VL-Chat": 645.2, "Qwen-VL-Chat (Int4)": 651.4, "Qwen-VL-Chat (2023-09-25)": 711.6},
            published_note="published with another judge",
        ),
        "zh": Split(
            "zh", ("touchstone/touchstone_20230831_cn.jsonl",), 908,
            published={"Qwen-VL-Chat": 401.2, "Qwen-VL-Chat (Int4)": 386.6, "Qwen-VL-Chat (2023-09-25)": 481.7},
            published_note="published with another judge",
        ),
    },
    CHAT,
    "judge's points",
    read_touchstone,
    score_touchstone,
    write_touchstone,
    ".tsv",
    is_judged=True,
)  # fmt: skip

BENCHMARKS = (MME, TOUCHSTONE)
