"""Caption data sets, from the files of their authors and from mirrors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ....errors import EvaluationError
from ..files import PREFIX, Record, read_list, unique
from .images import image_bytes, save_image
from .parquet import read_rows, whole
from .write import write_value

MAX_ID = 10**12


@dataclass(frozen=True)
class CaptionRow:
    """An image and its captions.

    Attributes:
        image_id: a whole number.
        image: below the data directory, ``data/`` before it.
        captions: texts.
    """

    image_id: int
    image: str
    captions: tuple[str, ...]


def write_captions(path: Path, rows: Iterator[CaptionRow]) -> int:
    """A COCO-style file; returns the number of images.

    Raises:
        EvaluationError: an image has no caption, or there is no image.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for row in rows:
        if not row.captions:
            raise EvaluationError(f"{row.image}: has no caption")
        images.append({"id": row.image_id, "image": row.image})
        for caption in row.captions:
            annotations.append(
                {"id": len(annotations), "image_id": row.image_id, "image": row.image, "caption": caption}
            )
    if not images:
        raise EvaluationError(f"{path}: the source has no records for this file")
    write_value(path, {"images": images, "annotations": annotations})
    return len(images)


def read_nocaps(source: Path, split: str) -> Iterator[CaptionRow]:
    """NoCaps: the validation captions, images by their file names."""
    path = source / "nocaps_val_4500_captions.json"
    captions: dict[str, list[str]] = {}
    for record in read_list(path, "annotations"):
        captions.setdefault(record.id("image_id"), []).append(record.text("caption"))
    records = read_list(path, "images")
    for id_, record in zip(unique(lambda record: str(record.index("id", MAX_ID)), records, "image id"), records):
        name = PurePosixPath(record.text("file_name")).name
        yield CaptionRow(int(id_), f"{PREFIX}nocaps/images/{name}", tuple(captions.get(id_, ())))


def read_flickr30k(source: Path, split: str) -> Iterator[CaptionRow]:
    """Flickr30K in Karpathy's split."""
    for record in read_list(source / "dataset_flickr30k.json", "images"):
        if record.values.get("split") == split:
            sentences = [Record(item, record.where) for item in record.objects("sentences")]
            captions = tuple(sentence.text("raw") for sentence in sentences)
            name = f"{PREFIX}flickr30k/images/{record.text('filename')}"
            yield CaptionRow(int(record.index("imgid", MAX_ID)), name, captions)


def read_nocaps_mirror(paths: Sequence[Path], data_dir: Path, split: str) -> Iterator[CaptionRow]:
    """NoCaps in parquet."""
    columns = ("image", "image_id", "image_file_name", "annotations_captions")
    for where, row in read_rows(paths, columns):
        name = f"nocaps/images/{PurePosixPath(row['image_file_name']).name}"
        image = save_image(data_dir, name, image_bytes(row["image"], where))
        yield CaptionRow(whole(row, "image_id", where), image, tuple(row["annotations_captions"]))


def read_flickr30k_mirror(paths: Sequence[Path], data_dir: Path, split: str) -> Iterator[CaptionRow]:
    """Flickr30K in parquet, of a mirror that says which part an image belongs to."""
    for where, row in read_rows(paths, ("image", "caption", "filename", "img_id", "split")):
        if row["split"] == split:
            image = save_image(data_dir, f"flickr30k/images/{row['filename']}", image_bytes(row["image"], where))
            yield CaptionRow(whole(row, "img_id", where), image, tuple(row["caption"]))
