"""Generate the tables of docs/evaluation.md and docs/evaluation_cn.md from the registry of benchmarks.

    python docs/evaluation_tables.py

rewrites the text between ``<!-- NAME -->`` and ``<!-- end of NAME -->``.
"""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from docs import generated_tables  # noqa: E402
from paddlemix.evaluation import prompts  # noqa: E402
from paddlemix.evaluation.benchmarks import BENCHMARKS, Benchmark, Split  # noqa: E402
from paddlemix.evaluation.data.sources import SOURCES  # noqa: E402
from paddlemix.evaluation.records import ImageRef, Prompt  # noqa: E402

PAGES = {"en": DOCS / "evaluation.md", "zh": DOCS / "evaluation_cn.md"}
WORDS = {
    "benchmarks": (
        "| benchmark | questions | images | new tokens | measure | Qwen-VL | Qwen-VL-Chat | beside it |",
        "| 基准 | 问题 | 图像 | 新 token | 指标 | Qwen-VL | Qwen-VL-Chat | 说明 |",
    ),
    "prompts": ("| benchmark | prompt |", "| 基准 | 提示词 |"),
    "files": (
        "| benchmark | files below `--data_dir` | made from | images | mirror |",
        "| 基准 | `--data_dir` 下的文件 | 来源 | 图像 | 镜像 |",
    ),
    "hours": (
        "| benchmark | CPU | GPU |",
        "| 基准 | CPU | GPU |",
    ),
    "choice": ("by loss", "按损失"),
    "server": ("its server scores", "由其服务器评分"),
    "hidden": ("truth hidden", "答案不公开"),
    "other": (
        {
            "published of test-dev": "published of test-dev: not comparable",
            "published of the hidden test": "published of the hidden test: not comparable",
            "published by a board that asks for the letter": "a board's, which asks for the letter: not comparable",
            "published with another judge": "of another judge: not comparable",
        },
        {
            "published of test-dev": "公布的是 test-dev 的分数，不可比",
            "published of the hidden test": "公布的是不公开测试集的分数，不可比",
            "published by a board that asks for the letter": "排行榜要求回答字母，不可比",
            "published with another judge": "另一个评审模型，不可比",
        },
    ),
}
COLUMNS = {"benchmarks": "|---|--:|--:|---|---|--:|--:|---|", "prompts": "|---|---|", "files": "|---|---|---|---|---|"}
COLUMNS["hours"] = "|---|--:|--:|"

#: seconds to the first token of a new image, of one that is known, and for each further token: assumptions
CPU = (6.0, 0.5, 1 / 6.5)
GPU = (0.12, 0.04, 1 / 100)
#: tokens of an answer by form and limit, and images of splits, estimated
TOKENS = {"raw 30": 13, "raw 10": 3, "raw 100": 6, "raw 28": 20, "raw 0": 0, "chat 32": 3}
TOKENS_OF = {"touchstone": 150, "mme": 4}
IMAGES_OF = {
    "refcoco:val": 1_500, "refcoco:testA": 750, "refcoco:testB": 750,
    "refcoco+:val": 1_500, "refcoco+:testA": 750, "refcoco+:testB": 750,
    "refcocog:val": 1_300, "refcocog:test": 2_600, "mmbench:dev": 1_164, "mmbench:test": 1_784,
}  # fmt: skip


def _word(name: str, language: str):
    return WORDS[name][language == "zh"]


def benchmark_table(language: str) -> str:
    """Every split with what is published for it."""
    rows = [_word("benchmarks", language), COLUMNS["benchmarks"]]
    for benchmark in BENCHMARKS.values():
        for split in benchmark.splits.values():
            generation = benchmark.generation
            tokens = f"{generation.min_new_tokens}–{generation.max_new_tokens}"
            scores = [_published(split, model) for model in ("Qwen-VL", "Qwen-VL-Chat")]
            note = _word("other", language).get(split.published_note, "")
            if not split.is_scored:
                note = _word("server" if benchmark.write_submission else "hidden", language)
            cells = [
                f"`{benchmark.name}:{split.name}`",
                _number(split.questions),
                _number(split.images),
                tokens if generation.max_new_tokens else _word("choice", language),
                benchmark.metric,
                *scores,
                note,
            ]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _published(split: Split, model: str) -> str:
    """A model's score, and those by other protocols in brackets."""
    found = [f"{score:g}" for name, score in split.published.items() if name == model]
    others = [
        f"({name.split('(')[1].removesuffix(')')}: {score:g})"
        for name, score in split.published.items()
        if name.startswith(f"{model} (")
    ]
    return " ".join(found + others) or "–"


