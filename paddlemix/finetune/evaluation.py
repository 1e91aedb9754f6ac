"""Evaluation on held-out records: their loss, and how the model answers the questions in them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import paddle
import paddle.distributed as dist
from paddlenlp.generation import GenerationConfig

from ..data.collation import Collator, ExampleBatch
from ..data.encoding import DROP_TURNS, Example, encode
from ..data.records import Record
from ..engine.detokenizer import answer_text
from ..engine.stopping import answer_end_ids
from ..media import ImagePolicy
from ..media.saving import save_image
from ..models.qwen_vl.chat_template import RenderedPrompt, render_chatml
from ..models.qwen_vl.messages import Message, message_images
from .monitoring.samples import draw_sample
from .monitoring.scoring import Score, score
from .processes import wait_for_all

if TYPE_CHECKING:
    from ..models.qwen_vl.image_processing import QwenVLImageProcessor
    from ..models.qwen_vl.modeling import QWenLMHeadModel
    from ..models.qwen_vl.processing import QwenVLProcessor
    from .model import FinetuneModel

DRAWN_SAMPLES = 8
"""Most images of one evaluation."""


@dataclass(frozen=True)
class Question:
    """A turn of a record: what was said up to the question, and the answer that the record gives."""

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
    answered: int = 0,
    samples_dir: Path | None = None,
    step: int = 0,
    lockstep: bool = False,
    policy: ImagePolicy | None = None,
    report: Callable[[str], None] = lambda activity: None,
) -> dict[str, float]:
    """Evaluate a model in the middle of its training, which goes on as if nothing had been.

    All processes of a distributed training call this at the same step. They share the work and get the same result;
    the first one draws.

    Args:
        model: its layers' modes are the same afterwards; nothing random is drawn.
        records: held-out ones, all of whose answers count for the loss.
        batch_size: rows of one forward pass.
        max_length, truncation: as in training; turns left out there are not asked here.
        answered: so many records, evenly over all, have their questions answered greedily, with the true earlier turns
            as history.
        samples_dir: where ``step-N-K.png`` are drawn, at most :data:`DRAWN_SAMPLES` of them; None: nowhere.
        lockstep: a forward pass needs all processes (sharding stage 3), so each of them does all the work.
        policy: which images may be read; by default files and public addresses.
        report: told in a few words what is being done.

    Returns:
        ``eval_loss``, the mean over all tokens learned from; ``eval_iou_accuracy``, the part of the expected boxes that
        were found at IoU 0.5; ``eval_exact_answers``, the part of the answers without boxes that were exactly right.
        The last two are missing where nothing of the kind was asked.

    Raises:
        ImageError: an image cannot be read.
        RecordTooLongError: a record cannot be used with this ``max_length``.
    """
    policy = policy if policy is not None else ImagePolicy.scripts()
    examples = [encode(record, processor.tokenizer, max_length, truncation) for record in records]
    questions = _questions(records, examples, answered)
    rank, processes = (0, 1) if lockstep else (dist.get_rank(), dist.get_world_size())
    batches = _by_length(examples, list(map(len, examples)), batch_size)[rank::processes]
    own = questions[rank::processes]
    with _evaluating(model):
        loss, targets = _loss(model, batches, Collator.of(processor, policy), report)
        answers = _answers(model.model, processor, own, batch_size, policy, report)
    scores = [score(question.expected, answer) for question, answer in zip(own, answers)]
    if samples_dir is not None and dist.get_rank() == 0:
        _draw(own, answers, scores, samples_dir, step, processor.image_processor, policy)
    totals = [loss, targets, *astuple(sum(scores, Score()))]
    if processes > 1:
        wait_for_all()  # answers take longer in one process than in another
        sums = paddle.to_tensor(np.asarray(totals, np.float64))
        dist.all_reduce(sums)
        totals = sums.tolist()
    loss, targets, boxes, found, plain, exact = totals
    ratios = {
        "eval_loss": (loss, targets),
        "eval_iou_accuracy": (found, boxes),
        "eval_exact_answers": (exact, plain),
    }
    return {name: part / whole for name, (part, whole) in ratios.items() if whole}


@contextlib.contextmanager
def _evaluating(model: paddle.nn.Layer) -> Iterator[None]:
    """Evaluation mode and no gradients; afterwards every layer is in the mode it was in."""
    layers = model.sublayers(include_self=True)
    modes = [layer.training for layer in layers]
    model.eval()
    try:
        with paddle.no_grad():
            yield
    finally:
        for layer, mode in zip(layers, modes):
            layer.training = mode


def _by_length(items: Sequence, lengths: Sequence[int], batch_size: int) -> list[list]:
    """Batches of items of similar length, the longest first: if memory does not suffice, that shows at once."""
    order = sorted(range(len(items)), key=lambda index: -lengths[index])
    return [[items[index] for index in order[at : at + batch_size]] for at in range(0, len(order), batch_size)]


# ---------------------------------------------------------------- loss


def _loss(
    model: FinetuneModel, batches: Sequence[Sequence[Example]], collator: Collator, report: Callable[[str], None]
) -> tuple[float, int]:
    """Sum of the losses of all tokens learned from, and their number."""
    total, targets = 0.0, 0
    for number, batch in enumerate(batches, start=1):
        report(f"evaluating the loss, {number}/{len(batches)}")
        arrays = collator(ExampleBatch(tuple((example,) for example in batch), (), target_count=1.0))
        names = ("input_ids", "labels", "images", "target_count")
        inputs = {name: paddle.to_tensor(arrays[name]) for name in names if name in arrays}
        total += float(model(**inputs)["loss"])
        targets += sum(example.targets for example in batch)
    return total, targets


# ---------------------------------------------------------------- answers


def _questions(records: Sequence[Record], examples: Sequence[Example], answered: int) -> list[Question]:
    """The questions of ``answered`` records, evenly over all of them, that their examples still hold."""
    count = min(answered, len(records))
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
    report: Callable[[str], None],
) -> list[str]:
    """The model's greedy answers, in the order of the questions."""
    prompts = [
        render_chatml(
            processor.tokenizer, question.messages, trusted_tags=True, image_labels=not question.record.labeled
        )
        for question in questions
    ]
    answers = [""] * len(questions)
    batches = _by_length(range(len(questions)), [len(prompt.input_ids) for prompt in prompts], batch_size)
    for number, batch in enumerate(batches, start=1):
        report(f"answering, {number}/{len(batches)}")
        # What takes more than twice as many tokens as the right answer will not be right.
        longest = max(len(processor.tokenizer.encode(questions[index].expected)) for index in batch)
        texts = _generate(model, processor, [prompts[index] for index in batch], 2 * longest + 16, policy)
        for index, text in zip(batch, texts):
            answers[index] = text
    return answers


