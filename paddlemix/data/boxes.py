"""Coordinate formats of boxes (pixels, 0 to 1, 0 to 1000), converted to thousandths (0 to 999) of the image size."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import ConfigurationError, ImageError
from ..models.qwen_vl.grounding import POINTS, SCALE, box_text

THOUSANDTHS, NORM1000, UNIT, PIXELS = "thousandths", "norm1000", "unit", "pixels"
BOX_FORMATS = (THOUSANDTHS, NORM1000, UNIT, PIXELS)

_RANGES = {
    THOUSANDTHS: "whole coordinates from 0 to 999",
    NORM1000: "coordinates from 0 to 1000",
    UNIT: "coordinates from 0 to 1",
}
_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d{1,3})?"
_LIST = rf"\[\s*{_NUMBER}(?:\s*,\s*{_NUMBER}){{3}}\s*\]"
_TAGGED = re.compile(r"<(?P<tag>box|quad)>(?P<content>[^<]*)</(?P=tag)>")
_TAGGED_OR_LIST = re.compile(rf"{_TAGGED.pattern}|(?P<list>{_LIST})")
_NUMBERS = re.compile(_NUMBER)
_ONLY_NUMBERS = re.compile(r"[\[\](),\s]*")


class BoxFault(NamedTuple):
    """An invalid box.

    Attributes:
        came: what is there.
        expected: what should be.
    """

    came: str
    expected: str


@dataclass(frozen=True)
class BoxOptions:
    """The coordinate format of the boxes in a file.

    Attributes:
        box_format: one of :data:`BOX_FORMATS`, for ``<box>`` and ``<quad>`` in texts, lists of four numbers in records
            of other projects, and objects that do not say their type. None: tags hold thousandths, lists are text, and
            objects are in pixels, as their project reads them.
        clamp: clamp coordinates of 1000 in thousandths to 999; otherwise such a record is bad.
    """

    box_format: str | None = None
    clamp: bool = False


#: tags hold thousandths, and every other number is left alone
AS_WRITTEN = BoxOptions()


@dataclass(frozen=True)
class BoxReader:
    """Converts boxes to thousandths.

    Attributes:
        options: the coordinate format.
        size_of: image source -> width and height in pixels, as the model sees the image. Raises ImageError.
    """

    options: BoxOptions
    size_of: Callable[[str], tuple[int, int]]

    def points(self, values: Sequence[float], unit: str, image: str | None) -> tuple[list[int], bool] | BoxFault:
        """Convert the points of one box.

        Args:
            values: x and y alternating.
            unit: one of :data:`BOX_FORMATS`.
            image: source of the image for pixels; None if it is not known.

        Returns:
            x and y alternating in thousandths, and whether a 1000 was clamped; or what is wrong.
        """
        size = None
        if unit == PIXELS:
            if image is None:
                return BoxFault(f"{_shown(values)} in pixels", "one image in the record, whose pixels they are")
            try:
                size = self.size_of(image)
            except ImageError as error:
                return BoxFault(str(error), "an image that can be read, for its boxes in pixels")
        return to_thousandths(values, unit, size, self.options.clamp)


def to_thousandths(
    values: Sequence[float], unit: str, size: tuple[int, int] | None, clamp: bool
) -> tuple[list[int], bool] | BoxFault:
    """Convert the points of one box; four values are an upper left and a lower right corner.

    Args:
        values: x and y alternating.
        unit: one of :data:`BOX_FORMATS`.
        size: width and height of the image, for pixels.
        clamp: accept 1000 in thousandths, as 999.

    Returns:
        x and y alternating in whole thousandths, and whether a 1000 was clamped; or what is wrong.
    """
    limits = _limits(unit, size, clamp)
    in_range = all(math.isfinite(value) and 0 <= value <= limits[index % 2] for index, value in enumerate(values))
    if not in_range or (unit == THOUSANDTHS and not all(float(value).is_integer() for value in values)):
        came = _shown(values) + (f" in an image of {size[0]} x {size[1]} pixels" if size else "")
        hint = "; clamp_boxes makes 999 of 1000" if unit == THOUSANDTHS and max(values) == SCALE else ""
        return BoxFault(came, _RANGES.get(unit, "x from 0 to its width, y from 0 to its height") + hint)
    if len(values) == 4 and (values[2] < values[0] or values[3] < values[1]):
        return BoxFault(_shown(values), "x1 <= x2 and y1 <= y2")
    scales = (1, 1) if unit in (THOUSANDTHS, NORM1000) else tuple(SCALE / limit for limit in limits)
    whole = [math.floor(value * scales[index % 2] + 0.5) for index, value in enumerate(values)]
    # The other conventions have a coordinate for the far edge, thousandths do not.
    return [min(value, SCALE - 1) for value in whole], unit == THOUSANDTHS and max(whole) >= SCALE


def _limits(unit: str, size: tuple[int, int] | None, clamp: bool) -> tuple[int, int]:
    """The greatest x and y of a coordinate format."""
    if unit == PIXELS:
        if size is None:
            raise ConfigurationError("size: got none, expected the image's width and height for boxes in pixels")
        return size
    limit = {THOUSANDTHS: 999 + clamp, NORM1000: SCALE, UNIT: 1}[unit]
    return limit, limit


def convert_text(text: str, reader: BoxReader, image: str | None, *, lists: bool) -> tuple[str, int, list[BoxFault]]:
    """Convert the boxes in a text.

    Args:
        text: with ``<box>`` and ``<quad>``.
        reader: converts them.
        image: the only image of the record; None if there are several or none.
        lists: whether ``[x1, y1, x2, y2]`` is a box as well, if the options have a ``box_format``.

    Returns:
        The text, the number of clamped boxes, and the faults of boxes that cannot be converted and stay.
    """
    options = reader.options
    if options.box_format is None and not options.clamp:
        return text, 0, []
    unit = options.box_format or THOUSANDTHS
    clamped = 0
    faults: list[BoxFault] = []

    def replaced(match: re.Match[str]) -> str:
        nonlocal clamped
        tag = match["tag"] or "box"
        content = match["content"] if match["tag"] else match["list"]
        values = [float(number) for number in _NUMBERS.findall(content)]
        if len(values) != 2 * POINTS[tag] or not _ONLY_NUMBERS.fullmatch(_NUMBERS.sub("", content)):
            return match.group()  # reported by the check of tags
        found = reader.points(values, unit, image)
        if isinstance(found, BoxFault):
            faults.append(found)
            return match.group()
        points, was_clamped = found
        clamped += was_clamped
        return box_text(points, tag)

    pattern = _TAGGED_OR_LIST if lists and options.box_format is not None else _TAGGED
    return pattern.sub(replaced, text), clamped, faults


def _shown(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in values) + "]"