def _number(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def prompt_table(language: str) -> str:
    """What each benchmark asks, P for a path and Q for a question."""
    rows = [_word("prompts", language), COLUMNS["prompts"]]
    groups: dict[str, list[str]] = {}
    for benchmark in BENCHMARKS.values():
        text = prompts.render(_prompt(benchmark)).replace("\n", "\\n").replace("|", "\\|")
        groups.setdefault(text, []).append(benchmark.title)
    return "\n".join(rows + [f"| {', '.join(names)} | `{text}` |" for text, names in groups.items()])


def _prompt(benchmark: Benchmark) -> Prompt:
    image = ImageRef("", "P")
    if benchmark.name == "mme":
        return prompts.mme_prompt(image, "Q")
    if benchmark.generation.form == "chat":
        return prompts.labeled_prompt([image], "Q")
    if benchmark.name == "seed-bench":
        return prompts.seed_bench_prompt([image], "Q", ["a", "b", "c", "d"])
    if not benchmark.generation.max_new_tokens:
        return prompts.multiple_choice_prompt(image, "", "Q", ["a", "b"])
    if benchmark.metric == "CIDEr":
        return prompts.caption_prompt(image)
    if benchmark.name.startswith(("refcoco", "grit")):
        return prompts.grounding_prompt(image, "Q")
    return prompts.vqa_prompt(image, "Q")


def file_table(language: str) -> str:
    """Where the files are and what they are made from."""
    rows = [_word("files", language), COLUMNS["files"]]
    for name, benchmark in BENCHMARKS.items():
        source = SOURCES[name]
        files = list(dict.fromkeys(file for split in benchmark.splits.values() for file in split.files))
        shown = files if len(files) < 6 else [f"{files[0].rsplit('/', 1)[0]}/*.txt"]
        cells = [
            benchmark.title,
            ", ".join(shown) or "–",
            f"{source.page}: {source.files}",
            source.images or "–",
            source.mirror or "–",
        ]
        rows.append(f"| {' | '.join(cells)} |".replace("*", "\\*"))
    return "\n".join(rows)


def hour_table(language: str) -> str:
    """Hours for one request after the other, by the assumptions above."""
    rows = [_word("hours", language), COLUMNS["hours"]]
    for benchmark in BENCHMARKS.values():
        for split in benchmark.splits.values():
            if split.questions:
                times = [_hours(benchmark, split, rates) for rates in (CPU, GPU)]
                rows.append(f"| `{benchmark.name}:{split.name}` | {' | '.join(map(_short, times))} |")
    return "\n".join(rows)


def _hours(benchmark: Benchmark, split: Split, rates: tuple[float, float, float]) -> float:
    first, again, token = rates
    generation = benchmark.generation
    assert split.questions
    images = split.images or IMAGES_OF.get(f"{benchmark.name}:{split.name}", split.questions)
    tokens = TOKENS_OF.get(benchmark.name) or TOKENS[f"{generation.form} {generation.max_new_tokens}"]
    if benchmark.name == "seed-bench":
        videos = {"image": 0, "video": split.questions}.get(split.name, 5_009)
        images += 3 * videos  # four frames of each
    seconds = images * first + max(0, split.questions - images) * again + split.questions * tokens * token
    return seconds / 3600


def _short(hours: float) -> str:
    return f"{hours:.0f}" if hours >= 10 else f"{hours:.1f}" if hours >= 0.1 else "< 0.1"


def with_tables(text: str, language: str) -> str:
    """A page with its generated tables."""
    makers = {"benchmarks": benchmark_table, "prompts": prompt_table, "files": file_table, "hours": hour_table}
    tables = {name: make(language) for name, make in makers.items()}
    return generated_tables.with_tables(text, tables, PAGES[language])


def main() -> None:
    """Rewrite both pages."""
    for language, path in PAGES.items():
        path.write_text(with_tables(path.read_text(encoding="utf-8"), language), encoding="utf-8")


if __name__ == "__main__":
    main()
