"""What each kind of golden file expects, computed by the metrics; ``check_golden.py`` compares."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from paddlemix.evaluation.data.mmbench import convert_row
from paddlemix.evaluation.metrics import caption_tokens
from paddlemix.evaluation.metrics.anls import anls
from paddlemix.evaluation.metrics.caption import score_tokens, tokenize_by_image
from paddlemix.evaluation.metrics.choice import choose, option_losses
from paddlemix.evaluation.metrics.exact_match import exact_match
from paddlemix.evaluation.metrics.gqa import official_measures, shorten
from paddlemix.evaluation.metrics.grit_refexp import refexp_hit, refexp_partitions
from paddlemix.evaluation.metrics.grounding import grounding_iou, is_hit
from paddlemix.evaluation.metrics.mmbench import (
    Row,
    circular_strict,
    majority,
    strict_by_category,
    submission_letters,
)
from paddlemix.evaluation.metrics.mme import COGNITION, PERCEPTION, category_score, parse_label
from paddlemix.evaluation.metrics.relaxed_accuracy import relaxed_accuracy
from paddlemix.evaluation.metrics.science_qa import science_qa_groups
from paddlemix.evaluation.metrics.seed_bench import sample_frames, seed_hits
from paddlemix.evaluation.metrics.sharding import indices_in_whole_batches, original_ranges
from paddlemix.evaluation.metrics.touchstone import parse_reply, touchstone_scores
from paddlemix.evaluation.metrics.vqa_accuracy import (
    normalize,
    normalize_textvqa,
    strip_punctuation,
    vqa_accuracy,
)
from tests.evaluation.golden_prompts import UnknownKindError, known, prompts_kind

TOLERANCE = 1e-9

Json = Any
Kind = Callable[[Json], Json]
"""Computes what a golden file expects, in the same form."""


def vqa_accuracy_kind(golden: Json) -> Json:
    variants: dict[str, dict[str, Any]] = {
        "qwen_vl": {"variant": "original"},
        "official": {"variant": "official"},
        "textvqa_evalai": {"variant": "textvqa"},
        "qwen_vl_without_answer_id": {"variant": "original", "has_answer_ids": False},
    }
    steps: dict[str, Callable[[str], str]] = {
        "punctuation": strip_punctuation,
        "punctuation_digit_article": normalize,
        "evalai": normalize_textvqa,
    }
    result: dict[str, Json] = {"expected": {}}
    for name in golden["expected"]:
        options = known(variants, name)
        scores = [vqa_accuracy(r["prediction"], r["answers"], **options) for r in golden["records"]]
        result["expected"][name] = {
            "overall": _rounded_mean(scores),
            "per_question": {str(r["question_id"]): round(100 * s, 2) for r, s in zip(golden["records"], scores)},
            **{
                f"per_{field}": {
                    kind: _rounded_mean([s for r, s in zip(golden["records"], scores) if r[field] == kind])
                    for kind in {r[field] for r in golden["records"]}
                }
                for field in ("answer_type", "question_type")
                if f"per_{field}" in golden["expected"][name]
            },
        }
    if "normalised" in golden:
        result["normalised"] = {
            text: {step: known(steps, step)(text) for step in forms} for text, forms in golden["normalised"].items()
        }
    return result


def anls_kind(golden: Json) -> Json:
    threshold = golden.get("threshold", 0.5)
    scores = {
        str(r["questionId"]): anls(r["prediction"], r["answers"], threshold=threshold, as_original=True)
        for r in golden["records"]
    }
    return {"expected": {"anls": _mean(scores.values()), "per_question": scores}}


def relaxed_accuracy_kind(golden: Json) -> Json:
    result: dict[str, Json] = {}
    for name in golden["expected"]:
        as_original = known({"qwen_vl": True, "published_definition": False}, name)
        hits = [
            bool(relaxed_accuracy(r["prediction"], _answers(r), as_original=as_original)) for r in golden["records"]
        ]
        mean = {"relaxed_accuracy": _mean(hits)} if as_original else {"relaxed_accuracy_percent": 100 * _mean(hits)}
        result[name] = {**mean, "per_record": hits}
    return {"expected": result}


def exact_match_kind(golden: Json) -> Json:
    scores = [exact_match(r["prediction"], _answers(r)) for r in golden["records"]]
    return {"expected": {"accuracy": _mean(scores), "per_record": scores}}


def gqa_kind(golden: Json) -> Json:
    records = golden["records"]
    processed = [shorten(r["prediction"], as_original=True) for r in records]
    hits = [exact_match(given, [r["answer"]]) for given, r in zip(processed, records)]
    questions = {r["questionId"]: r for r in records}
    given = {
        "official_on_raw_predictions": [r["prediction"] for r in records],
        "official_on_processed_predictions": processed,
    }
    result: dict[str, Json] = {}
    for name in golden["expected"]:
        if name == "qwen_vl":
            result[name] = {"accuracy": _mean(hits), "processed": processed, "per_record": hits}
        else:
            result[name] = official_measures(questions, dict(zip(questions, known(given, name))))
    return {"expected": result}


def caption_kind(golden: Json) -> Json:
    records = {str(r["image_id"]): r for r in golden["records"]}
    images = [str(image) for image in golden["expected"].get("order", records)]
    texts = {("references", image): records[image]["references"] for image in images}
    texts |= {("predictions", image): [records[image]["prediction"]] for image in images}
    tokens = tokenize_by_image(texts)
    references = {image: tokens["references", image] for image in images}
    predictions = {image: tokens["predictions", image] for image in images}
    with_meteor = "METEOR" in golden["expected"] and caption_tokens.has_java()
    scores = score_tokens(references, predictions, with_meteor=with_meteor)
    result = {
        "order": golden["expected"].get("order"),
        "tokenized_references": references,
        "tokenized_predictions": {image: text for image, [text] in predictions.items()},
        **{f"Bleu_{n}": value for n, value in enumerate(scores.bleu, start=1)},
        "ROUGE_L": scores.rouge_l,
        "ROUGE_L_per_image": list(scores.rouge_l_per_image.values()),
        "CIDEr": scores.cider,
        "CIDEr_per_image": list(scores.cider_per_image.values()),
        "METEOR": scores.meteor,
        "METEOR_per_image": list(scores.meteor_per_image.values()),
    }
    if not caption_tokens.has_java():  # what cannot be computed is not compared
        for name in ("METEOR", "METEOR_per_image"):
            golden["expected"].pop(name, None)
    return {"expected": _only_asked(result, golden["expected"])}


def caption_tokens_kind(golden: Json) -> Json:
    tokens = caption_tokens.tokenize([r["text"] for r in golden["records"]])
    return {"records": [{"text": r["text"], "tokens": found} for r, found in zip(golden["records"], tokens)]}


def grounding_kind(golden: Json) -> Json:
    ious = [grounding_iou(r["answer"], r["bbox"], r["width"], r["height"], as_original=True) for r in golden["records"]]
    hits = [int(is_hit(iou)) for iou in ious]
    result = {
        "divisor": 999,
        "precision_at_1": _mean(hits),
        "correct": hits,
        "iou": [_none_if_nan(iou) for iou in ious],
    }
    return {"expected": _only_asked(result, golden["expected"])}


def grit_refexp_kind(golden: Json) -> Json:
    boxes = {p["example_id"]: p["bboxes"] for p in golden["predictions"]}
    hits = {s["example_id"]: refexp_hit(boxes.get(s["example_id"], []), s["gt_bbox"]) for s in golden["samples"]}
    return {"expected": {"per_sample": hits, "acc": refexp_partitions(golden["samples"], hits)}}


def choice_by_loss_kind(golden: Json) -> Json:
    losses, start = [], 0
    for count, lengths in zip(golden["chunk_sizes"], golden["target_lengths"]):
        rows = slice(start, start + count)
        losses.append(option_losses(np.array(golden["input_ids"][rows]), np.array(golden["logits"][rows]), lengths))
        start += count
    chosen = [choose(list(option)) for option in losses]
    hits = [int(given == right) for given, right in zip(chosen, golden["answers"])]
    mean_loss = [[float(loss) for loss in option] for option in losses]
    return {
        "expected": {"mean_loss": mean_loss, "prediction": chosen, "correct": hits, "accuracy": _mean(hits)},
    }


def scienceqa_groups_kind(golden: Json) -> Json:
    return {"expected": science_qa_groups(golden["problems"], golden["predictions"])}


def mme_kind(golden: Json) -> Json:
    scores, labels = {}, {}
    for category, lines in golden["records"].items():
        pairs = [[(line[2], line[3]) for line in lines[at : at + 2]] for at in range(0, len(lines), 2)]
        scores[category] = category_score(pairs)
        labels[category] = [parse_label(line[3]) for line in lines]
    result: dict[str, Json] = {}
    for part, categories in (("Perception", PERCEPTION), ("Cognition", COGNITION)):
        points = {name: scores[name].score for name in categories if name in scores}
        result[part] = {"total": sum(points.values()), "categories": points}
    result["detail"] = {
        name: {
            "acc": score.accuracy,
            "acc_plus": score.accuracy_plus,
            "other": score.undecided,
            "labels": labels[name],
        }
        for name, score in scores.items()
    }
    return {"expected": result}


def mmbench_kind(golden: Json) -> Json:
    chosen = {p["index"]: p["prediction"] for p in golden["predictions"]}
    first = next(iter(golden["expected"].get("converted", ())), {"image": ""})
    directory = first["image"].rsplit("/", 1)[0]
    converted = [convert_row(record, directory) for record in golden["records"]]
    rows = [
        Row(
            record["index"],
            row["choices"],
            row.get("answer"),
            chosen[record["index"]],
            ("Overall", record["category"], record["l2-category"]),
        )
        for record, row in zip(golden["records"], converted)
        if record["index"] in chosen
    ]
    strict, most = circular_strict(rows), majority(rows)
    groups = strict_by_category(rows, strict)
    result = {
        "circular_strict": {"correct": sum(strict.values()), "total": len(strict)},
        "majority_without_ties": {
            "correct": sum(most.values()),
            "total": len(most),
            "accuracy_percent": 100 * _mean(most.values()),
        },
        "strict_per_group": {name: _mean(hits) for name, hits in groups.items()},
        "converted": converted,
        "submission": {str(index): letter for index, letter in submission_letters(rows).items()},
    }
    return {"expected": _only_asked(result, golden["expected"])}


def seed_bench_kind(golden: Json) -> Json:
    given = {p["question_id"]: p["prediction"] for p in golden["predictions"]}
    hits = seed_hits((q["question_type_id"], given[q["question_id"]] == q["answer"]) for q in golden["questions"])
    percent = {name: 100 * _mean(part) for name, part in hits.items()}
    result: dict[str, Json] = {
        "expected": {
            "per_dimension_percent": {name: value for name, value in percent.items() if name.isdecimal()},
            "count": {name: len(part) for name, part in hits.items() if name.isdecimal()},
            **{name: value for name, value in percent.items() if not name.isdecimal()},
        }
    }
    if "frame_sampling" in golden:
        result["frame_sampling"] = [
            {**video, "offsets": sample_frames(video["num_frames"], video["num_segments"])}
            for video in golden["frame_sampling"]
        ]
    return result


def touchstone_kind(golden: Json) -> Json:
    rounds = [
        (
            record["category"],
            None
            if record[name]["reason"] == "error"
            else {record[name][f"model{n}"]: record[name][f"score{n}"] for n in (1, 2)},
        )
        for record in golden["records"]
        for name in ("round1", "round2")
    ]
    result: dict[str, Json] = {"expected": touchstone_scores(rounds)}
    if "replies" in golden:
        found = [parse_reply(reply["reply"], as_original=True) for reply in golden["replies"]]
        result["replies"] = [
            {"reply": reply["reply"], "scores": scores and list(scores)}
            for reply, scores in zip(golden["replies"], found)
        ]
    return result


def sharding_kind(golden: Json) -> Json:
    records = []
    for record in golden["records"]:
        total, processes, batch = (record[name] for name in ("total", "world_size", "batch_size"))
        kept = len(indices_in_whole_batches(total, processes, batch))
        ranges = [span and list(span) for span in original_ranges(total, processes)]
        found = {"ranges": ranges, "evaluated_with_drop_last": kept, "dropped": total - kept}
        records.append({**record, **_only_asked(found, record, ignored=("total", "world_size", "batch_size"))})
    return {"records": records}


KINDS: dict[str, tuple[Kind, float]] = {
    "anls": (anls_kind, TOLERANCE),
    "caption": (caption_kind, TOLERANCE),
    "caption_tokens": (caption_tokens_kind, TOLERANCE),
    "choice_by_loss": (choice_by_loss_kind, 2e-5),  # float32
    "exact_match": (exact_match_kind, TOLERANCE),
    "gqa": (gqa_kind, TOLERANCE),
    "grit_refexp": (grit_refexp_kind, TOLERANCE),
    "grounding": (grounding_kind, 2e-6),  # float32
    "mmbench": (mmbench_kind, TOLERANCE),
    "mme": (mme_kind, TOLERANCE),
    "prompts": (prompts_kind, TOLERANCE),
    "relaxed_accuracy": (relaxed_accuracy_kind, TOLERANCE),
    "scienceqa_groups": (scienceqa_groups_kind, TOLERANCE),
    "seed_bench": (seed_bench_kind, TOLERANCE),
    "sharding": (sharding_kind, TOLERANCE),
    "touchstone": (touchstone_kind, TOLERANCE),
    "vqa_accuracy": (vqa_accuracy_kind, TOLERANCE),
}
"""Kind -> what computes it, and how far numbers may be apart."""

NEEDS_JAVA = ("caption", "caption_tokens")


# ---------------------------------------------------------------- small things


def _only_asked(found: dict[str, Json], expected: Json, ignored: tuple[str, ...] = ()) -> dict[str, Json]:
    """What was computed and is expected; what is expected and was not computed is a difference."""
    unknown = set(expected) - set(found) - set(ignored)
    if unknown:
        raise UnknownKindError(f"expects {sorted(unknown)}, which is not checked")
    return {name: value for name, value in found.items() if name in expected}


def _answers(record: Json) -> list[str]:
    return [record["answer"]] if isinstance(record["answer"], str) else record["answer"]


def _mean(values: Any) -> float:
    values = list(values)
    return sum(values) / len(values)


def _rounded_mean(scores: list[float]) -> float:
    return round(100 * sum(scores) / len(scores), 2)  # in this order, as the evaluators do


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
