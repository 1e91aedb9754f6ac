"""Where the files of each benchmark come from, and which of them the converters take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Where a benchmark is from.

    Attributes:
        page: of its authors, with terms and downloads.
        files: of theirs, which the converter takes.
        images: where unpacked images belong, below the data directory; empty where they come with the files.
        mirror: name of a public data set with parquet files that the converter takes as well.
    """

    page: str
    files: str
    images: str = ""
    mirror: str = ""


_COCO = "coco/val2014, coco/test2015 and coco/train2014, of https://cocodataset.org"
_REFER = "https://github.com/lichengunc/refer"

SOURCES: dict[str, Source] = {
    "nocaps": Source(
        "https://nocaps.org/download", "nocaps_val_4500_captions.json", "nocaps/images", "lmms-lab/NoCaps"
    ),
    "flickr30k": Source(
        "https://shannon.cs.illinois.edu/DenotationGraph",
        "dataset_flickr30k.json of Karpathy's split (https://cs.stanford.edu/people/karpathy/deepimagesent)",
        "flickr30k/images",
        "lmms-lab/flickr30k",
    ),
    "vqav2": Source(
        "https://visualqa.org/download.html",
        "v2_OpenEnded_mscoco_*_questions.json, v2_mscoco_*_annotations.json",
        _COCO,
        "lmms-lab/VQAv2",
    ),
    "okvqa": Source(
        "https://okvqa.allenai.org/download.html",
        "OpenEnded_mscoco_*_questions.json, mscoco_*_annotations.json",
        _COCO,
        "lmms-lab/OK-VQA",
    ),
    "textvqa": Source(
        "https://textvqa.org/dataset", "TextVQA_0.5.1_val.json", "textvqa/train_images", "lmms-lab/textvqa"
    ),
    "vizwiz": Source(
        "https://vizwiz.org/tasks-and-datasets/vqa",
        "val.json, test.json, train.json",
        "vizwiz/val, vizwiz/test, vizwiz/train",
        "lmms-lab/VizWiz-VQA",
    ),
    "docvqa": Source(
        "https://rrc.cvc.uab.es/?ch=17 (task 1, after registration)",
        "val/val_v1.0.json, test/test_v1.0.json",
        "docvqa/val/documents, docvqa/test/documents",
        "lmms-lab/DocVQA",
    ),
    "chartqa": Source(
        "https://github.com/vis-nlp/ChartQA",
        "test_human.json, test_augmented.json",
        "chartqa/test/png",
        "lmms-lab/ChartQA",
    ),
    "gqa": Source(
        "https://cs.stanford.edu/people/dorarad/gqa/download.html",
        "testdev_balanced_questions.json (kept in gqa/ as well, for the official measures)",
        "gqa/images",
        "lmms-lab/GQA",
    ),
    "ocrvqa": Source("https://ocr-vqa.github.io", "dataset.json", "ocrvqa/images", "howard-hou/OCR-VQA"),
    "ai2d": Source(
        "https://allenai.org/data/diagrams", "questions/*.json, ai2d_test_ids.csv", "ai2diagram/images", "lmms-lab/ai2d"
    ),
    "refcoco": Source(_REFER, "refs(unc).p, instances.json", _COCO, "lmms-lab/RefCOCO"),
    "refcoco+": Source(_REFER, "refs(unc).p, instances.json", _COCO, "lmms-lab/RefCOCOplus"),
    "refcocog": Source(_REFER, "refs(umd).p, instances.json", _COCO, "lmms-lab/RefCOCOg"),
    "grit": Source("https://grit-benchmark.org", "samples/*/refexp.json, as they are", "grit/images"),
    "scienceqa": Source(
        "https://scienceqa.github.io",
        "problems.json, pid_splits.json",
        "scienceqa/images/test",
        "derek-thomas/ScienceQA",
    ),
    "mmbench": Source(
        "https://github.com/open-compass/MMBench",
        "mmbench_dev_20230712.tsv, mmbench_test_20230712.tsv",
        mirror="lmms-lab/MMBench_EN",
    ),
    "seed-bench": Source(
        "https://github.com/AILab-CVC/SEED-Bench",
        "SEED-Bench.json, and the videos for seed-bench:video (pip install av)",
        "seed_bench/SEED-Bench-image",
        "lmms-lab/SEED-Bench",
    ),
    "mme": Source(
        "https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models/tree/Evaluation",
        "the folders of the 14 categories",
        mirror="lmms-lab/MME",
    ),
    "touchstone": Source(
        "https://github.com/OFA-Sys/TouchStone", "touchstone_20230831.tsv, touchstone_20230831_cn.tsv"
    ),
    "easy-vqa": Source("the package easy-vqa (pip install easy-vqa)", "none: read as installed"),
    "scenes": Source(
        "examples/bundled_model/export_scenes.py", "none: 'python examples/bundled_model/export_scenes.py' draws them"
    ),
}
"""By benchmark."""


def source_line(name: str) -> str:
    """Where a benchmark's files are from, in one line."""
    source = SOURCES[name]
    parts = [source.page, source.files]
    if source.images:
        parts.append(f"images in {source.images}")
    if source.mirror:
        parts.append(f"or the parquet files of {source.mirror}")
    return "; ".join(parts)
