"""Limits of what the parts of an image file may ask of its decoder, checked before the decoder sees the file.

Headers say how many pixels come out, but work also grows with the number of parts: scans of a JPEG, chunks of a PNG,
extensions of a GIF, tags and strips of a TIFF. The limits are far above what programs and cameras write. What is
malformed passes here; the decoder says what is wrong with it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from ..errors import ImageError

MOST_SCANS = 100
"""Scans of one JPEG; progressive ones have about ten. Of large ones fewer are allowed, for each goes over all of it."""
_MOST_SCANNED = MOST_SCANS * 32_000_000  # pixels, over all scans
_SCANS_OF_ANY = 20

_MOST_SEGMENTS = 5_000  # of a JPEG; a megabyte of metadata takes 16
_MOST_EXIF_SEGMENTS = 64  # of a JPEG; they are joined one by one
_MOST_CHUNKS = 50_000  # of a PNG; 32 MB in chunks of 8 KB are 4,000
_MOST_PROFILES = 16  # of a PNG, each of which unpacks to 1 MB; one is allowed
_MOST_EXTENSIONS = 1_000  # of a GIF before its first frame
_MOST_EXTENSION_BYTES = 1024 * 1024  # of all of them
_MOST_TAGS = 4_096  # of a TIFF; cameras write about a hundred
_MOST_STRIPS = 100_000  # strips or tiles of a TIFF
_MOST_RLE_BYTES = 2 * 1024 * 1024  # of a run-length encoded BMP, whose decoder is slow
_MOST_RLE_WIDTH, _MOST_RLE_PIXELS = 1 << 15, 8_000_000

# In the data of a scan, FF is followed by 00, the number of a restart, more FF, or it begins the next marker.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
_SOF = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_EOI, _SOS, _APP1 = 0xD9, 0xDA, 0xE1
_WITHOUT_LENGTH = {0x01, 0xD8}


@dataclass(frozen=True)
class JpegHeader:
    """What a JPEG is.

    Attributes:
        width, height: in pixels.
        buffered: whether it has several scans, so that its decoder keeps all coefficients in memory.
    """

    width: int
    height: int
    buffered: bool


def check_structure(data: bytes, format: str, name: str) -> JpegHeader | None:
    """Raise ImageError for a file with too many parts; for a JPEG return its header, where it has one.

    Args:
        data: a whole file, or its beginning.
        format: one of :data:`paddlemix.media.formats.FORMATS`.
        name: what messages call it.
    """
    if format == "JPEG":
        return _check_jpeg(data, name)
    if format == "PNG":
        _check_png(data, name)
    elif format == "GIF":
        _check_gif(data, name)
    elif format == "BMP":
        _check_bmp(data, name)
    elif format == "TIFF":
        _check_tiff(data, name)
    return None


def _refuse_count(name: str, count: int, most: int, what: str) -> None:
    if count > most:
        raise ImageError(f"{name} has more than {most} {what}: no program writes such files; save it anew")


def _check_jpeg(data: bytes, name: str) -> JpegHeader | None:
    header = None
    scans = segments = exif_segments = components = 0
    position = 2
    while True:
        match = _MARKER.search(data, position)
        if match is None:
            return header
        kind, position = match[1][0], match.end()
        segments += 1
        _refuse_count(name, segments, _MOST_SEGMENTS, "JPEG segments")
        if kind == _EOI:
            return header
        if kind in _WITHOUT_LENGTH:
            continue
        body = data[position + 2 : position + 11]
        if len(body) < 9 and kind in _SOF:
            return header
        if kind == _SOS:
            scans += 1
            _refuse_count(name, scans, _most_scans(header), "JPEG scans")
            if header is not None and body and (scans > 1 or body[0] < components):
                header = JpegHeader(header.width, header.height, buffered=True)
        elif kind in _SOF and header is None:
            height, width = struct.unpack(">HH", body[1:5])
            components = body[5]
            header = JpegHeader(width, height, buffered=kind in _PROGRESSIVE)
        elif kind == _APP1 and body[:4] == b"Exif":
            exif_segments += 1
            _refuse_count(name, exif_segments, _MOST_EXIF_SEGMENTS, "EXIF segments")
        position += max(int.from_bytes(data[position : position + 2], "big"), 2)


def _most_scans(header: JpegHeader | None) -> int:
    if header is None:
        return MOST_SCANS
    pixels = max(header.width * header.height, 1)
    return min(MOST_SCANS, max(_SCANS_OF_ANY, _MOST_SCANNED // pixels))


def _check_png(data: bytes, name: str) -> None:
    chunks = profiles = 0
    position = 8
    while position + 8 <= len(data):
        chunks += 1
        _refuse_count(name, chunks, _MOST_CHUNKS, "PNG chunks")
        if data[position + 4 : position + 8] == b"iCCP":
            profiles += 1
            _refuse_count(name, profiles, _MOST_PROFILES, "color profiles")
        position += 12 + int.from_bytes(data[position : position + 4], "big")


def _check_gif(data: bytes, name: str) -> None:
    """Walk the extensions in front of the first frame, the only one that is decoded."""
    if len(data) < 13:
        return
    position = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    extensions = size = 0
    while data[position : position + 1] == b"!":
        extensions += 1
        _refuse_count(name, extensions, _MOST_EXTENSIONS, "GIF extensions")
        start = position = position + 2
        while position < len(data) and data[position]:
            position += 1 + data[position]
        position += 1
        size += position - start
        _refuse_count(name, size, _MOST_EXTENSION_BYTES, "bytes of GIF extensions")


def _check_bmp(data: bytes, name: str) -> None:
    if len(data) < 34 or int.from_bytes(data[30:34], "little") not in (1, 2) or data[14] < 40:
        return
    width, height = struct.unpack("<ii", data[18:26])
    _refuse_count(name, len(data), _MOST_RLE_BYTES, "bytes in a run-length encoded BMP")
    _refuse_count(name, width, _MOST_RLE_WIDTH, "columns in a run-length encoded BMP")
    _refuse_count(name, abs(width * height), _MOST_RLE_PIXELS, "pixels in a run-length encoded BMP")


def webp_canvas(data: bytes) -> tuple[int, int] | None:
    """(width, height) of the canvas that an extended WebP file is decoded on; None for a simple one."""
    if data[12:16] != b"VP8X" or len(data) < 30:
        return None
    return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1


# ---------------------------------------------------------------- TIFF, which is also the form of EXIF data

_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_COMPRESSION, _STRIPS, _TILES, _SUBDIRECTORIES, _DNG = 259, 273, 324, (34665, 34853, 40965), 50706
_JPEG_COMPRESSIONS = (6, 7)


@dataclass(frozen=True)
class Tag:
    """An entry of a TIFF directory.

    Attributes:
        number: what it says.
        count: numbers in it.
        size: bytes of one number.
        value: the first number where it is a small integer, else its offset in the file.
    """

    number: int
    count: int
    size: int
    value: int


def tiff_tags(data: bytes, offset: int | None = None) -> Iterator[Tag]:
    """The entries of the first directory, or of that at ``offset``, as far as they can be read. Never raises."""
    orders: dict[bytes, Literal["little", "big"]] = {b"II": "little", b"MM": "big"}
    order = orders.get(data[:2])
    big = data[2:4] in (b"+\0", b"\0+")
    if order is None:
        return

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)

    if offset is None:
        offset = number(8, 8) if big else number(4, 4)
    head, entry, wide = (8, 20, 8) if big else (2, 12, 4)
    count = min(number(offset, head), max(0, len(data) - offset - head) // entry, 0xFFFF)
    for at in range(offset + head, offset + head + count * entry, entry):
        unit = _TYPE_BYTES.get(number(at + 2, 2), 0)
        values = number(at + 4, wide)
        small = unit * values <= wide and unit in (1, 2, 4)
        yield Tag(number(at, 2), values, unit * values, number(at + 4 + wide, unit if small else wide))


def _check_tiff(data: bytes, name: str) -> None:
    tags = list(islice(tiff_tags(data), _MOST_TAGS + 1))
    _refuse_count(name, len(tags), _MOST_TAGS, "TIFF tags")
    found = {tag.number: tag for tag in tags}
    if _DNG in found:
        raise ImageError(
            f"{name} is a raw camera image (DNG), of which only a preview could be read; convert it to JPEG"
        )
    for subdirectory in _SUBDIRECTORIES:
        if subdirectory in found:
            tags += islice(tiff_tags(data, found[subdirectory].value), _MOST_TAGS)
    if sum(tag.size for tag in tags if tag.size > 4) > len(data):
        raise ImageError(f"{name} has tags that are longer than the file: it is damaged; save it anew")
    strips = max((found[number].count for number in (_STRIPS, _TILES) if number in found), default=0)
    _refuse_count(name, strips, _MOST_STRIPS, "TIFF strips")
    if _COMPRESSION in found and found[_COMPRESSION].value in _JPEG_COMPRESSIONS:
        _refuse_count(name, data.count(b"\xff\xda"), MOST_SCANS + 4 * strips, "JPEG scans")
