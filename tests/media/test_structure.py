"""Image files with more parts than any program writes."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image

from paddlemix.errors import ImageError
from paddlemix.media import ImagePolicy, load_image
from paddlemix.media.structure import JpegHeader, check_structure, tiff_tags, webp_canvas


def encoded(format: str, size=(40, 30), **options) -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize(size).convert(options.pop("mode", "RGB")).save(buffer, format, **options)
    return buffer.getvalue()


def refused(data: bytes, problem: str) -> None:
    with pytest.raises(ImageError, match=problem) as error:
        load_image(data, ImagePolicy.scripts())
    assert len(str(error.value)) < 200


def with_scans(count: int, jpeg: bytes) -> bytes:
    """A progressive JPEG with its last scan so many times over."""
    start = jpeg.rindex(b"\xff\xda")
    return jpeg[:start] + jpeg[start:-2] * count + jpeg[-2:]


def test_scans_of_a_jpeg_are_counted():
    jpeg = encoded("JPEG", progressive=True)
    assert load_image(with_scans(50, jpeg)).size == (40, 30)
    refused(with_scans(100, jpeg), "more than 100 JPEG scans")
    refused(with_scans(20_000, jpeg), "more than 100 JPEG scans")
    large = encoded("JPEG", size=(8000, 8000), mode="L", progressive=True)
    assert load_image(large).size == (4000, 4000)
    refused(with_scans(60, large), "more than 50 JPEG scans")
    # the scans of an image behind the first one are not decoded
    assert load_image(jpeg + with_scans(200, jpeg)).size == (40, 30)


def test_the_header_of_a_jpeg_tells_whether_it_is_buffered():
    assert check_structure(encoded("JPEG"), "JPEG", "a") == JpegHeader(40, 30, buffered=False)
    assert check_structure(encoded("JPEG", mode="L"), "JPEG", "a") == JpegHeader(40, 30, buffered=False)
    assert check_structure(encoded("JPEG", progressive=True), "JPEG", "a") == JpegHeader(40, 30, buffered=True)
    assert check_structure(b"\xff\xd8\xff", "JPEG", "a") is None


def test_segments_of_a_jpeg_are_counted():
    jpeg = encoded("JPEG")
    comment = b"\xff\xfe\0\4ab"
    exif = b"\xff\xe1\0\x10Exif\0\0MM\0*\0\0\0\x08"
    assert load_image(jpeg[:2] + comment * 1000 + jpeg[2:]).size == (40, 30)
    refused(jpeg[:2] + comment * 100_000 + jpeg[2:], "JPEG segments")
    refused(jpeg[:2] + exif * 100 + jpeg[2:], "EXIF segments")


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_chunks_of_a_png_are_counted():
    png = encoded("PNG")
    assert load_image(png[:33] + png_chunk(b"tEXt", b"a\0b") * 1000 + png[33:]).size == (40, 30)
    refused(png[:33] + png_chunk(b"tEXt", b"a\0b") * 200_000 + png[33:], "PNG chunks")
    profile = png_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(1_000_000), 9))
    assert load_image(png[:33] + profile + png[33:]).size == (40, 30)
    refused(png[:33] + profile * 17 + png[33:], "color profiles")


def test_extensions_of_a_gif_are_counted_up_to_its_first_frame():
    gif = encoded("GIF")
    start = gif.index(b",", 13 + 768 if gif[10] & 0x80 else 13)
    comment = b"!\xfe" + (b"\xff" + b"x" * 255) * 100 + b"\0"
    assert load_image(gif[:start] + comment * 10 + gif[start:]).size == (40, 30)
    refused(gif[:start] + comment * 1000 + gif[start:], "bytes of GIF extensions")
    refused(gif[:start] + b"!\xfe\1x\0" * 2000 + gif[start:], "GIF extensions")
    assert load_image(gif[:-1] + comment * 1000 + gif[-1:]).size == (40, 30)


def bmp(width: int, height: int, data: bytes, compression: int = 1) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, len(data), 0, 0, 0, 0)
    palette = bytes(1024)
    offset = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + header + palette + data


def test_run_length_encoded_bmps_are_small():
    assert load_image(bmp(4, 2, b"\4\1\0\0\4\2\0\1")).size == (4, 2)
    refused(bmp(5000, 5000, b"\1\1" * 2_000_000), "bytes in a run-length encoded BMP")
    refused(bmp(30_000, 1000, b"\0\1"), "pixels in a run-length encoded BMP")
    refused(bmp(32_000_000, 1, b"\0\2\0\xff" * 10), "columns in a run-length encoded BMP")


def tiff(tags: list[tuple[int, int, int, int]], behind: bytes = b"") -> bytes:
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0" + behind


def test_tags_of_a_tiff_fit_into_it():
    good = encoded("TIFF")
    assert load_image(good).size == (40, 30)
    many = [(number, 1, 60_000, 8) for number in range(1000, 5000)]
    refused(tiff(many, bytes(60_000)), "tags that are longer than the file")
    refused(tiff([(34665, 4, 1, 26), (256, 4, 1, 5)], bytes(2)), "broken header|damaged|longer than the file")


def test_strips_of_a_tiff_and_scans_in_it_are_counted():
    strips = 200_000
    base = [(256, 4, 1, 1), (257, 4, 1, strips), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (278, 4, 1, 1)]
    at = 8 + 2 + 12 * 8 + 4
    data = tiff([*base, (273, 4, strips, at), (279, 4, strips, at + 4 * strips)], bytes(8 * strips))
    refused(data, "TIFF strips")
    jpeg = with_scans(500, encoded("JPEG", progressive=True, mode="L"))
    base = [(256, 4, 1, 40), (257, 4, 1, 30), (258, 3, 1, 8), (259, 3, 1, 7), (262, 3, 1, 1), (278, 4, 1, 30)]
    refused(tiff([*base, (273, 4, 1, at), (279, 4, 1, len(jpeg))], jpeg), "JPEG scans")


def test_raw_camera_images_are_no_tiff():
    refused(tiff([(256, 4, 1, 4), (257, 4, 1, 4), (50706, 1, 4, 0x0401)]), r"raw camera image \(DNG\)")


@pytest.mark.parametrize(
    "data", [b"", b"II", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"II+\0\x08\0\0\0"]
)
def test_broken_directories_have_no_tags(data):
    assert list(tiff_tags(data)) == []


def test_the_canvas_of_a_webp_is_known_before_it_is_opened():
    animated = encoded("WEBP", save_all=True, append_images=[Image.new("RGB", (40, 30), "red")])
    assert webp_canvas(animated) == (40, 30)
    assert webp_canvas(encoded("WEBP")) is None and webp_canvas(animated[:29]) is None
    refused(animated[:24] + b"\xff\xff\xff" * 2 + animated[30:], "16777216x16777216 pixels")
