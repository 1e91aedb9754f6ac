"""Captions: NoCaps and Flickr30K."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from ...errors import EvaluationError
from ..data.files import image_ref, read_list, unique
from ..metrics.caption import caption_scores
from ..prompts import caption_prompt, few_shot_prompt
from ..records import Answer, Question, Score
from ..sampling import Shots
from ..statistics import bootstrap_interval
from .base import Benchmark, Compat, Generation, Split, refuse_shots


def read_captions(name: str, data_dir: Path, split: Split, shots: Shots | None) -> list[Question]:
    """One question for each image of a COCO-style file, with all its captions as references."""
    path = data_dir / split.files[0]
    references: dict[str, list[str]] = defaultdict(list)
    for record in read_list(path, "annotations"):
        references[record.id("image_id")].append(record.text("caption"))
    images = read_list(path, "images")
    ids = unique(lambda record: record.id("id"), images, "image id")
    strangers = references.keys() - set(ids)
    if strangers:
        raise EvaluationError(f"{path}: annotations: image_id {min(strangers)!r} is not among the images")
    if not split.train:
        refuse_shots(name, shots)
    # The original draws from the very file that it asks about.
    train = split.files[0] if shots is not None and shots.as_original else split.train
    examples = [] if shots is None else read_list(data_dir / train, "annotations")
    example_images = [example.text("image") for example in examples]
    questions = []
    for id_, record in zip(ids, images):
        if id_ not in references:
            raise EvaluationError(f"{record.where}: image {id_} has no caption in {path.name}")
        image = record.text("image")
        prompt = caption_prompt(image_ref(data_dir, image))
        if shots is not None:
            drawn = shots.draw(examples, example_images, id_, image)
            shown = [
                (caption_prompt(image_ref(data_dir, example.text("image"))), example.text("caption"))
                for example in drawn
            ]
            prompt = few_shot_prompt(shown, prompt)
        metadata = {"image_id": record.values["id"], "image": image}
        questions.append(Question(id_, name, split.name, prompt, tuple(references[id_]), metadata=metadata))
    return questions


def score_captions(questions: Sequence[Question], answers: Mapping[str, Answer], compat: Compat) -> Score:
    """CIDEr times 100, the others beside it; the original computes the same."""
    scores = caption_scores(
        {question.id: question.references for question in questions},
        {question.id: answers[question.id].text for question in questions},
    )
    others = {f"BLEU-{n}": 100 * value for n, value in enumerate(scores.bleu, start=1)}
    others["ROUGE-L"] = 100 * scores.rouge_l
    notes = ["CIDEr depends on the whole set of references: a part of it gives another score."]
    if scores.meteor is not None:
        others["METEOR"] = 100 * scores.meteor
    if scores.meteor_failure:
        notes.append(f"METEOR is left out, as its program failed: {scores.meteor_failure}.")
    if scores.is_approximate:
        notes.append("Approximate tokens: there is no Java here for the tokenizer that the metric is defined with.")
    per_image = [100 * value for value in scores.cider_per_image.values()]
    return Score(
        "CIDEr",
        100 * scores.cider,
        "points",
        len(questions),
        bootstrap_interval(per_image),
        per_question=dict(scores.cider_per_image),
        others=others,
        notes=tuple(notes),
    )


def _benchmark(name: str, title: str, split: Split) -> Benchmark:
    return Benchmark(
        name,
        title,
        {split.name: split},
        Generation(8, 30),
        "CIDEr",
        partial(read_captions, name),
        score_captions,
        allows_samples=False,
        needs=("pycocoevalcap", "nltk"),
    )


NOCAPS = _benchmark(
    "nocaps",
    "NoCaps",
    Split("val", ("nocaps/nocaps_val.json",), 4_500, 4_500, published={"Qwen-VL": 121.4, "Qwen-VL-Chat": 120.2}),
)
FLICKR30K = _benchmark(
    "flickr30k",
    "Flickr30K",
    Split(
        "test",
        ("flickr30k/flickr30k_karpathy_test.json",),
        1_000,
        1_000,
        train="flickr30k/flickr30k_karpathy_train.json",
        published={"Qwen-VL": 85.8, "Qwen-VL-Chat": 81.0},
    ),
)

BENCHMARKS = (NOCAPS, FLICKR30K)
