"""What golden files of prompts expect, made by the functions of ``prompts``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from paddlemix.evaluation import prompts
from paddlemix.evaluation.records import ImageRef, Prompt
from paddlemix.evaluation.sampling import Shots

Json = Any


class UnknownKindError(Exception):
    """A file that is not of a known kind, or expects what its kind does not have."""


def known(table: dict[str, Any], name: str) -> Any:
    if name not in table:
        raise UnknownKindError(f"expects {name!r}, which is not checked; known are: {', '.join(table)}")
    return table[name]


def prompts_kind(golden: Json) -> Json:
    makers: dict[str, Callable[[Json], Json]] = {
        "vqa_zero_shot": lambda golden: [
            {
                "question": prompts.render(_vqa(record)),
                "question_id": record["question_id"],
                "annotation": record.get("answer"),
            }
            for record in golden["vqa_records"]
        ],
        "vqa_few_shot": _vqa_few_shot,
        "caption_zero_shot": lambda golden: [
            {"image_id": image["id"], "input_text": prompts.render(_caption(image))}
            for image in golden["caption_file"]["images"]
        ],
        "caption_few_shot": _caption_few_shot,
        "grounding": lambda golden: [
            {
                "text": prompts.render(prompts.grounding_prompt(_image(record), record["sent"])),
                "bbox": record["bbox"],
                "hw": [record["height"], record["width"]],
            }
            for record in golden["grounding_records"]
        ],
        "multiple_choice": lambda golden: [
            {
                "prompt": prompts.render(
                    prompts.multiple_choice_prompt(
                        _image(record), record["hint"], record["question"], record["choices"]
                    )
                ),
                "candidates": list(prompts.option_texts(len(record["choices"]))),
                "answer": record["answer"],
            }
            for record in golden["multiple_choice_records"]
        ],
        "seed_image": lambda golden: [
            {
                "question_id": record["question_id"],
                "prompt": prompts.render(
                    prompts.seed_bench_prompt(
                        [ImageRef("", f"data/seed/{record['data_id']}")],
                        record["question"],
                        [record[f"choice_{letter}"] for letter in "abcd"],
                    )
                ),
                "answer": record["answer"],
            }
            for record in golden["seed_questions"]
        ],
    }
    return {"expected": {name: known(makers, name)(golden) for name in golden["expected"]}}


def _vqa_few_shot(golden: Json) -> Json:
    expected, train = golden["expected"]["vqa_few_shot"], golden["vqa_train"]
    shots = Shots(expected["shots"], expected["seed"], as_original=True)
    made = []
    for record in golden["vqa_records"]:
        drawn = shots.draw(train, [example["image"] for example in train], "", record["image"])
        examples = [(_vqa(example), prompts.example_answer(example, as_original=True)) for example in drawn]
        made.append(prompts.render(prompts.few_shot_prompt(examples, _vqa(record))))
    return {**expected, "prompts": made}


def _caption_few_shot(golden: Json) -> Json:
    expected, train = golden["expected"]["caption_few_shot"], golden["caption_file"]["annotations"]
    shots = Shots(expected["shots"], expected["seed"], as_original=True)
    made = []
    for image in golden["caption_file"]["images"]:
        drawn = shots.draw(train, [example["image"] for example in train], "", image["image"])
        examples = [(_caption(example), example["caption"]) for example in drawn]
        made.append(prompts.render(prompts.few_shot_prompt(examples, _caption(image))))
    return {**expected, "prompts": made}


def _image(record: Json) -> ImageRef:
    return ImageRef("", record["image"])


def _vqa(record: Json) -> Prompt:
    return prompts.vqa_prompt(_image(record), record["question"])


def _caption(record: Json) -> Prompt:
    return prompts.caption_prompt(_image(record))
