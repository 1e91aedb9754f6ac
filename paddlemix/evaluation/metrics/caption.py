"""Caption metrics: CIDEr, BLEU, ROUGE-L and METEOR.

Source: pycocoevalcap's scorers, called one by one: its ``COCOEvalCap.evaluate()`` also runs SPICE, which downloads
models.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...utils.display import one_line
from .caption_tokens import caption_package, has_java, tokenize


@dataclass(frozen=True)
class CaptionScores:
    """Scores of captions, on the scorers' own scales (tables print CIDEr times 100).

    Attributes:
        cider: consensus with the references; depends on the whole set of them.
        cider_per_image: by image id.
        bleu: of one to four words.
        rouge_l: longest common subsequence.
        rouge_l_per_image: by image id.
        meteor: with stems and synonyms; None without Java.
        meteor_per_image: by image id; empty without Java.
        is_approximate: tokens are those of NLTK.
        meteor_failure: why METEOR, a program of its own, gave nothing; empty where it did or was not asked.
    """

    cider: float
    cider_per_image: Mapping[str, float]
    bleu: tuple[float, ...]
    rouge_l: float
    rouge_l_per_image: Mapping[str, float]
    meteor: float | None
    meteor_per_image: Mapping[str, float]
    is_approximate: bool
    meteor_failure: str = ""


def tokenize_by_image(captions: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Image id -> its captions as tokens; all are tokenized at once, as the tokenizer takes a second to start."""
    tokens = iter(tokenize([caption for texts in captions.values() for caption in texts]))
    return {image: [next(tokens) for _ in texts] for image, texts in captions.items()}


def caption_scores(
    references: Mapping[str, Sequence[str]], predictions: Mapping[str, str], *, with_meteor: bool = True
) -> CaptionScores:
    """Scores of one caption for each image.

    Args:
        references: image id -> accepted captions.
        predictions: image id -> caption, in the order in which images are scored.
        with_meteor: METEOR takes some seconds to start.

    Raises:
        MissingDependencyError: pycocoevalcap is not installed.
        EvaluationError: the tokenizer failed.
    """
    truth = {image: references[image] for image in predictions}
    return score_tokens(
        tokenize_by_image(truth),
        tokenize_by_image({image: [text] for image, text in predictions.items()}),
        with_meteor=with_meteor and has_java(),
        is_approximate=not has_java(),
    )


def score_tokens(
    references: Mapping[str, list[str]],
    predictions: Mapping[str, list[str]],
    *,
    with_meteor: bool,
    is_approximate: bool = False,
) -> CaptionScores:
    """As :func:`caption_scores`, of captions that are tokenized already; each prediction is a list of one."""
    cider, cider_per_image = _scorer("cider.cider", "Cider").compute_score(references, predictions)
    bleu, _ = _scorer("bleu.bleu", "Bleu").compute_score(references, predictions, verbose=0)
    rouge_l, rouge_per_image = _scorer("rouge.rouge", "Rouge").compute_score(references, predictions)
    meteor, meteor_per_image, failure = None, [], ""
    if with_meteor:
        try:
            meteor, meteor_per_image = _scorer("meteor.meteor", "Meteor").compute_score(references, predictions)
        except (OSError, ValueError) as error:  # its process wants 2 GB, and ends without them
            failure = one_line(error)
    images = list(predictions)
    return CaptionScores(
        float(cider), dict(zip(images, map(float, cider_per_image))), tuple(map(float, bleu)),
        float(rouge_l), dict(zip(images, map(float, rouge_per_image))),
        meteor, dict(zip(images, meteor_per_image)), is_approximate, failure,
    )  # fmt: skip


def _scorer(module: str, name: str) -> Any:
    caption_package()
    with contextlib.redirect_stdout(io.StringIO()):
        return getattr(importlib.import_module(f"pycocoevalcap.{module}"), name)()
