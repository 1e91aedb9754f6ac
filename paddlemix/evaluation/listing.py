"""What benchmarks there are, as text."""

from __future__ import annotations

from .benchmarks import BENCHMARKS, Split


def benchmark_table() -> str:
    """A line for each split: name, questions, images, how it is asked and measured, published scores."""
    rows = [("benchmark", "questions", "images", "asked as", "measure", "published")]
    for benchmark in BENCHMARKS.values():
        generation = benchmark.generation
        form = "raw prompt" if generation.form == "raw" else "conversation"
        form += f", {generation.max_new_tokens} tokens" if generation.max_new_tokens else ", choice by loss"
        for split in benchmark.splits.values():
            metric = benchmark.metric if split.is_scored else f"{benchmark.metric}, by its server"
            rows.append(
                (f"{benchmark.name}:{split.name}", _count(split.questions), _count(split.images), form, metric)
                + (published_text(split) or "–",)
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def published_text(split: Split) -> str:
    """The published scores of a split."""
    return ", ".join(f"{model} {value:g}" for model, value in split.published.items())


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"