def _generate(
    model: QWenLMHeadModel,
    processor: QwenVLProcessor,
    prompts: Sequence[RenderedPrompt],
    max_new_tokens: int,
    policy: ImagePolicy,
) -> list[str]:
    tokenizer = processor.tokenizer
    features = [{"input_ids": p.input_ids, "attention_mask": [1] * len(p.input_ids)} for p in prompts]
    columns = tokenizer.pad(features, padding_side="left", return_tensors="pd")
    sources = [source for prompt in prompts for source in prompt.images]
    images = paddle.to_tensor(processor.image_processor.without_notes()(sources, policy)) if sources else None
    end_ids = answer_end_ids((), tokenizer)
    # Not the model's own settings, which may sample.
    config = GenerationConfig(max_new_tokens=max_new_tokens, eos_token_id=list(end_ids), pad_token_id=tokenizer.eod_id)
    ids, _ = model.generate(**columns, images=images, generation_config=config, tokenizer=tokenizer)
    return [answer_text(tokenizer, row, end_ids) for row in ids.numpy().tolist()]


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
    """Draw the first questions that have an image, one of each record: with boxes if it has such a question."""
    chosen: dict[int, int] = {}
    for index, question in enumerate(questions):
        first = chosen.setdefault(id(question.record), index)
        if scores[index].boxes and not scores[first].boxes:
            chosen[id(question.record)] = index
    with_image = [index for index in chosen.values() if message_images(questions[index].messages)]
    for number, index in enumerate(with_image[:DRAWN_SAMPLES], start=1):
        question = questions[index]
        # Boxes are places in the newest image.
        image = image_processor.without_notes().load(message_images(question.messages)[-1], policy)
        text = "".join(part["text"] for part in question.messages[-1]["content"] if part["type"] == "text")
        place = question.record.location
        title = f"step {step} · {Path(place.path).name}:{place.line} · {_verdict(scores[index])}"
        sample = draw_sample(image, title, text, question.expected, answers[index])
        save_image(sample, folder / f"step-{step}-{number}.png")


def _verdict(result: Score) -> str:
    if result.boxes:
        return f"{result.found} of {result.boxes} box{'es' if result.boxes > 1 else ''} found"
    return "exactly right" if result.exact else "not the expected words"
