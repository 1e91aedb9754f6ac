"""What a file is, by its first bytes."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from paddlemix.errors import ImageError
from paddlemix.media import load_image
from paddlemix.media.formats import FORMATS, kind_of


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_images_that_pillow_writes_are_known(format):
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4)).save(buffer, format)
    assert kind_of(buffer.getvalue()).format == format


@pytest.mark.parametrize(
    "beginning, name",
    [
        (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "a HEIC image"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf", "a HEIC image"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "an AVIF image"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "an AVIF image"),
        (b"\0\0\0\x14ftypcrx \0\0\0\x01", "a raw camera image (CR3)"),
        (b"\0\0\0\x18ftypisom\0\0\2\0isommp42", "a video (MP4 or QuickTime)"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0", "a video (MP4 or QuickTime)"),
        (b"\x1aE\xdf\xa3....", "a Matroska or WebM video"),
        (b"RIFF\1\2\3\4AVI LIST", "an AVI video"),
        (b"8BPS\0\1", "a Photoshop document (PSD)"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\xff\x0a\x01\x02", "a JPEG XL image"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
        (b"<?xml version='1.0'?>\n<svg xmlns=''>", "an SVG drawing"),
        (b"  <svg>", "an SVG drawing"),
        (b"\n<!DOCTYPE html><html>", "a web page (HTML)"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "the pointer of a Git LFS file"),
        (b"PK\3\4", "a ZIP archive or an office document"),
        (b"\x1f\x8b\x08", "an archive"),
        (b"\0\0\1\0\1\0", "an icon (ICO)"),
        (b"P6\n5 4", "a Netpbm image (PPM)"),
        (b'{"error": "not found"}', "a JSON file"),
        (b"II*\0\x10\0\0\0CR\2\0", "a raw camera image (CR2)"),
    ],
)
def test_others_are_named_with_what_to_do(beginning, name):
    kind = kind_of(beginning)
    assert kind.name == name
    if kind.format is None:
        with pytest.raises(ImageError) as error:
            load_image(beginning)
        assert f"it is {name}: {kind.advice}" in str(error.value) and len(str(error.value)) < 250


def test_anything_else_is_unknown():
    for data in (b"", b"hello", b"\0" * 100, b"ftyp", b"\0\0\0\x08ftyp", bytes(range(256))):
        kind = kind_of(data)
        assert kind is None or kind.format is None or kind.format in FORMATS
    assert kind_of(b"hello") is None and kind_of(b"") is None
