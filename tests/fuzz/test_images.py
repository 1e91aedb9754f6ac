"""Image files that are damaged, lie or ask for too much, and texts that may name one: an image within the limits, or an
ImageError, always."""

from __future__ import annotations

import base64
import io
import os
import struct
import zlib
from random import Random

import numpy as np
import pytest
from PIL import Image, features

from paddlemix.media import ImagePolicy, load_image
from paddlemix.media.formats import kind_of
from paddlemix.media.loading import check_header
from paddlemix.media.sources import scheme_of
from paddlemix.models.qwen_vl.image_processing import QwenVLImageProcessor
from tests.fuzz.checking import attempt, peak_memory
from tests.fuzz.counts import FACTOR, record
from tests.fuzz.damage import damaged

SMALL = ImagePolicy(max_pixels=200_000, max_bytes=4 << 20)
STRANGERS = ImagePolicy.server().replace(max_pixels=200_000, max_bytes=4 << 20)
PROCESSOR = QwenVLImageProcessor(28, exif_transpose=True, background=(255, 255, 255)).without_notes()
MEGABYTE = 1 << 20


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def whole_files() -> dict[str, bytes]:
    values = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    image = Image.fromarray(values)
    others = {"save_all": True, "append_images": [image.rotate(10)]}
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    exif.get_ifd(0x8769)[0x9003] = "2026:01:01 00:00:00"
    files = {
        "JPEG": encoded(image, "JPEG"),
        "progressive JPEG": encoded(image, "JPEG", progressive=True),
        "CMYK JPEG": encoded(image.convert("CMYK"), "JPEG"),
        "JPEG with EXIF": encoded(image, "JPEG", exif=exif, icc_profile=b"x" * 200, comment=b"c"),
        "MPO": encoded(image, "MPO", **others),
        "PNG": encoded(image, "PNG", exif=exif),
        "16-bit PNG": encoded(Image.fromarray(values[..., 0].astype(np.uint16) * 200), "PNG"),
        "PNG with a palette": encoded(image.convert("P"), "PNG", transparency=3),
        "PNG with alpha": encoded(image.convert("RGBA"), "PNG"),
        "1-bit PNG": encoded(image.convert("1"), "PNG"),
        "APNG": encoded(image, "PNG", **others),
        "GIF": encoded(image, "GIF", comment=b"c"),
        "animated GIF": encoded(image, "GIF", **others),
        "WebP": encoded(image, "WEBP", exif=exif),
        "lossless WebP": encoded(image.convert("RGBA"), "WEBP", lossless=True),
        "animated WebP": encoded(image, "WEBP", **others),
        "BMP": encoded(image, "BMP"),
        "1-bit BMP": encoded(image.convert("1"), "BMP"),
        "RLE BMP": run_length_bmp(50, 40, bytes([50, 7, 0, 0]) * 40 + b"\0\1"),
        "TIFF": encoded(image, "TIFF", exif=exif),
        "TIFF by Deflate": encoded(image, "TIFF", compression="tiff_deflate"),
        "TIFF by JPEG": encoded(image, "TIFF", compression="jpeg"),
    }
    if features.check("avif"):
        files["AVIF"] = encoded(image, "AVIF")
    return files


def run_length_bmp(width: int, height: int, data: bytes) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 0, 0)
    offset = 14 + len(header) + 1024
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + header + bytes(1024) + data


def use(source: object, policy: ImagePolicy = SMALL) -> None:
    image = load_image(source, policy)
    assert image.width * image.height <= policy.max_pixels
    seen = PROCESSOR.load(source, policy)
    assert seen.mode == "RGB" and sorted(seen.size) == sorted(image.size)
    assert PROCESSOR(seen).shape == (1, 3, 28, 28)
    header = check_header(source, policy)
    assert header.orientation in range(1, 9)


def test_damaged_images() -> None:
    rng, files = Random(1), whole_files()
    names, counts = list(files), {"ok": 0, "ImageError": 0}
    cases = 8 * len(files) * FACTOR
    for n in range(cases):
        name = names[n % len(names)]
        content = damaged(files[name], rng, limit=rng.choice((64, 600, None)))
        if n % 7 == 0:
            other = files[rng.choice(names)]
            content = content[: rng.randrange(len(content) + 1)] + other[rng.randrange(len(other)) :]
        policy = STRANGERS if n % 2 else SMALL
        counts[attempt(f"damaged {name}, case {n}", lambda content=content, policy=policy: use(content, policy))] += 1
    assert all(counts.values())
    record("damaged images", cases)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int = 8, color: int = 2, data: bytes = b"", extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", data or zlib.compress(b"\0" * 10))
        + png_chunk(b"IEND", b"")
    )


