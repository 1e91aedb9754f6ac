"""The same few made-up records as their authors' files and as parquet mirrors."""

from __future__ import annotations

import base64
import csv
import io
import json
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from paddlemix.evaluation.metrics.mme import COGNITION, PERCEPTION

# "yes" nine times of ten: equal answers of different people
ANSWERS = ["yes"] * 9 + ["No"]
OPTIONS = ["None", "N/A", "007"]


def picture(shade: int = 0, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 48), (shade, 90, 120)).save(stream, kind)
    return stream.getvalue()


def value(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def parquet(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def cell(shade: int = 0) -> dict:
    return {"bytes": picture(shade), "path": None}


def annotated() -> list[dict]:
    return [{"answer": answer, "answer_confidence": "yes"} for answer in ANSWERS]


def vqav2(source: Path, mirror: Path) -> None:
    questions = [{"image_id": 42, "question": f"Is it {n}?", "question_id": 420 + n} for n in range(3)]
    kinds = {"question_type": "is it", "answer_type": "yes/no"}
    value(source / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": questions})
    truth = [{**question, **kinds, "answers": annotated()} for question in questions]
    value(source / "v2_mscoco_val2014_annotations.json", {"annotations": truth})
    parquet(mirror / "data/validation-00000-of-00001.parquet", [{**row, "image": cell()} for row in truth])
    value(source / "v2_OpenEnded_mscoco_test-dev2015_questions.json", {"questions": questions})
    parquet(mirror / "data/testdev-00000-of-00001.parquet", [{**q, "image": cell()} for q in questions])


def okvqa(source: Path, mirror: Path) -> None:
    questions = [{"image_id": 42, "question": f"Is it {n}?", "question_id": 420 + n} for n in range(3)]
    kinds = {"question_type": "one", "answer_type": "other"}
    value(source / "OpenEnded_mscoco_val2014_questions.json", {"questions": questions})
    value(
        source / "mscoco_val2014_annotations.json",
        {"annotations": [{**question, **kinds, "answers": annotated()} for question in questions]},
    )
    rows = [
        {**kinds, "question": q["question"], "question_id": str(q["question_id"]), "answers": ANSWERS, "image": cell()}
        for q in questions
    ]
    parquet(mirror / "data/val2014-00000-of-00001.parquet", rows)


def textvqa(source: Path, mirror: Path) -> None:
    rows = [{"question_id": n, "question": f"What {n}?", "image_id": f"a{n}", "answers": ANSWERS} for n in range(2)]
    value(source / "TextVQA_0.5.1_val.json", {"data": rows})
    parquet(mirror / "validation-00000.parquet", [{**row, "image": cell(n)} for n, row in enumerate(rows)])


def vizwiz(source: Path, mirror: Path) -> None:
    rows = [{"image": f"VizWiz_val_{n}.jpg", "question": f"What {n}?", "answers": annotated()} for n in range(2)]
    value(source / "val.json", rows)
    parquet(
        mirror / "val-00000.parquet",
        [
            {"question_id": row["image"], "question": row["question"], "answers": ANSWERS, "image": cell(n)}
            for n, row in enumerate(rows)
        ],
    )


def docvqa(source: Path, mirror: Path) -> None:
    rows = [{"questionId": n, "question": f"When {n}?", "answers": ["1 May", "May 1"]} for n in range(2)]
    value(source / "val/val_v1.0.json", {"data": [{**r, "image": f"documents/x_{r['questionId']}.png"} for r in rows]})
    parquet(
        mirror / "DocVQA/validation-00000.parquet",
        [
            {
                **r,
                "questionId": str(r["questionId"]),
                "image": cell(n),
                "ucsf_document_id": "x",
                "ucsf_document_page_no": str(n),
            }
            for n, r in enumerate(rows)
        ],
    )


def chartqa(source: Path, mirror: Path) -> None:
    rows = []
    for half in ("human", "augmented"):
        asked = [{"imgname": f"{n}.png", "query": f"How many {half} {n}?", "label": f"{n}.5"} for n in range(2)]
        value(source / f"test_{half}.json", asked)
        rows += [
            {"type": f"{half}_test", "question": q["query"], "answer": q["label"], "image": cell(n)}
            for n, q in enumerate(asked)
        ]
    parquet(mirror / "data/test-00000-of-00001.parquet", rows)


def gqa(source: Path, mirror: Path) -> None:
    rows = {f"20{n}": {"imageId": "n7", "question": f"Which {n}?", "answer": "cup"} for n in range(3)}
    value(source / "testdev_balanced_questions.json", rows)
    name = "testdev-00000-of-00001.parquet"
    parquet(mirror / "testdev_balanced_instructions" / name, [{"id": id_, **row} for id_, row in rows.items()])
    parquet(mirror / "testdev_balanced_images" / name, [{"id": "n7", "image": cell()}])


def ocrvqa(source: Path, mirror: Path) -> None:
    book = {"imageURL": "http://example.org/x.jpg", "questions": ["Who?", "What?"], "answers": ["A. B.", "Art"]}
    value(source / "dataset.json", {"07": {**book, "split": 3}, "08": {**book, "split": 1}})
    row = {"image_id": "07", "questions": book["questions"], "answers": book["answers"], "image": cell()}
    parquet(mirror / "test-00000.parquet", [row])


def ai2d(source: Path, mirror: Path) -> None:
    options = ["fox", "grass", "sun"]
    source.mkdir(parents=True, exist_ok=True)
    (source / "ai2d_test_ids.csv").write_text("1\n2\n", encoding="utf-8")
    rows = []
    for number in (1, 2, 3):
        asked = {f"What eats {number}{n}?": {"answerTexts": options, "correctAnswer": n} for n in range(2)}
        value(source / f"questions/{number}.png.json", {"imageName": f"{number}.png", "questions": asked})
        if number < 3:
            rows += [
                {"question": text, "options": options, "answer": str(q["correctAnswer"]), "image": cell(number)}
                for text, q in asked.items()
            ]
    parquet(mirror / "test-00000.parquet", rows)


def nocaps(source: Path, mirror: Path) -> None:
    captions = [f"A cup {n}." for n in range(10)]
    value(
        source / "nocaps_val_4500_captions.json",
        {
            "images": [{"id": 4, "file_name": "0a.jpg"}],
            "annotations": [{"id": n, "image_id": 4, "caption": caption} for n, caption in enumerate(captions)],
        },
    )
    row = {"image_id": 4, "image_file_name": "0a.jpg", "annotations_captions": captions, "image": cell()}
    parquet(mirror / "validation-00000.parquet", [row])


def flickr30k(source: Path, mirror: Path) -> None:
    captions = [f"A dog {n}." for n in range(5)]
    entries = [
        {"filename": f"{n}.jpg", "imgid": n, "split": split, "sentences": [{"raw": text} for text in captions]}
        for n, split in enumerate(("test", "train", "test"))
    ]
    value(source / "dataset_flickr30k.json", {"images": entries})
    rows = [
        {"filename": e["filename"], "img_id": str(n), "split": e["split"], "caption": captions, "image": cell(n)}
        for n, e in enumerate(entries)
    ]
    parquet(mirror / "test-00000.parquet", rows)


def refcoco(source: Path, mirror: Path) -> None:
    name = "COCO_train2014_000000000042"
    image = {"id": 42, "file_name": f"{name}.jpg", "width": 64, "height": 48}
    annotation = {"id": 7, "image_id": 42, "bbox": [1.5, 2, 30, 40.25]}
    value(source / "instances.json", {"images": [image], "annotations": [annotation]})
    refs = [
        {"split": split, "ann_id": 7, "image_id": 42, "sentences": [{"sent": "left cup"}, {"sent": "cup"}]}
        for split in ("val", "train")
    ]
    (source / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    row = {"answer": ["left cup", "cup"], "bbox": annotation["bbox"], "file_name": f"{name}_7.jpg", "image": cell()}
    parquet(mirror / "val-00000.parquet", [row])


def scienceqa(source: Path, mirror: Path) -> None:
    problem = {"question": "Which?", "choices": ["frog", "cat"], "answer": 1, "hint": "", "grade": "grade2"}
    problem |= {"subject": "natural science", "topic": "biology"}
    value(
        source / "problems.json",
        {str(n): {**problem, "image": "image.png" if n % 2 else None, "split": "test"} for n in range(4)},
    )
    value(source / "pid_splits.json", {"test": [str(n) for n in range(4)]})
    rows = [{**problem, "image": cell(n) if n % 2 else None} for n in range(4)]
    parquet(mirror / "test-00000.parquet", rows)


def mmbench(source: Path, mirror: Path) -> None:
    rows = []
    for rotation in range(3):
        shown = OPTIONS[rotation:] + OPTIONS[:rotation]
        row = {"index": 5 + 1_000_000 * rotation, "question": 'Which "one"?\nSay', "hint": None}
        row |= dict(zip("ABCD", [*shown, None])) | {"answer": "ABC"[shown.index("007")], "category": "ocr"}
        rows.append({**row, "l2-category": "coarse_perception", "split": "dev"})
    source.mkdir(parents=True, exist_ok=True)
    with open(source / "mmbench_dev_20230712.tsv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "image"], delimiter="\t", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            # rotations may name the row whose image they share
            image = base64.b64encode(picture()).decode() if row["index"] == 5 else "5"
            writer.writerow({**row, "image": image})
    mirrored = []
    for row in rows:
        other = {**row, "hint": "nan", "D": "nan", "L2-category": row["l2-category"], "image": cell()}
        del other["l2-category"], other["split"]
        mirrored.append(other)
    parquet(mirror / "en/dev-00000.parquet", mirrored)


def seed_bench(source: Path, mirror: Path) -> None:
    choices = {f"choice_{letter}": f"option {letter}" for letter in "abcd"}
    rows = [
        {**choices, "question_id": str(n), "question": "Which?", "answer": "B", "question_type_id": n + 1}
        | {"data_id": f"12_{n}", "data_type": "image"}
        for n in range(2)
    ]
    value(source / "SEED-Bench.json", {"questions": rows, "question_type": {"Scene Understanding": 1}})
    parquet(mirror / "data/test-00000.parquet", [{**row, "image": [cell(n)]} for n, row in enumerate(rows)])


def mme(source: Path, mirror: Path) -> None:
    rows = []
    for shade, category in enumerate((*PERCEPTION, *COGNITION)):
        folder = source / category
        texts, images = (folder, folder) if shade % 2 else (folder / "questions_answers_YN", folder / "images")
        for directory in (texts, images):
            directory.mkdir(parents=True, exist_ok=True)
        asked = [(f"Is it {truth}? Please answer yes or no.", truth) for truth in ("Yes", "No")]
        (texts / "0001.txt").write_text("\n".join("\t".join(line) for line in asked) + "\n", encoding="utf-8")
        (images / "0001.png").write_bytes(picture(shade))
        rows += [
            {"question_id": f"{category}/0001.png", "question": text, "answer": truth, "category": category}
            | {"image": cell(shade)}
            for text, truth in asked
        ]
    parquet(mirror / "data/test-00000.parquet", rows)


def touchstone(source: Path) -> None:
    names = ("index", "question", "human_annotation", "gpt4_ha_answer", "category", "task_name", "image")
    source.mkdir(parents=True, exist_ok=True)
    with open(source / "touchstone_20230831.tsv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(names)
        image = base64.b64encode(picture(kind="JPEG")).decode()
        writer.writerow([0, "What is\nit?", "a cup", "It is a cup.", "Recognition,Chat", "t", image])


BOTH = {
    "vqav2": (vqav2, "val"), "okvqa": (okvqa, "val"), "textvqa": (textvqa, "val"), "vizwiz": (vizwiz, "val"),
    "docvqa": (docvqa, "val"), "chartqa": (chartqa, "test"), "gqa": (gqa, "testdev"), "ocrvqa": (ocrvqa, "test"),
    "ai2d": (ai2d, "test"), "nocaps": (nocaps, "val"), "flickr30k": (flickr30k, "test"), "refcoco": (refcoco, "val"),
    "scienceqa": (scienceqa, "test"), "mmbench": (mmbench, "dev"), "seed-bench": (seed_bench, "image"),
    "mme": (mme, "test"),
}  # fmt: skip
"""Benchmark -> what writes its sources, and the split that they have."""
