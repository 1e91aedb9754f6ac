"""Files of conversations to records: what training, calibration and evaluation read."""

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
    """A conversation to learn from.

    Attributes:
        location: where it stands.
        messages: normalized (:func:`~..models.qwen_vl.messages.normalize_messages`); images are absolute paths, data
            URLs or addresses.
        labeled: whether the texts hold the ``Image N: `` of their images already, as those of the original do.
        digest: of the conversation as it stands in the file, 16 hexadecimal digits; the same wherever it stands.
        fields: what the file calls the content of each message.
        clamped: boxes in which a coordinate of 1000 became 999.
    """

    location: RecordLocation
    messages: list[Message]
    labeled: bool
    digest: str
    fields: tuple[str, ...]
    clamped: int = 0

    @property
    def images(self) -> list[str]:
        """The images, in order of appearance."""
        return message_images(self.messages)


class RecordFile(NamedTuple):
    """The well-formed records of a file, what is wrong with the others, and how many these are."""

    records: list[Record]
    problems: list[Problem]
    malformed: int


def read_records(
    path: str | os.PathLike[str],
    boxes: BoxOptions = AS_WRITTEN,
    policy: ImagePolicy | None = None,
    exif_transpose: bool = False,
) -> list[Record]:
    """The records of a file that has to be free of faults.

    The file is a JSON list, or JSON lines. An entry is a list of messages, ``{"messages": [...]}``, or a record of the
    original, ``{"conversations": [{"from", "value"}]}``, in which images are ``<img>path</img>`` with their labels;
    or it has a form of LLaVA, ms-swift or LLaMA-Factory, see :mod:`.formats`. Paths of images are relative to the
    file.

    Args:
        boxes: how boxes are written.
        policy: which images may be opened for their size, where boxes are in pixels; by default files and public
            addresses.
        exif_transpose: whether images are turned upright by their EXIF orientation: pixels then count in the upright
            image.

    Raises:
        ConfigurationError: a file that cannot be read, or holds nothing.
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
    """As :func:`read_records`, but with malformed records as problems.

    Raises:
        ConfigurationError: a file that cannot be read, or holds nothing.
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
    canonical = json.dumps(read.said, ensure_ascii=True, sort_keys=True)
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:16]
    for message in read.messages:
        for part in message["content"]:
            if part["type"] == "image":
                part["image"] = _resolved(part["image"], folder)
    return Record(location, read.messages, read.labeled, digest, tuple(read.fields), read.clamped)


def _resolved(source: str, folder: Path) -> str:
    return os.path.normpath(folder / expand_home(source)) if is_file_name(source) else source


def _sizes_of(folder: Path, policy: ImagePolicy, exif_transpose: bool) -> Callable[[str], tuple[int, int]]:
    """Sizes of the images that a file in ``folder`` names; several records in a row are often about the same one."""
    return lru_cache(maxsize=256)(lambda source: image_size(_resolved(source, folder), policy, exif_transpose))
