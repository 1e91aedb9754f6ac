"""RefCOCO, RefCOCO+ and RefCOCOg, from the files of their authors and from mirrors."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ....errors import EvaluationError
from ....media.loading import check_header
from ....utils.display import one_line
from ....utils.files import read_bytes
from ..files import PREFIX, read_list, require_file
from .images import image_bytes, save_image
from .parquet import read_rows

MAX_PICKLE_BYTES = 256 << 20
"""The published files have less than 20 MB."""
_SPLITTERS = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, dictionaries, texts and numbers, and refuses whatever would run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}, expected plain values")


def read_refs(path: Path) -> list[dict[str, Any]]:
    """The references of a file ``refs(unc).p``: a pickle of plain values, which runs no code.

    Raises:
        EvaluationError: it is missing, damaged, or holds anything else.
    """
    require_file(path)
    data = read_bytes(path, limit=MAX_PICKLE_BYTES, error=EvaluationError)
    try:
        for opcode, argument, _ in pickletools.genops(data):
            # Space for values to come back to is made for the largest number, whatever the file holds.
            if "PUT" in opcode.name and isinstance(argument, int) and argument > len(data):
                raise pickle.UnpicklingError(f"it numbers a value {argument}, expected less than its bytes")
        refs = _PlainUnpickler(io.BytesIO(data), encoding="utf-8").load()
    except (
        pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError,
    ) as error:  # fmt: skip
        raise EvaluationError(f"{path} cannot be read: {one_line(error)}") from error
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise EvaluationError(f"{path}: expected a list of references")
    return refs


def read_refcoco(name: str, source: Path, split: str) -> Iterator[dict[str, Any]]:
    """The references of a part, a record for each sentence; boxes x, y, width, height become corners."""
    annotations = {record.id("id"): record for record in read_list(source / "instances.json", "annotations")}
    images = {record.id("id"): record for record in read_list(source / "instances.json", "images")}
    path = source / f"refs({_SPLITTERS[name]}).p"
    for number, ref in enumerate(read_refs(path)):
        if ref.get("split") != split:
            continue
        where = f"{path}, reference {number}"
        try:
            box, image = annotations[str(ref["ann_id"])].values["bbox"], images[str(ref["image_id"])]
            sentences = [str(sentence["sent"]) for sentence in ref["sentences"]]
        except (KeyError, TypeError) as error:
            raise EvaluationError(f"{where}: {error.args[0]!r} is missing; expected files of one data set") from error
        width, height = image.size("width"), image.size("height")
        file = f"{PREFIX}coco/train2014/{image.text('file_name')}"
        for sentence in sentences:
            yield {"image": file, "sent": sentence, "bbox": corners(box, where), "width": width, "height": height}


def read_refcoco_mirror(paths: Sequence[Path], data_dir: Path, split: str) -> Iterator[dict[str, Any]]:
    """RefCOCO in parquet: an object with all its sentences in each row."""
    for where, row in read_rows(paths, ("image", "answer", "bbox", "file_name")):
        content = image_bytes(row["image"], where)
        name = row["file_name"]
        # The file names have the number of the object behind that of the image.
        parts = name.rsplit(".", 1)[0].split("_")
        image = save_image(data_dir, f"coco/train2014/{'_'.join(parts[:3])}.jpg", content)
        width, height = check_header(content).size
        for sentence in row["answer"]:
            box = corners(row["bbox"], where)
            yield {"image": image, "sent": sentence, "bbox": box, "width": width, "height": height}


def corners(box: Sequence[float], where: str) -> list[float]:
    """x, y, width, height as x1, y1, x2, y2, with two decimals as in the annotations.

    Raises:
        EvaluationError: it is no such box.
    """
    try:
        x, y, width, height = (float(side) for side in box)
    except (TypeError, ValueError) as error:
        raise EvaluationError(f"{where}: bbox: got {box!r:.60}, expected x, y, width, height") from error
    if width <= 0 or height <= 0:
        raise EvaluationError(f"{where}: bbox: got {box!r:.60}, expected a width and a height above 0")
    return [round(side, 2) for side in (x, y, x + width, y + height)]
