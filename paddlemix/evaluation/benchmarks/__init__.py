"""The registry: one :class:`~paddlemix.evaluation.benchmarks.base.Benchmark` for each name."""

from __future__ import annotations

from ...errors import EvaluationError
from . import captions, chat, choices, drawn, grounding, vqa
from .base import Benchmark, Compat, Generation, Split

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for family in (captions, vqa, grounding, choices, chat, drawn)
    for benchmark in family.BENCHMARKS
}


def get_benchmark(name: str) -> Benchmark:
    """The benchmark of a name.

    Raises:
        EvaluationError: there is none of that name.
    """
    if name not in BENCHMARKS:
        raise EvaluationError(f"benchmark: there is no {name!r}, expected one of: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


__all__ = ["BENCHMARKS", "Benchmark", "Compat", "Generation", "Split", "get_benchmark"]
