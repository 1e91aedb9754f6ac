"""Conversation files to records, for training, evaluation and calibration."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ..errors import RecordError
from ..media import ImagePolicy
from ..media.sources import expand_home
from ..models.qwen_vl.messages import Message, message_images
from .boxes import AS_WRITTEN, BoxOptions, BoxReader
from .formats import read_conversation
from .formats.common import Conversation
from .images import image_size, is_file_name
from .json_values import read_entries
from .problems import Problem, RecordLocation


@dataclass(frozen=True)
class Record:
    """A conversation.

    Attributes:
        location: of the record in its file.
        messages: normalized (:func:`~..models.qwen_vl.messages.normalize_messages`); images are absolute paths,
            URLs or data URLs.
        labeled: whether the texts contain the ``Picture N: `` labels of their images, as in the original's format.
        content_hash: of the conversation as the file has it, 16 hexadecimal digits; independent of its location.
        fields: the file's name for the content of each message.
        clamped: number of boxes in which a coordinate of 1000 was clamped to 999.
    """

    location: RecordLocation
    messages: list[Message]
    labeled: bool
    content_hash: str
    fields: tuple[str, ...]
    clamped: int = 0

    @property
    def images(self) -> list[str]:
        """Sources of the images, in order of appearance."""
        return message_images(self.messages)


class RecordFile(NamedTuple):
    """The content of a file.

    Attributes:
        records: the well-formed ones.
        problems: of the others.
        malformed: the number of others.
    """

    records: list[Record]
    problems: list[Problem]
    malformed: int


def read_records(
    path: str | os.PathLike[str],
    boxes: BoxOptions = AS_WRITTEN,
    policy: ImagePolicy | None = None,
    exif_transpose: bool = False,
) -> list[Record]:
    """Read a file in which every record must be well-formed.

    The file is a JSON list or JSON Lines. An entry is a list of messages, ``{"messages": [...]}``, or a record of the
    original, ``{"conversations": [{"from", "value"}]}``, in which images are ``<img>path</img>`` with their labels;
    or it has a format of LLaVA, ms-swift or LLaMA-Factory, see :mod:`.formats`. Image paths are relative to the file.

    Args:
        path: of the file.
        boxes: coordinate format of the boxes.
        policy: which images may be opened for their size, if boxes are in pixels; by default files and public URLs.
        exif_transpose: whether the EXIF orientation is applied to images, so that pixels count in the upright image.

    Raises:
        ConfigurationError: a file that cannot be read, or is empty.
        RecordError: a malformed record, with its line.
    """
    records, problems, _ = read_record_file(path, boxes, policy, exif_transpose)
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise RecordError(f"{problems[0]}{more}")
    return records


def read_record_file(
    path: str | os.PathLike[str],
    boxes: BoxOptions = AS_WRITTEN,
    policy: ImagePolicy | None = None,
    exif_transpose: bool = False,
) -> RecordFile:
    """Read a file, with malformed records as problems; see :func:`read_records`.

    Args:
        path: of the file.
        boxes: as there.
        policy: as there.
        exif_transpose: as there.

    Raises:
        ConfigurationError: a file that cannot be read, or is empty.
    """
    folder = Path(path).absolute().parent
    policy = policy if policy is not None else ImagePolicy.scripts()
    reader = BoxReader(boxes, _sizes_of(folder, policy, exif_transpose))
    records: list[Record] = []
    problems: list[Problem] = []
    malformed = 0
    for entry in read_entries(path):
        read = [entry] if isinstance(entry, Problem) else read_conversation(entry.value, reader)
        if isinstance(read, Conversation):
            records.append(_record(entry.location, read, folder))
            continue
        malformed += 1
        problems += [fault if isinstance(fault, Problem) else Problem(entry.location, *fault) for fault in read]
    return RecordFile(records, problems, malformed)


def _record(location: RecordLocation, read: Conversation, folder: Path) -> Record:
    canonical = json.dumps(read.hashed, ensure_ascii=True, sort_keys=True)
    content_hash = hashlib.sha256(canonical.encode()).hexdigest()[:16]
    for message in read.messages:
        for part in message["content"]:
            if part["type"] == "image":
                part["image"] = _resolved(part["image"], folder)
    return Record(location, read.messages, read.labeled, content_hash, tuple(read.fields), read.clamped)


def _resolved(source: str, folder: Path) -> str:
    return os.path.normpath(folder / expand_home(source)) if is_file_name(source) else source


def _sizes_of(folder: Path, policy: ImagePolicy, exif_transpose: bool) -> Callable[[str], tuple[int, int]]:
    """Image sizes by source, cached: consecutive records are often about the same image."""
    return lru_cache(maxsize=256)(lambda source: image_size(_resolved(source, folder), policy, exif_transpose))
