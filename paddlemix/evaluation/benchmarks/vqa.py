"""Questions with short answers: VQAv2, OK-VQA, TextVQA, VizWiz, DocVQA, ChartQA, GQA, OCR-VQA, AI2D."""

from __future__ import annotations

from functools import partial

from ..submissions import write_docvqa, write_gqa, write_vizwiz, write_vqa
from .base import Benchmark, Generation, Split
from .vqa_data import docvqa_truth, read_chartqa, read_gqa, read_vqa
from .vqa_scores import anls_credit, score_by_credit, score_chartqa, score_exact_match, score_gqa, score_vqa

SHORT = Generation(1, 10)
LONG = Generation(1, 100)


def _splits(*splits: Split) -> dict[str, Split]:
    return {split.name: split for split in splits}


VQAV2 = Benchmark(
    "vqav2",
    "VQAv2",
    _splits(
        Split(
            "val", ("vqav2/vqav2_val.jsonl", "vqav2/v2_mscoco_val2014_annotations.json"), 214_354, 40_504,
            train="vqav2/vqav2_train.jsonl", published={"Qwen-VL": 78.8, "Qwen-VL-Chat": 78.2},
            published_note="published of test-dev",
        ),
        Split(
            "test-dev", ("vqav2/vqav2_testdev.jsonl",), 107_394, 36_807, is_scored=False,
            train="vqav2/vqav2_train.jsonl", published={"Qwen-VL": 78.8, "Qwen-VL-Chat": 78.2},
        ),
    ),
    SHORT,
    "VQA accuracy",
    partial(read_vqa, "vqav2"),
    partial(score_vqa, "official"),
    write_vqa,
)  # fmt: skip

OKVQA = Benchmark(
    "okvqa",
    "OK-VQA",
    _splits(
        Split(
            "val", ("okvqa/okvqa_val.jsonl", "okvqa/mscoco_val2014_annotations.json"), 5_046,
            train="okvqa/okvqa_train.jsonl",
            published={"Qwen-VL": 58.6, "Qwen-VL-Chat": 56.6, "Qwen-VL (4-shot)": 63.6, "Qwen-VL-Chat (4-shot)": 60.6},
        )
    ),
    SHORT,
    "VQA accuracy",
    partial(read_vqa, "okvqa"),
    partial(score_vqa, "official"),
)  # fmt: skip

TEXTVQA = Benchmark(
    "textvqa",
    "TextVQA",
    _splits(
        Split(
            "val", ("textvqa/textvqa_val.jsonl", "textvqa/textvqa_val_annotations.json"), 5_000, 3_166,
            train="textvqa/textvqa_train.jsonl", published={"Qwen-VL": 63.8, "Qwen-VL-Chat": 61.5},
        )
    ),
    SHORT,
    "VQA accuracy",
    partial(read_vqa, "textvqa"),
    partial(score_vqa, "textvqa"),
)  # fmt: skip

_VIZWIZ = {"Qwen-VL": 35.2, "Qwen-VL-Chat": 38.9, "Qwen-VL (4-shot)": 39.1, "Qwen-VL-Chat (4-shot)": 44.45}
VIZWIZ = Benchmark(
    "vizwiz",
    "VizWiz",
    _splits(
        Split(
            "val", ("vizwiz/vizwiz_val.jsonl", "vizwiz/vizwiz_val_annotations.json"), 4_319, 4_319,
            train="vizwiz/vizwiz_train.jsonl", published=_VIZWIZ, published_note="published of the hidden test",
        ),
        Split(
            "test", ("vizwiz/vizwiz_test.jsonl",), 8_000, 8_000, is_scored=False,
            train="vizwiz/vizwiz_train.jsonl", published=_VIZWIZ,
        ),
    ),
    SHORT,
    "VQA accuracy",
    partial(read_vqa, "vizwiz"),
    partial(score_vqa, "official"),
    write_vizwiz,
)  # fmt: skip

_DOCVQA = {"Qwen-VL": 65.1, "Qwen-VL-Chat": 62.6}
DOCVQA = Benchmark(
    "docvqa",
    "DocVQA",
    _splits(
        Split(
            "val", ("docvqa/val.jsonl", "docvqa/val/val_v1.0.json"), 5_349, 1_286, train="docvqa/train.jsonl",
            published=_DOCVQA, published_note="published of the hidden test",
        ),
        Split(
            "test", ("docvqa/test.jsonl",), 5_188, 1_287, is_scored=False, train="docvqa/train.jsonl",
            published=_DOCVQA,
        ),
    ),
    LONG,
    "ANLS",
    partial(read_vqa, "docvqa", read_truth=docvqa_truth),
    partial(score_by_credit, "ANLS", anls_credit),
    write_docvqa,
    needs=("rapidfuzz",),
)  # fmt: skip

CHARTQA = Benchmark(
    "chartqa",
    "ChartQA",
    _splits(
        Split(
            "test", ("chartqa/test_human.jsonl", "chartqa/test_augmented.jsonl"), 2_500, 1_509,
            train="chartqa/train_human.jsonl", published={"Qwen-VL": 65.7, "Qwen-VL-Chat": 66.3},
        )
    ),
    LONG,
    "relaxed accuracy",
    read_chartqa,
    score_chartqa,
)  # fmt: skip

GQA = Benchmark(
    "gqa",
    "GQA",
    _splits(
        Split(
            "testdev", ("gqa/testdev_balanced.jsonl",), 12_578, 398, train="gqa/train.jsonl",
            published={"Qwen-VL": 59.3, "Qwen-VL-Chat": 57.5},
        )
    ),
    SHORT,
    "accuracy",
    read_gqa,
    score_gqa,
    write_gqa,
)  # fmt: skip

OCRVQA = Benchmark(
    "ocrvqa",
    "OCR-VQA",
    _splits(
        Split(
            "test", ("ocrvqa/ocrvqa_test.jsonl",), None, 20_800, train="ocrvqa/ocrvqa_train.jsonl",
            published={"Qwen-VL": 75.7, "Qwen-VL-Chat": 70.5},
        ),
        Split("val", ("ocrvqa/ocrvqa_val.jsonl",), train="ocrvqa/ocrvqa_train.jsonl"),
    ),
    LONG,
    "exact match",
    partial(read_vqa, "ocrvqa", has_repeated_ids=True),
    score_exact_match,
)  # fmt: skip

AI2D = Benchmark(
    "ai2d",
    "AI2D",
    _splits(
        Split(
            "test", ("ai2diagram/test.jsonl",), 3_088, train="ai2diagram/train.jsonl",
            published={"Qwen-VL": 62.3, "Qwen-VL-Chat": 57.7},
        )
    ),
    SHORT,
    "exact match",
    partial(read_vqa, "ai2d", has_repeated_ids=True),
    score_exact_match,
)  # fmt: skip

BENCHMARKS = (VQAV2, OKVQA, TEXTVQA, VIZWIZ, DOCVQA, CHARTQA, GQA, OCRVQA, AI2D)