def gif(width: int, height: int, left: int = 0) -> bytes:
    frame = struct.pack("<HHHHB", left, left, width, height, 0)
    return b"GIF89a" + struct.pack("<HHBBB", min(width, 9), height, 0, 0, 0) + b"," + frame + b"\x02\x02\x4c\x01\x00;"


def jpeg(width: int, height: int, progressive: bool = False) -> bytes:
    frame = struct.pack(">HH", height, width) + b"\x03\x01\x11\x00\x02\x11\x01\x03\x11\x01"
    scan = b"\xff\xda\x00\x0c\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00" + bytes(50)
    return b"\xff\xd8\xff" + (b"\xc2" if progressive else b"\xc0") + b"\x00\x11\x08" + frame + scan + b"\xff\xd9"


def webp(width: int, height: int) -> bytes:
    canvas = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + canvas + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def tiff(width: int, height: int, count: int) -> bytes:
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, count, 8), (278, 4, 1, 1), (279, 4, count, 8)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)


SIDES = (0, 1, 9, 1000, 16_383, 65_535, 2**31 - 1)


def test_headers_that_lie() -> None:
    cases = []
    for width in SIDES:
        for height in SIDES:
            cases += [png(width, height), png(width, height, 16, 6), bmp(width, height), bmp(width, -height)]
            cases += [tiff(width, height, 1), tiff(width, height, height)]
            if max(width, height) <= 65_535:
                cases += [gif(width, height), gif(width, height, 65_535)]
                cases += [jpeg(width, height), jpeg(width, height, progressive=True)]
            if min(width, height) > 0 and max(width, height) < 1 << 24:
                cases.append(webp(width, height))

    def try_all() -> None:
        for n, content in enumerate(cases):
            attempt(f"header, case {n}", lambda content=content: use(content))

    assert peak_memory(try_all) < 20 * MEGABYTE
    record("headers that lie", len(cases))


def unpacking_to(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


BOMBS = {
    "PNG of zeros": lambda: png(64, 64, data=unpacking_to(64 * MEGABYTE)),
    "PNG of text": lambda: png(4, 4, extra=png_chunk(b"zTXt", b"k\0\0" + unpacking_to(64 * MEGABYTE))),
    "PNG of a profile": lambda: png(4, 4, extra=png_chunk(b"iCCP", b"k\0\0" + unpacking_to(64 * MEGABYTE))),
    "PNG of profiles": lambda: png(4, 4, extra=png_chunk(b"iCCP", b"k\0\0" + unpacking_to(MEGABYTE - 1)) * 2000),
    "PNG of chunks": lambda: png(4, 4, extra=png_chunk(b"tEXt", b"a\0b") * 120_000),
    "PNG of frames": lambda: png(4, 4, extra=png_chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
    "GIF of frames": lambda: gif(9, 9)[:-1] * 1 + (b"," + bytes(9) + b"\x02\x02\x4c\x01\x00") * 100_000,
    "GIF of comments": lambda: gif(9, 9)[:13] + b"!\xfe\x01x\x00" * 500_000 + gif(9, 9)[13:],
    "JPEG of scans": lambda: jpeg(400, 400, True)[:-2] + jpeg(400, 400)[21:-2] * 40_000 + b"\xff\xd9",
    "JPEG of comments": lambda: jpeg(9, 9)[:2] + b"\xff\xfe\0\2" * 900_000 + jpeg(9, 9)[2:],
    "JPEG of EXIF": lambda: jpeg(9, 9)[:2] + (b"\xff\xe1\x80\0Exif\0\0" + bytes(32_760)) * 100 + jpeg(9, 9)[2:],
    "BMP of runs": lambda: run_length_bmp(400, 400, b"\1\1" * 1_900_000),
    "BMP of leaps": lambda: run_length_bmp(199_999, 1, b"\0\2\0\xff" * 100_000),
    "BMP of line ends": lambda: run_length_bmp(400, 400, b"\0\0" * 900_000),
    "TIFF of tags": lambda: (
        b"II*\0\x08\0\0\0\xff\xff"
        + b"".join(struct.pack("<HHII", tag, 1, 3 * MEGABYTE, 8) for tag in range(65_535))
        + bytes(2 * MEGABYTE)
    ),
    "TIFF of strips": lambda: tiff(1, 190_000, 190_000) + bytes(8 * 190_000),
    "TIFF in a circle": lambda: b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
    "EXIF of tags": lambda: png(
        4,
        4,
        data=zlib.compress(bytes(52)),
        extra=png_chunk(
            b"eXIf",
            b"II*\0\x08\0\0\0\xff\xff"
            + b"".join(struct.pack("<HHII", tag, 1, 2 * MEGABYTE, 8) for tag in range(65_535))
            + bytes(2 * MEGABYTE),
        ),
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str) -> None:
    content = BOMBS[name]()
    assert peak_memory(lambda: attempt(name, lambda: use(content))) < 24 * MEGABYTE + 8 * len(content)
    record("image bombs", 1)


PIECES = (
    *("data:", "image/png", "image", ";base64", ",", "%", "%4", "%41", "=", "==", "-", "_", "é", "\ud800", "\0", " "),
    *("\n", "/9j/", "iVBORw0KGgo", "R0lGODlh", "UklGR", "Qk0", "AAAA" * 20, "file:", "//", "/", "localhost", "..", "~"),
    *("~root", "\\ ", "\\", "'", '"', "http:", "ftp:", "x" * 300, ".png", "/etc/passwd", "/dev/zero", "C:\\", "?", "#"),
)


def test_texts_never_reach_a_file_of_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(path: object, *rest: object, **more: object) -> None:
        raise AssertionError(f"opened {path!r}")

    rng, cases = Random(2), 1000 * FACTOR
    texts = ["".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 9))) for _ in range(cases)]
    with monkeypatch.context() as patch:
        for name in ("open", "stat", "lstat"):
            patch.setattr(os, name, opened)
        for n, text in enumerate(texts):
            attempt(f"text {n}, {text!r}", lambda text=text: load_image(text, STRANGERS))
    record("texts for a server", cases)


