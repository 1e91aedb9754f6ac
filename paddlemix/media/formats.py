"""What a file is, told by its first bytes, and what to do with one that is no image that can be opened."""

from __future__ import annotations

import re
from dataclasses import dataclass

SAFE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""Formats for data of strangers: small decoders that are fuzzed in public."""

FORMATS = (*SAFE_FORMATS, "TIFF", "AVIF", "HEIF")
"""Formats for files of one's own; the last three bring large decoders with many rarely used parts."""

_CONVERT = "convert it to JPEG or PNG"
_FRAME = "extract a frame of it as JPEG or PNG"
_PAGE = "render the page as PNG"


@dataclass(frozen=True)
class FileKind:
    """What a file is.

    Attributes:
        name: for messages, such as "a PDF document".
        format: the entry of :data:`FORMATS` that opens it; ``None`` where none does.
        advice: what its owner can do.
    """

    name: str
    format: str | None = None
    advice: str = _CONVERT


_MAGIC: tuple[tuple[bytes, FileKind], ...] = (
    (rb"\xff\xd8\xff", FileKind("a JPEG image", "JPEG")),
    (rb"\x89PNG\r\n\x1a\n", FileKind("a PNG image", "PNG")),
    (rb"GIF8[79]a", FileKind("a GIF image", "GIF")),
    (rb"RIFF....WEBP", FileKind("a WebP image", "WEBP")),
    (rb"BM.{4}\0\0\0\0", FileKind("a BMP image", "BMP")),
    (rb"BM", FileKind("a BMP image", "BMP")),
    (rb"II\*\0\x10\0\0\0CR", FileKind("a raw camera image (CR2)")),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", FileKind("a TIFF image", "TIFF")),
    (rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", FileKind("a JPEG XL image")),
    (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", FileKind("a JPEG 2000 image")),
    (rb"8BPS", FileKind("a Photoshop document (PSD)")),
    (rb"FUJIFILM|IIRO|IIRS|IIU\0", FileKind("a raw camera image")),
    (rb"\0\0[\x01\x02]\0", FileKind("an icon (ICO)")),
    (rb"icns", FileKind("an icon (ICNS)")),
    (rb"P[1-7][\s#]", FileKind("a Netpbm image (PPM)")),
    (rb"\x76\x2f\x31\x01", FileKind("an OpenEXR image")),
    (rb"#\?RADIANCE|#\?RGBE", FileKind("a Radiance HDR image")),
    (rb"qoif", FileKind("a QOI image")),
    (rb"DDS ", FileKind("a DDS texture")),
    (rb"gimp xcf", FileKind("a GIMP document (XCF)")),
    (rb"%!PS|\xc5\xd0\xd3\xc6", FileKind("a PostScript document", advice=_PAGE)),
    (rb"%PDF", FileKind("a PDF document", advice=_PAGE)),
    (rb"\x1aE\xdf\xa3", FileKind("a Matroska or WebM video", advice=_FRAME)),
    (rb"RIFF....AVI ", FileKind("an AVI video", advice=_FRAME)),
    (rb"FLV\x01|OggS|\0\0\x01[\xba\xb3]", FileKind("a video or a sound", advice=_FRAME)),
    (rb"RIFF....WAVE|ID3|fLaC", FileKind("a sound", advice="pass an image")),
    (rb"PK\x03\x04", FileKind("a ZIP archive or an office document", advice="take the image out of it")),
    (rb"\x1f\x8b|BZh|\xfd7zXZ\0|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd", FileKind("an archive", advice="unpack it")),
    (
        rb"version https://git-lfs\.github\.com/",
        FileKind("the pointer of a Git LFS file", advice="fetch the image itself with git lfs pull"),
    ),
    (
        rb"(?i:\s*(?:<!--.{0,500}?-->\s*)?<(?:!doctype html|html|head|body))",
        FileKind("a web page (HTML)", advice="give the address of the image itself"),
    ),
    (rb"(?i:\s*(?:<\?xml.{0,2000}?)?<svg)", FileKind("an SVG drawing", advice="render it as PNG")),
    (rb"\s*<\?xml", FileKind("an XML file", advice="pass an image")),
    (rb"\s*[{\[]\s*[\"{\[]", FileKind("a JSON file", advice="pass an image")),
)
_KINDS = tuple((re.compile(b"(?:" + pattern + b")", re.DOTALL), kind) for pattern, kind in _MAGIC)

_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_AVIF_BRANDS = {b"avif", b"avis"}
_AVIF, _HEIC = FileKind("an AVIF image", "AVIF"), FileKind("a HEIC image", "HEIF")
_HEAD = 4096  # bytes that are looked at


def kind_of(data: bytes | bytearray | memoryview) -> FileKind | None:
    """What a file with this content is; ``None`` for what is not known. Never raises."""
    head = bytes(data[:_HEAD])
    if head[4:8] == b"ftyp":
        return _kind_of_boxes(head)
    return next((kind for pattern, kind in _KINDS if pattern.match(head)), None)


def _kind_of_boxes(head: bytes) -> FileKind:
    """The kind of an ISO media file, by its brands."""
    end = min(int.from_bytes(head[:4], "big"), 512)
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))]
    for brand in brands:
        if brand in _AVIF_BRANDS:
            return _AVIF
        if brand in _HEIC_BRANDS:
            return _HEIC
    if brands[0] in (b"mif1", b"msf1", b"heif"):
        return _HEIC
    if brands[0] in (b"crx ", b"raw "):
        return FileKind("a raw camera image (CR3)")
    return FileKind("a video (MP4 or QuickTime)", advice=_FRAME)
