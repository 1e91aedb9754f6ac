"""Validation of every record before the first step: texts, tags and boxes, length, images."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..errors import ConfigurationError, RecordError, RecordTooLongError
from ..media import ImagePolicy
from ..media.sources import short
from ..models.qwen_vl.codec import QWenVLCodec
from ..models.qwen_vl.grounding import POINTS, SCALE, exact_points
from ..models.qwen_vl.messages import Message, message_images
from ..models.qwen_vl.processing import QwenVLProcessor
from ..models.qwen_vl.vocabulary import GROUNDING_TAGS, IMAGE_TAGS, SPECIAL_TOKENS
from .boxes import AS_WRITTEN, BoxOptions
from .encoding import DROP_TURNS, encode
from .images import DECODE, examine_images
from .problems import Problem, problem_table
from .records import Record, read_record_file
from .workers import parallel_map

REFUSE, SKIP = "refuse", "skip"

_TABLE_ROWS = 50
_NAMED_IMAGES = 5
_TAG = re.compile("|".join(map(re.escape, IMAGE_TAGS)))
_CONTROL = re.compile("|".join(re.escape(token) for token in SPECIAL_TOKENS if token not in IMAGE_TAGS))


@dataclass(frozen=True)
class CheckReport:
    """The result of validating files.

    Attributes:
        paths: the files.
        records: those without problems, file by file.
        sources: int64 ``[records]``, index of each record's file.
        lengths: int64 ``[records]``, tokens of each record after truncation.
        targets: int64 ``[records]``, target tokens of each.
        dropped_turns: int64 ``[records]``, turns of each that truncation drops.
        problems: in the order of files and lines.
        bad_records: number of records, or lines that are none, with problems.
        turned: images whose EXIF orientation is ignored, so that the model sees them rotated or mirrored.
    """

    paths: tuple[str, ...]
    records: list[Record]
    sources: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray
    dropped_turns: np.ndarray
    problems: list[Problem]
    bad_records: int
    turned: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The table of problems, if any, and a summary below."""
        table = [problem_table(self.problems, _TABLE_ROWS), ""] if self.problems else []
        return "\n".join([*table, self.summary()])

    def table(self) -> str:
        """The table of all problems."""
        return problem_table(self.problems)

    def summary(self) -> str:
        """One line of counts."""
        parts = [f"{len(self.records)} records in {len(self.paths)} file(s) are good, {self.bad_records} are not"]
        if self.records:
            images = len({image for record in self.records for image in record.images})
            parts.append(f"{images} images")
            parts.append(
                f"{self.lengths.sum()} tokens, {self.targets.sum()} of them loss targets, "
                f"{int(np.median(self.lengths))} in the median record, {self.lengths.max()} in the longest"
            )
        shortened = int((self.dropped_turns > 0).sum())
        if shortened:
            parts.append(
                f"{shortened} records exceed max_length and lose {self.dropped_turns.sum()} turns at their ends"
            )
        clamped = sum(record.clamped for record in self.records)
        if clamped:
            parts.append(f"1000 was clamped to 999 in {clamped} boxes")
        if self.turned:
            names = ", ".join([*map(short, self.turned[:_NAMED_IMAGES]), *["…"][: len(self.turned) - _NAMED_IMAGES]])
            parts.append(
                f"the EXIF orientation of {len(self.turned)} image(s) is ignored, so they may lie on their side "
                f"({names}); exif_transpose turns them upright"
            )
        return "; ".join(parts)

    def usable(self, bad_records: str = REFUSE) -> CheckReport:
        """This report, if its good records may be used.

        Args:
            bad_records: "refuse" or "skip".

        Raises:
            RecordError: there are problems, and ``bad_records`` is not "skip".
            ConfigurationError: a file has no good record.
        """
        if self.problems and bad_records != SKIP:
            raise RecordError(
                f"{self.problems[0]} (one of {len(self.problems)} problems in {self.bad_records} records); mend them, "
                "or set bad_records to skip; --check-only shows all"
            )
        for index, path in enumerate(self.paths):
            if not (self.sources == index).any():
                raise ConfigurationError(f"{path}: none of the records is usable; --check-only shows why")
        return self

    def select(self, chosen: np.ndarray) -> CheckReport:
        """The report of a subset, bool ``[records]``, of the good records, without the problems."""
        records = [record for record, wanted in zip(self.records, chosen) if wanted]
        sources, lengths, targets, dropped_turns = (
            array[chosen] for array in (self.sources, self.lengths, self.targets, self.dropped_turns)
        )
        return CheckReport(self.paths, records, sources, lengths, targets, dropped_turns, [], 0, self.turned)


