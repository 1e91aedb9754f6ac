"""From the files of a data set's authors, or a public parquet mirror, to the files that the original reads.

Images of primary files stay where they are unpacked (``docs/evaluation.md`` has the places); those within tables and
mirrors are written below the data directory, unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ....errors import EvaluationError
from ...benchmarks import Split, get_benchmark
from . import captions, chat, choices, grounding, vqa, vqa_mirrors, write
from .parquet import parquet_files

Note = Callable[[str], None]


@dataclass(frozen=True)
class Converter:
    """How a benchmark's files are made.

    Attributes:
        primary: (source, split) -> rows; None where only tables exist.
        mirror: (parquet files, data directory, split) -> rows; None where there is no mirror.
        write: (data directory, files of the split, rows) -> number of records.
        folder: of the split within a mirror, where it has several.
    """

    primary: Callable[[Path, str], Iterator[Any]]
    mirror: Callable[[Sequence[Path], Path, str], Iterator[Any]] | None
    write: Callable[[Path, Sequence[str], Iterator[Any]], int]
    folder: str = ""


def _lines(data_dir: Path, files: Sequence[str], records: Iterator[dict[str, Any]]) -> int:
    return write.write_lines(data_dir / files[0], records)


def _accepted(data_dir: Path, files: Sequence[str], rows: Iterator[write.VqaRow]) -> int:
    return _lines(data_dir, files, (write.vqa_record(row, takes_all=len(row.answers) > 1) for row in rows))


def _captions(data_dir: Path, files: Sequence[str], rows: Iterator[captions.CaptionRow]) -> int:
    return captions.write_captions(data_dir / files[0], rows)


def _mme(data_dir: Path, files: Sequence[str], rows: Iterator[chat.MmeRow]) -> int:
    return chat.write_mme(data_dir, rows)


def _touchstone(data_dir: Path, files: Sequence[str], rows: Iterator[tuple[dict[str, Any], bytes]]) -> int:
    return _lines(data_dir, files, chat.touchstone_records(data_dir, rows))


CONVERTERS: dict[str, Converter] = {
    "nocaps": Converter(captions.read_nocaps, captions.read_nocaps_mirror, _captions),
    "flickr30k": Converter(captions.read_flickr30k, captions.read_flickr30k_mirror, _captions),
    "vqav2": Converter(vqa.read_vqav2, vqa_mirrors.read_vqav2, write.write_annotated),
    "okvqa": Converter(vqa.read_okvqa, vqa_mirrors.read_okvqa, write.write_annotated),
    "textvqa": Converter(vqa.read_textvqa, vqa_mirrors.read_textvqa, write.write_annotated),
    "vizwiz": Converter(vqa.read_vizwiz, vqa_mirrors.read_vizwiz, write.write_annotated),
    "docvqa": Converter(vqa.read_docvqa, vqa_mirrors.read_docvqa, write.write_docvqa_truth),
    "chartqa": Converter(vqa.read_chartqa, vqa_mirrors.read_chartqa, _accepted),
    "gqa": Converter(vqa.read_gqa, vqa_mirrors.read_gqa, _accepted, "{0}_balanced_instructions"),
    "ocrvqa": Converter(vqa.read_ocrvqa, vqa_mirrors.read_ocrvqa, _accepted),
    "ai2d": Converter(vqa.read_ai2d, vqa_mirrors.read_ai2d, _accepted),
    **{
        name: Converter(partial(grounding.read_refcoco, name), grounding.read_refcoco_mirror, _lines)
        for name in ("refcoco", "refcoco+", "refcocog")
    },
    "scienceqa": Converter(choices.read_scienceqa, choices.read_scienceqa_mirror, _lines),
    "mmbench": Converter(choices.read_mmbench, choices.read_mmbench_mirror, choices.write_mmbench),
    "mme": Converter(chat.read_mme, chat.read_mme_mirror, _mme),
    "touchstone": Converter(chat.read_touchstone, None, _touchstone),
}
"""SEED-Bench has functions of its own, for images and videos."""

_MIRROR_SPLITS = {"val": ("val", "validation", "val2014"), "test-dev": ("testdev", "test_dev"), "dev": ("dev",)}
TRAIN = "train"
HALVES = ("human", "augmented")


def convert(name: str, split: str | None, source: Path, data_dir: Path, note: Note = lambda line: None) -> int:
    """Make the files of a split.

    Args:
        name: of the benchmark.
        split: None: the default one; ``"train"``: the records that examples are drawn from.
        source: directory with the authors' files, or with a mirror's parquet files.
        data_dir: gets the files.
        note: takes lines about what was left out.

    Returns:
        How many records were written.

    Raises:
        EvaluationError: the source lacks a file, or something in it cannot be converted.
        MissingDependencyError: a decoder of videos is not installed.
    """
    files = _files(name, split)
    part = files.name
    if not source.exists():
        raise EvaluationError(f"source: {source} is missing; expected a directory with the data set's files")
    if name == "seed-bench":
        mirror = parquet_files(source, ("test",))
        if mirror:
            return choices.convert_seed_bench_mirror(mirror, data_dir, part)
        return choices.convert_seed_bench(source, data_dir, part, note)
    folder = source / CONVERTERS[name].folder.format(part)
    mirror = parquet_files(folder, _MIRROR_SPLITS.get(part, (part,)))
    if name != "chartqa":
        return _run(CONVERTERS[name], part, files.files, source, mirror, data_dir)
    halves = [file.rsplit("/", 1)[-1].removesuffix(".jsonl") for file in files.files]
    return sum(
        _run(CONVERTERS[name], half, (file,), source, mirror, data_dir) for half, file in zip(halves, files.files)
    )


def can_convert(name: str) -> bool:
    """Whether a benchmark's files are made from others."""
    return name in CONVERTERS or name == "seed-bench"


def _files(name: str, split: str | None) -> Split:
    """The split that is to be made; ``"train"`` for the file of examples."""
    benchmark = get_benchmark(name)
    if not can_convert(name):
        raise EvaluationError(f"benchmark: {name} needs no conversion; its files are read as they are")
    if name == "seed-bench" and split == "all":
        raise EvaluationError("split: got 'all', expected image and video, one after the other")
    if split != TRAIN:
        return benchmark.split(split)
    train = benchmark.split().train
    if not train:
        raise EvaluationError(f"split: {name} has no training records, expected one of {', '.join(benchmark.splits)}")
    return Split(TRAIN, tuple(f"chartqa/train_{half}.jsonl" for half in HALVES) if name == "chartqa" else (train,))


def _run(
    converter: Converter, split: str, files: Sequence[str], source: Path, mirror: Sequence[Path], data_dir: Path
) -> int:
    if not mirror:
        return converter.write(data_dir, files, converter.primary(source, split))
    if converter.mirror is None:
        raise EvaluationError(f"{source}: has parquet files, expected the authors' table")
    return converter.write(data_dir, files, converter.mirror(mirror, data_dir, split))
