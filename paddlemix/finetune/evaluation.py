"""Evaluation on the eval split: its loss, and the accuracy of generated answers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import paddle
import paddle.distributed as dist

from ..data.collation import Collator, ExampleBatch
from ..data.encoding import DROP_TURNS, Example, encode
from ..data.records import Record
from ..engine.local import answer_requests
from ..engine.request import Decoding, ImageInput, Request, SamplingParams
from ..engine.stopping import answer_end_ids
from ..media import ImagePolicy
from ..media.saving import save_image
from ..models.qwen_vl.chat_template import render_chatml
from ..models.qwen_vl.image_placeholders import PlaceholderFormat
from ..models.qwen_vl.image_processing import source_key
from ..models.qwen_vl.messages import Message, message_images
from ..models.qwen_vl.runner import local_engine
from ..parallel.processes import wait_for_everyone
from .monitoring.samples import draw_sample
from .monitoring.scoring import Score, score

if TYPE_CHECKING:
    from ..models.qwen_vl.image_processing import QwenVLImageProcessor
    from ..models.qwen_vl.modeling import QWenLMHeadModel
    from ..models.qwen_vl.processing import QwenVLProcessor
    from .model import FinetuneModel

_T = TypeVar("_T")

MAX_SAMPLES = 8
"""Maximum number of sample images per evaluation."""


@dataclass(frozen=True)
class Question:
    """A supervised turn of a record.

    Attributes:
        record: the record.
        messages: the conversation up to the question.
        expected: the record's answer.
    """

    record: Record
    messages: list[Message]
    expected: str


def evaluate(
    model: FinetuneModel,
    processor: QwenVLProcessor,
    records: Sequence[Record],
    *,
    batch_size: int,
    max_length: int,
    truncation: str = DROP_TURNS,
    num_answered: int = 0,
    samples_dir: Path | None = None,
    step: int = 0,
    share: tuple[int, int] = (0, 1),
    policy: ImagePolicy | None = None,
    on_progress: Callable[[str], None] = lambda status: None,
) -> dict[str, float]:
    """Evaluate a model during its training, without effect on the training.

    All processes of a distributed training call this at the same step. They share the work and get the same result;
    the main process draws the samples.

    Args:
        model: the model; the training modes of its layers are restored.
        processor: of the model.
        records: the eval split; all answers count for the loss.
        batch_size: conversations or prompts per forward pass.
        max_length: maximum length in tokens, as in training.
        truncation: as in training; turns left out there are not asked here.
        num_answered: number of records, spread evenly, whose questions are answered by greedy decoding, with the
            record's earlier turns as history.
        samples_dir: directory of ``step-N-K.png``, at most :data:`MAX_SAMPLES` of them; None: nothing is drawn.
        step: of the training, for the names of the samples.
        share: which part of the work this process does, of how many; those that do the same share a model.
        policy: which images may be read; by default files and public URLs.
        on_progress: called with a short status.

    Returns:
        ``eval_loss``, the mean over all target tokens; ``eval_iou_accuracy``, the recall of the expected boxes at IoU
        0.5; ``eval_exact_answers``, the exact-match accuracy of answers without boxes. The last two are absent where
        there is nothing of the kind.

    Raises:
        ImageError: an image cannot be read.
        RecordTooLongError: a record cannot be used with this ``max_length``.
    """
    policy = policy if policy is not None else ImagePolicy.scripts()
    examples = [encode(record, processor.tokenizer, max_length, truncation) for record in records]
    questions = _questions(records, examples, num_answered)
    part, parts = share
    batches = _by_length(examples, list(map(len, examples)), batch_size)[part::parts]
    own = questions[part::parts]
    with _evaluating(model):
        total_loss, num_targets = _loss(model, batches, Collator.of(processor, policy), on_progress)
        answers = _answers(model.model, processor, own, batch_size, policy, on_progress)
    scores = [score(question.expected, answer) for question, answer in zip(own, answers)]
    if samples_dir is not None and dist.get_rank() == 0:
        _draw(own, answers, scores, samples_dir, step, processor.image_processor, policy)
    totals: list[float] = [total_loss, num_targets, *astuple(sum(scores, Score()))]
    if dist.get_world_size() > 1:
        wait_for_everyone()  # answers take longer in one process than in another
        sums = paddle.to_tensor(np.asarray(totals, np.float64))
        dist.all_reduce(sums)
        totals = [float(value) for value in sums.numpy()]
    loss, targets, boxes, found, plain, exact = totals
    ratios = {
        "eval_loss": (loss, targets),
        "eval_iou_accuracy": (found, boxes),
        "eval_exact_answers": (exact, plain),
    }
    return {name: part / whole for name, (part, whole) in ratios.items() if whole}


@contextlib.contextmanager
def _evaluating(model: paddle.nn.Layer) -> Iterator[None]:
    """Evaluation mode without gradients; every layer's mode is restored."""
    layers = model.sublayers(include_self=True)
    modes = [layer.training for layer in layers]
    model.eval()
    try:
        with paddle.no_grad():
            yield
    finally:
        for layer, mode in zip(layers, modes):
            layer.training = mode