def check_files(
    paths: Sequence[str | os.PathLike[str]],
    processor: QwenVLProcessor,
    *,
    max_length: int | None = None,
    truncation: str = DROP_TURNS,
    image_check: str = DECODE,
    workers: int = 0,
    policy: ImagePolicy | None = None,
    boxes: BoxOptions = AS_WRITTEN,
    on_start: Callable[[int], object] = lambda count: None,
) -> CheckReport:
    """Read conversation files and validate every record; see :func:`~.records.read_records` for their formats.

    Args:
        paths: of the files.
        processor: of the model.
        max_length: as in :func:`~.encoding.encode`.
        truncation: likewise.
        image_check: as in :func:`~.images.examine_images`.
        workers: number of worker processes; 0 validates in this one.
        policy: as in :func:`~.images.examine_images`.
        boxes: coordinate format of the boxes.
        on_start: called with the number of records before they are validated.

    Raises:
        ConfigurationError: a file that cannot be read, or that is given twice.
        NotEnoughMemoryError: a worker process was killed.
    """
    names = tuple(os.fspath(path) for path in paths)
    for index, path in enumerate(names):
        if os.path.realpath(path) in map(os.path.realpath, names[:index]):
            raise ConfigurationError(f"data: {path} is given twice; give it a weight of 2 instead")
    problems: list[Problem] = []
    records: list[Record] = []
    sources: list[int] = []
    bad_records = 0
    for source, path in enumerate(names):
        well_formed, found, count = read_record_file(path, boxes, policy, processor.image_processor.exif_transpose)
        problems += found
        bad_records += count
        records += well_formed
        sources += [source] * len(well_formed)
    on_start(len(records))
    images = examine_images(
        (image for record in records for image in record.images), image_check, workers=workers, policy=policy
    )
    examine = partial(
        _examine,
        tokenizer=processor.tokenizer,
        max_images=processor.max_images,
        max_length=max_length,
        truncation=truncation,
    )
    good: list[int] = []
    sizes: list[_Sizes] = []
    for index, (found, record_sizes) in enumerate(parallel_map(examine, records, workers)):
        found += _image_problems(records[index], images.unreadable)
        problems += found
        if not found and record_sizes is not None:
            good.append(index)
            sizes.append(record_sizes)
    order = {path: index for index, path in enumerate(names)}
    lengths, targets, dropped_turns = np.asarray(sizes, np.int64).reshape(-1, 3).T
    return CheckReport(
        names,
        [records[index] for index in good],
        np.asarray(sources, np.int64)[good],
        lengths,
        targets,
        dropped_turns,
        sorted(problems, key=lambda problem: (order[problem.location.path], problem.location.line)),
        bad_records + len(records) - len(good),
        () if processor.image_processor.exif_transpose else images.turned,
    )


_Sizes = tuple[int, int, int]
"""Tokens of a record, target tokens, dropped turns."""


def _examine(
    record: Record, tokenizer: QWenVLCodec, max_images: int, max_length: int | None, truncation: str
) -> tuple[list[Problem], _Sizes | None]:
    """The problems of a record, its images aside; its sizes if there are none."""
    problems = list(text_problems(record, max_images))
    if problems:
        return problems, None
    try:
        example = encode(record, tokenizer, max_length, truncation)
    except RecordTooLongError as error:
        return [error.args[0]], None
    return [], (len(example), example.targets, example.dropped_turns)


# ---------------------------------------------------------------- the faults of one record

_Fault = tuple[str, str]
"""What came, what was expected."""


def text_problems(record: Record, max_images: int) -> Iterator[Problem]:
    """Empty turns, wrong tags and boxes, control tokens, too many images."""
    if len(record.images) > max_images:
        yield Problem(record.location, "", f"{len(record.images)} images", f"at most {max_images}")
    for index, message in enumerate(record.messages):
        for came, expected in _message_faults(message, record.labeled):
            yield Problem(record.location, record.fields[index], came, expected)


def _image_problems(record: Record, unreadable: Mapping[str, str]) -> Iterator[Problem]:
    for index, message in enumerate(record.messages):
        for image in message_images([message]):
            if image in unreadable:
                yield Problem(record.location, record.fields[index], unreadable[image], "an image that can be read")


def _message_faults(message: Message, labeled: bool) -> Iterator[_Fault]:
    texts = [part["text"] for part in message["content"] if part["type"] == "text"]
    if message["role"] == "assistant" and not "".join(texts).strip():
        yield "an empty answer", "a text to train on"
    if message["role"] == "user" and not "".join(texts).strip() and not message_images([message]):
        yield "an empty question", "a text or an image"
    for text in texts:
        for match in _CONTROL.finditer(text):
            yield repr(match.group()), "text without control tokens"
        yield from _tag_faults(text, labeled)


def _tag_faults(text: str, labeled: bool) -> Iterator[_Fault]:
    """Tags that are unclosed, closed twice or nested, and invalid coordinates in box tags."""
    opened: re.Match[str] | None = None
    for match in _TAG.finditer(text):
        tag = match.group()
        if tag not in GROUNDING_TAGS:
            expected = "<img>path</img> in a user's value" if labeled else "images as parts of type 'image'"
            yield _excerpt(text, match.start()), expected
        elif not tag.startswith("</"):
            if opened is not None:
                yield _excerpt(text, opened.start()), f"{_closing(opened)} before {tag}"
            opened = match
        elif opened is None or _closing(opened) != tag:
            yield _excerpt(text, match.start() if opened is None else opened.start()), f"{tag} after its opening tag"
            opened = None
        else:
            yield from _coordinate_faults(opened.group(), text[opened.end() : match.start()])
            opened = None
    if opened is not None:
        yield _excerpt(text, opened.start()), f"{_closing(opened)} after it"


def _closing(opened: re.Match[str]) -> str:
    return "</" + opened.group()[1:]


def _excerpt(text: str, start: int) -> str:
    return repr(text[start : start + 32])


def _coordinate_faults(tag: str, content: str) -> Iterator[_Fault]:
    """The faults of the coordinates in ``<box>`` or ``<quad>``; none for another tag."""
    kind = tag.strip("<>")
    if kind not in POINTS:
        return
    points = exact_points(content, kind)
    if points is None:
        form = ",".join(f"(x{n},y{n})" for n in range(1, POINTS[kind] + 1))
        yield repr(tag + content[:40]), f"{form} in whole numbers, without spaces"
    elif not all(0 <= value < SCALE for point in points for value in point):
        hint = "; clamp_boxes makes 999 of 1000" if max(map(max, points)) == SCALE else ""
        yield repr(tag + content), "coordinates from 0 to 999" + hint
    elif tag == "<box>" and (points[1][0] < points[0][0] or points[1][1] < points[0][1]):
        yield repr(tag + content), "x1 <= x2 and y1 <= y2"
