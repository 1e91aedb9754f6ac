"""A data directory with a few made-up records of every benchmark, in the files that the original reads."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from paddlemix.evaluation.benchmarks import BENCHMARKS
from paddlemix.evaluation.metrics.mme import COGNITION, PERCEPTION
from paddlemix.evaluation.records import Answer, Question

COLORS = ("red", "green", "blue", "white")


def lines(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def value(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def image(data_dir: Path, name: str, size: tuple[int, int] = (64, 48)) -> str:
    path = data_dir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        Image.new("RGB", size, "gray").save(path)
    return f"data/{name}"


def vqa(data_dir: Path, file: str, count: int = 6, *, has_truth: bool = True, answer: object = None) -> list[dict]:
    records = []
    for number in range(count):
        record = {
            "image": image(data_dir, f"pictures/{number // 2}.png"),
            "question": f"What color is thing {number}?",
            "question_id": 100 + number,
        }
        if has_truth:
            record["answer"] = answer or COLORS[number % 4]
        records.append(record)
    lines(data_dir / file, records)
    return records


def annotations(data_dir: Path, file: str, records: list[dict]) -> None:
    value(
        data_dir / file,
        {
            "annotations": [
                {
                    "image_id": number // 2,
                    "question_id": record["question_id"],
                    "question_type": "what color",
                    "answer_type": "other",
                    "answers": [
                        {"answer": text, "answer_confidence": "yes", "answer_id": n}
                        for n, text in enumerate([record["answer"]] * 8 + ["gray"] * 2, start=1)
                    ],
                }
                for number, record in enumerate(records)
            ]
        },
    )


def captions(data_dir: Path, file: str, first: int = 0) -> None:
    images = [{"id": first + n, "image": image(data_dir, f"captioned/{first + n}.png")} for n in range(4)]
    texts = ("A {} cup on a table.", "A {} cup is standing there.", "There is a cup, it is {}!")
    value(
        data_dir / file,
        {
            "images": images,
            "annotations": [
                {
                    "id": 10 * n + k,
                    "image_id": record["id"],
                    "image": record["image"],
                    "caption": text.format(COLORS[n]),
                }
                for n, record in enumerate(images)
                for k, text in enumerate(texts)
            ],
        },
    )


def mmbench(data_dir: Path, split: str) -> None:
    columns = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "l2-category", "split", "image"]
    rows, records = [], []
    for question in range(3):
        options = ["None", "N/A", "007"]
        for rotation in range(3):
            shown = options[rotation:] + options[:rotation]
            answer = shown.index("007")
            index = question + 1_000_000 * rotation
            name = f"mmbench/mmbench_{split}_20230712/images/{index}.jpg"
            fields = [str(index), f"Which {question}?", "", *shown, "", "ABC"[answer]]
            rows.append([*fields, "ocr", "coarse_perception", split, "aGVsbG8="])
            record = {
                "index": index,
                "image": image(data_dir, name),
                "hint": "N/A",
                "question": f"Which {question}?",
                "choices": shown,
            }
            records.append({**record, "answer": answer} if split == "dev" else record)
    lines(data_dir / f"mmbench/mmbench_{split}_20230712/mmbench_{split}_20230712.jsonl", records)
    table = "\n".join("\t".join(row) for row in [columns, *rows])
    name = f"mmbench_{split}_20230712"
    (data_dir / f"mmbench/{name}/{name}.tsv").write_text(table + "\n", encoding="utf-8")


def seed_bench(data_dir: Path) -> None:
    questions = []
    for kind, file in (("image", "image_input.jsonl"), ("video", "video_input_4.jsonl")):
        records = []
        for number in range(4):
            shown = [image(data_dir, f"seed_bench/{kind}/{number}_{n}.png") for n in range(1 if kind == "image" else 4)]
            id_ = f"{'v' if kind == 'video' else ''}{number}"
            prompt = "".join(f"<img>{name}</img>\n" for name in shown)
            prompt += "Question: Which?\nOptions: A. a\nB. b\nC. c\nD. d\nAnswer:"
            records.append({"question_id": id_, "prompt": prompt, "answer": "ABCD"[number]})
            dimension = number + 1 if kind == "image" else 10 + number % 3
            questions.append({"question_id": id_, "question_type_id": dimension, "data_type": kind})
        lines(data_dir / "seed_bench" / file, records)
    value(data_dir / "seed_bench/SEED-Bench.json", {"questions": questions, "question_type": {}})


def write_all(data_dir: Path) -> None:
    """The files of every split of every benchmark."""
    for name, file, truth in (
        ("vqav2", "val", "v2_mscoco_val2014_annotations"),
        ("okvqa", "val", "mscoco_val2014_annotations"),
        ("textvqa", "val", "textvqa_val_annotations"),
        ("vizwiz", "val", "vizwiz_val_annotations"),
    ):
        annotations(data_dir, f"{name}/{truth}.json", vqa(data_dir, f"{name}/{name}_{file}.jsonl"))
        vqa(data_dir, f"{name}/{name}_train.jsonl", count=9)
    vqa(data_dir, "vqav2/vqav2_testdev.jsonl", has_truth=False)
    records = vqa(data_dir, "vizwiz/vizwiz_test.jsonl", has_truth=False)
    named = [{"question_id": f"{n}.png", "image": image(data_dir, f"vizwiz/test/{n}.png")} for n in range(6)]
    lines(data_dir / "vizwiz/vizwiz_test.jsonl", [{**r, **name} for r, name in zip(records, named)])
    records = vqa(data_dir, "docvqa/val.jsonl")
    truth = [{"questionId": r["question_id"], "question": r["question"], "answers": [r["answer"]]} for r in records]
    value(data_dir / "docvqa/val/val_v1.0.json", {"dataset_name": "docvqa", "data": truth})
    vqa(data_dir, "docvqa/test.jsonl", has_truth=False)
    for file in ("chartqa/test_human", "gqa/testdev_balanced", "ocrvqa/ocrvqa_test", "ocrvqa/ocrvqa_val"):
        vqa(data_dir, f"{file}.jsonl")
    vqa(data_dir, "chartqa/test_augmented.jsonl", answer=["12.5", "12.4"])
    repeated = [{**record, "question_id": "a.png"} for record in vqa(data_dir, "ai2diagram/test.jsonl")]
    lines(data_dir / "ai2diagram/test.jsonl", repeated)
    captions(data_dir, "nocaps/nocaps_val.json")
    captions(data_dir, "flickr30k/flickr30k_karpathy_test.json")
    captions(data_dir, "flickr30k/flickr30k_karpathy_train.json", first=50)
    for name in ("refcoco", "refcoco+", "refcocog"):
        for split in BENCHMARKS[name].splits:
            record = {"image": image(data_dir, "coco/1.png"), "sent": "cup", "width": 64, "height": 48}
            boxes = [[1, 2, 30 + n / 4, 40.5] for n in range(100)]
            lines(data_dir / f"{name}/{name}_{split}.jsonl", [{**record, "bbox": box} for box in boxes])
    image(data_dir, "grit/images/a/b.jpg")
    sample = {"image_id": "a/b.jpg", "task_name": "refexp", "task_query": "cup", "task_bbox": None}
    for split in ("test", "ablation"):
        samples = [{**sample, "example_id": f"e{n}", "is_new_source": n % 2 == 0} for n in range(6)]
        if split == "ablation":
            samples = [{**s, "gt_bbox": [1, 2, 30, 40]} for s in samples]
        value(data_dir / f"grit/samples/{split}/refexp.json", samples)
    record = {"image": image(data_dir, "scienceqa/images/test/7/image.png"), "hint": "", "question": "Which?"}
    problems = [{**record, "choices": ["frog", "cat", "dog"][: 2 + n % 2], "answer": n % 2} for n in range(6)]
    lines(data_dir / "scienceqa/scienceqa_test_img.jsonl", problems)
    for split in ("dev", "test"):
        mmbench(data_dir, split)
    seed_bench(data_dir)
    for category in (*PERCEPTION, *COGNITION):
        rows = []
        for number in range(3):
            image(data_dir, f"mme/images/{category}/{number}.png")
            rows += [f"{number}.png\tIs it {truth}? Please answer yes or no.\t{truth}" for truth in ("Yes", "No")]
        path = data_dir / f"mme/Your_Results/{category}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    names = ("question", "human_annotation", "gpt4_ha_answer", "category", "task_name")
    stone = {**dict.fromkeys(names, "text"), "image": image(data_dir, "touchstone/images/0.jpg")}
    for suffix in ("", "_cn"):
        lines(data_dir / f"touchstone/touchstone_20230831{suffix}.jsonl", [{**stone, "index": n} for n in range(3)])
    scene = {"image": image(data_dir, "scenes/0.png"), "task": "count", "language": "en", "question": "How many?"}
    box = {"bbox": [1, 2, 30, 40], "width": 64, "height": 48}
    lines(data_dir / "scenes/test.jsonl", [{**scene, "answer": "There is one."}, {**scene, "task": "refer", **box}])


def right_answer(question: Question) -> Answer:
    """An answer that no metric finds fault with."""
    meta = question.metadata
    if question.choices:
        losses = [2.0] * len(question.choices)
        losses[meta.get("answer", 0)] = 1.0
        return Answer(question.id, losses=tuple(losses), finish_reason="choice")
    if "bbox" in meta:
        width, height = meta.get("width", 64), meta.get("height", 48)
        corners = [round(1000 * side / size) for side, size in zip(meta["bbox"], (width, height, width, height))]
        return Answer(question.id, "({},{}),({},{})".format(*corners), 12, -0.1)
    return Answer(question.id, question.references[0] if question.references else "red", 2)


def wrong_answer(question: Question) -> Answer:
    """An answer that no metric finds anything right in."""
    if question.choices:
        right = question.metadata.get("answer", 0)
        return Answer(question.id, losses=tuple(1.0 + (n == right) for n in range(len(question.choices))))
    return Answer(question.id, "perhaps")