def _by_length(items: Sequence[_T], lengths: Sequence[int], batch_size: int) -> list[list[_T]]:
    """Batches of items of similar length, the longest first: if memory does not suffice, that shows at once."""
    order = sorted(range(len(items)), key=lambda index: -lengths[index])
    return [[items[index] for index in order[at : at + batch_size]] for at in range(0, len(order), batch_size)]


# ---------------------------------------------------------------- loss


def _loss(
    model: FinetuneModel, batches: Sequence[Sequence[Example]], collator: Collator, on_progress: Callable[[str], None]
) -> tuple[float, int]:
    """The summed loss of all target tokens, and their number."""
    total, targets = 0.0, 0
    for number, batch in enumerate(batches, start=1):
        on_progress(f"evaluating the loss, {number}/{len(batches)}")
        arrays = collator(ExampleBatch(tuple((example,) for example in batch), (), target_count=1.0))
        names = ("input_ids", "labels", "images", "target_count")
        inputs = {name: paddle.to_tensor(arrays[name]) for name in names if name in arrays}
        total += float(model(**inputs)["loss"])
        targets += sum(example.targets for example in batch)
    return total, targets


# ---------------------------------------------------------------- answers


def _questions(records: Sequence[Record], examples: Sequence[Example], num_answered: int) -> list[Question]:
    """The supervised turns of ``num_answered`` records, spread evenly, that their examples still hold."""
    count = min(num_answered, len(records))
    questions = []
    for index in (number * len(records) // count for number in range(count)):
        messages = records[index].messages
        ends = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
        for end in ends[: len(ends) - examples[index].dropped_turns]:
            expected = "".join(part["text"] for part in messages[end]["content"])
            questions.append(Question(records[index], messages[:end], expected))
    return questions


def _answers(
    model: QWenLMHeadModel,
    processor: QwenVLProcessor,
    questions: Sequence[Question],
    batch_size: int,
    policy: ImagePolicy,
    on_progress: Callable[[str], None],
) -> list[str]:
    """Answers by greedy decoding, in the order of the questions."""
    tokenizer = processor.tokenizer
    image_processor = processor.image_processor.without_notes()
    placeholder = PlaceholderFormat.of(model.config.visual)
    end_ids = answer_end_ids((), tokenizer)

    def pixels(source: Any) -> np.ndarray:
        prepared: np.ndarray = image_processor([source], policy)[0]
        return prepared

    def requests() -> Iterator[Request]:
        for index, question in enumerate(questions):
            prompt = render_chatml(
                tokenizer, question.messages, trusted_tags=True, image_labels=not question.record.labeled
            )
            # What takes more than twice as many tokens as the right answer will not be right.
            limit = 2 * len(tokenizer.encode(question.expected)) + 16
            images = [ImageInput(0, source_key(source), prepare=partial(pixels, source)) for source in prompt.images]
            yield Request(
                str(index),
                tuple(prompt.input_ids),
                placeholder.place(prompt.input_ids, images),
                SamplingParams(max_tokens=limit, stop_token_ids=end_ids),  # not the model's own, which may sample
                decoding=Decoding(errors=None),
            )

    engine = local_engine(model, tokenizer, feature_images=batch_size)
    answers = [""] * len(questions)
    answered = answer_requests(engine, requests(), batch_size, paddle.no_grad)
    for number, (index, answer) in enumerate(answered, start=1):
        on_progress(f"answering, {number}/{len(questions)}")
        answers[int(index)] = answer.text.strip()
    return answers


# ---------------------------------------------------------------- images


def _draw(
    questions: Sequence[Question],
    answers: Sequence[str],
    scores: Sequence[Score],
    folder: Path,
    step: int,
    image_processor: QwenVLImageProcessor,
    policy: ImagePolicy,
) -> None:
    """Draw the first questions with an image, one per record, preferring a question about boxes."""
    chosen: dict[int, int] = {}
    for index, question in enumerate(questions):
        first = chosen.setdefault(id(question.record), index)
        if scores[index].boxes and not scores[first].boxes:
            chosen[id(question.record)] = index
    with_image = [index for index in chosen.values() if message_images(questions[index].messages)]
    for number, index in enumerate(with_image[:MAX_SAMPLES], start=1):
        question = questions[index]
        # Boxes refer to the newest image.
        image = image_processor.without_notes().load(message_images(question.messages)[-1], policy)
        text = "".join(part["text"] for part in question.messages[-1]["content"] if part["type"] == "text")
        location = question.record.location
        title = f"step {step} · {Path(location.path).name}:{location.line} · {_verdict(scores[index])}"
        sample = draw_sample(image, title, text, question.expected, answers[index])
        save_image(sample, folder / f"step-{step}-{number}.png")


def _verdict(result: Score) -> str:
    if result.boxes:
        return f"{result.found} of {result.boxes} box{'es' if result.boxes > 1 else ''} found"
    return "exactly right" if result.exact else "not the expected words"
