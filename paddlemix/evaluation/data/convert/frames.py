"""Frames of videos, by an optional decoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ....errors import EvaluationError
from ....utils.dependencies import require
from ....utils.display import one_line
from ...metrics.seed_bench import sample_frames
from ..files import PREFIX, Record
from .images import inside

FRAMES = 4
"""Shown of each video; the published scores are with four."""
_SUFFIXES = (".webm", ".mp4", ".avi", ".mkv")
_RECOGNITION, _ACTION_PREDICTION = 10, 11


def write_frames(record: Record, source: Path, data_dir: Path) -> list[str]:
    """Write the frames that a question about a video shows; returns their names.

    Args:
        record: of the question, with ``data_id``, ``question_type_id`` and, where a part is shown, ``segment``.
        source: directory with the videos, in folders of any kind.
        data_dir: gets ``seed_bench/frames``.

    Raises:
        MissingDependencyError: PyAV is not installed.
        EvaluationError: the video is missing or cannot be decoded.
    """
    id_, data_id = record.id("question_id"), record.text("data_id")
    names = [f"seed_bench/frames/{id_}_{number}.png" for number in range(FRAMES)]
    if all((data_dir / name).exists() for name in names):
        return [PREFIX + name for name in names]
    path = find_video(source, data_id)
    if path is None:
        raise EvaluationError(f"{record.where}: video {data_id} is not below {source}")
    pictures = decode(path, record.index("question_type_id", 13), record.values.get("segment"))
    (data_dir / names[0]).parent.mkdir(parents=True, exist_ok=True)
    for name, picture in zip(names, pictures):
        picture.save(inside(data_dir, name))
    return [PREFIX + name for name, _ in zip(names, pictures)]


def find_video(source: Path, data_id: str) -> Path | None:
    """The video of an id below a directory: a file of that name, or with a video's suffix."""
    stem = Path(data_id).name
    tried = (source / data_id, *(source / f"{data_id}{suffix}" for suffix in _SUFFIXES))
    direct = next((path for path in tried if path.is_file()), None)
    deeper = (path for suffix in ("", *_SUFFIXES) for path in sorted(source.rglob(f"{stem}{suffix}")))
    return direct or next((path for path in deeper if path.is_file()), None)


def decode(path: Path, dimension: int, segment: Sequence[float] | None) -> list[Any]:
    """The frames of a video, or of its segment, as images.

    Raises as :func:`write_frames`.
    """
    av = require("av", "frames of SEED-Bench's videos")
    try:
        with av.open(str(path)) as container:
            rate = float(container.streams.video[0].average_rate or 1)
            length = sum(1 for _ in container.decode(video=0))
        first, count = span(length, rate, dimension, segment)
        if count < 1:
            raise EvaluationError(f"{path}: has {length} frames, none of them in segment {segment}")
        wanted = [min(first + index, length - 1) for index in sample_frames(count, FRAMES)]
        # Decoded again rather than kept: all frames of a film are some gigabytes.
        with av.open(str(path)) as container:
            kept = {n: frame.to_image() for n, frame in enumerate(container.decode(video=0)) if n in wanted}
    except EvaluationError:
        raise
    except (OSError, ValueError, IndexError) as error:  # PyAV's errors are kinds of these
        raise EvaluationError(f"{path} cannot be decoded: {one_line(error)}") from error
    return [kept[number] for number in wanted]


def span(length: int, rate: float, dimension: int, segment: Sequence[float] | None) -> tuple[int, int]:
    """First frame, and the number of frames to choose among.

    Args:
        length: frames of the video.
        rate: frames a second.
        dimension: of the question: 10 has no segment, 11 one in seconds, 12 one in frames.
        segment: start and end.
    """
    if dimension == _RECOGNITION or not segment:
        return 0, length - 1
    if dimension == _ACTION_PREDICTION:
        first, last = (int(min(max(side * rate, 0), length - 1)) for side in segment)
        return first, last - first
    first = int(segment[0])
    return first, int(min(segment[1], length)) - first