def test_texts_on_a_computer_of_ones_own() -> None:
    rng, cases = Random(3), 500 * FACTOR
    for n in range(cases):
        text = "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 9)))
        attempt(f"text {n}, {text!r}", lambda text=text: load_image(text, SMALL))
    record("texts of paths and addresses", cases)


def test_base64_of_any_shape() -> None:
    rng, cases, files = Random(4), 120 * FACTOR, list(whole_files().values())
    taken = 0
    for n in range(cases):
        content = rng.choice(files)
        text = base64.b64encode(content).decode()
        if n % 3 == 1:
            text = "".join(f"%{ord(c):02X}" if rng.random() < 0.2 else c for c in text)
        elif n % 3 == 2:
            text = "".join(c + rng.choice(("", "", "\n", " ")) for c in text)
        if n % 2:
            text = damaged(text.encode(), rng).decode("latin-1")
        source = rng.choice(("data:image/png;base64,", "data:image;base64,", "data:;base64,")) + text
        taken += attempt(f"base64 {n}", lambda source=source: load_image(source, SMALL)) == "ok"
    assert taken >= cases // 2
    record("base64 texts", cases)


def test_any_bytes_have_a_kind_or_none() -> None:
    rng, cases = Random(5), 800 * FACTOR
    files = list(whole_files().values())
    for n in range(cases):
        content = damaged(rng.choice(files)[: rng.randrange(200)] or b"x", rng) if n % 2 else rng.randbytes(60)
        attempt(f"kind {n}", lambda content=content: kind_of(content))
        attempt(f"scheme {n}", lambda content=content: scheme_of(content.decode("latin-1")))
    record("kinds of files", cases)


def test_other_types_of_sources() -> None:
    arrays = [
        np.zeros(shape, dtype)
        for shape in ((), (0,), (5,), (0, 0), (5, 5), (5, 5, 1), (5, 5, 3), (5, 5, 4), (5, 5, 5), (1, 1, 1, 1))
        for dtype in (np.uint8, np.int64, np.float32, bool, "U3", object)
    ]
    arrays += [np.broadcast_to(np.uint8(1), (10**6, 10**6, 3)), np.ma.masked_array(np.zeros((4, 4), np.uint8))]
    modes = ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA", "RGBX", "RGBa", "La")
    images = [Image.new(mode, (5, 4)) for mode in (*modes, "I;16", "I;16B")]
    closed = Image.new("RGB", (5, 4))
    closed.close()
    others = [5, None, object(), {}, [], (), 3.5, True, set(), type, iter([]), memoryview(np.zeros((4, 4), np.int32))]
    cases = [*arrays, *images, closed, *others]
    for n, source in enumerate(cases):
        attempt(f"source {n}, {type(source).__name__}", lambda source=source: use(source))
    record("sources of other types", len(cases))
