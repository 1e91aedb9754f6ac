"""The guarded image loader: every kind of source, every kind of damage, one kind of error."""

from __future__ import annotations

import base64
import io
import os
import random
import struct
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from paddlemix.errors import FetchError, ImageError
from paddlemix.media import ImagePolicy, load_image
from paddlemix.media.loading import check_header, full_size
from paddlemix.media.orientation import orientation


def gradient(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    values = np.arange(width * height * 3, dtype=np.uint32).reshape(height, width, 3) % 251
    return Image.fromarray(values.astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_with_size(width: int, height: int) -> bytes:
    """A PNG whose header promises a size that its data does not have."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message and len(message) < 400
    return message


def test_the_same_image_comes_out_of_every_kind_of_source(tmp_path):
    image = gradient()
    data = encoded(image)
    path = tmp_path / "图 1.png"
    path.write_bytes(data)
    text = base64.b64encode(data).decode()
    sources = [
        image,
        data,
        bytearray(data),
        memoryview(data),
        path,
        str(path),
        f"data:image/png;base64,{text}",
        f"DATA:image/png;name=a.png;base64,{text[:40]}\n{text[40:]}",
        "data:;base64," + text.replace("+", "%2B").replace("=", "%3D"),
        np.asarray(image),
        np.asarray(image)[:, ::-1][:, ::-1],
    ]
    for source in sources:
        assert np.array_equal(np.asarray(load_image(source).convert("RGB")), np.asarray(image))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_supported_formats_load(format):
    assert load_image(encoded(gradient(), format)).size == (40, 30)


@pytest.mark.parametrize("format", ["PPM", "ICO", "EPS"])
def test_other_formats_are_refused(format):
    with pytest.raises(ImageError, match="not an image of a supported format"):
        load_image(encoded(gradient(), format))


def test_tiff_and_avif_open_but_not_for_strangers(tmp_path):
    sources = {"a TIFF image": encoded(gradient(), "TIFF")}
    if features.check("avif"):
        sources["an AVIF image"] = encoded(gradient(), "AVIF")
    for kind, data in sources.items():
        path = tmp_path / "a"
        path.write_bytes(data)
        for source in (data, path):
            assert load_image(source, ImagePolicy.scripts()).convert("RGB").size == (40, 30)
        with pytest.raises(ImageError, match=f"it is {kind}: this image policy does not open"):
            load_image(data, ImagePolicy.server())


def test_tiff_comes_upright_as_its_format_says():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = load_image(encoded(gradient(40, 30), "TIFF", exif=exif))
    assert image.size == (30, 40) and orientation(image) == 1


def test_heic_opens_with_its_package_or_names_it(monkeypatch):
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    with pytest.raises(ImageError, match="is a HEIC image, which needs the package pillow-heif"):
        load_image(heic)
    opener = types.SimpleNamespace(
        register_heif_opener=lambda: monkeypatch.setitem(
            Image.OPEN, "HEIF", (lambda file, name: Image.new("RGB", (4, 3)), None)
        )
    )
    monkeypatch.setitem(sys.modules, "pillow_heif", opener)
    assert load_image(heic).size == (4, 3)
    with pytest.raises(ImageError, match="this image policy does not open"):
        load_image(heic, ImagePolicy.server())


@pytest.mark.parametrize("factor, most", [(1, 160 * 120), (2, 160 * 120 - 1), (4, 40 * 30), (8, 20 * 15)])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_large_jpeg_is_decoded_at_a_part_of_its_size(factor, most, progressive, tmp_path):
    image = gradient(160, 120).resize((161, 119)).resize((160, 120))
    data = encoded(image, "JPEG", progressive=progressive)
    policy = ImagePolicy(max_pixels=most)
    if progressive and factor > 2:
        with pytest.raises(ImageError, match="progressive form"):
            load_image(data, policy)
        return
    loaded = load_image(data, policy)
    assert loaded.size == (160 // factor, 120 // factor)
    assert full_size(loaded) == (160, 120) == check_header(data, policy).size
    expected = np.asarray(image.resize(loaded.size, Image.Resampling.BOX), int)
    assert np.abs(np.asarray(loaded.convert("RGB"), int) - expected).mean() < 12
    assert full_size(loaded.crop((0, 0, 10, 10))) == (10, 10)


def test_a_jpeg_beyond_an_eighth_and_every_other_format_is_refused():
    with pytest.raises(ImageError, match="raise the limit"):
        load_image(encoded(gradient(160, 120), "JPEG"), ImagePolicy(max_pixels=299))
    for format in ("PNG", "WEBP", "BMP"):
        with pytest.raises(ImageError, match=r"more than the limit of 1000 \(max_pixels\)"):
            load_image(encoded(gradient(), format), ImagePolicy(max_pixels=1000))


def test_the_limit_of_pixels_goes_beyond_that_of_pillow(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert load_image(encoded(gradient()), ImagePolicy(max_pixels=1200)).size == (40, 30)


def test_a_jpeg_with_images_behind_it_is_its_first_one():
    image = gradient(160, 120)
    data = encoded(image, "MPO", save_all=True, append_images=[image.rotate(90)])
    assert load_image(data).size == (160, 120)
    assert load_image(data, ImagePolicy(max_pixels=80 * 60)).size == (80, 60)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_thin_images_load(size):
    assert load_image(encoded(gradient(*size))).size == size


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "PA", "RGBa"])
def test_modes_that_convert_to_rgb_pass_through(mode):
    image = gradient().convert(mode)
    assert np.array_equal(np.asarray(load_image(image).convert("RGB")), np.asarray(image.convert("RGB")))


def test_cmyk_jpeg_loads():
    loaded = load_image(encoded(gradient(mode="CMYK"), "JPEG", quality=95)).convert("RGB")
    assert np.abs(np.asarray(loaded, dtype=int) - np.asarray(gradient(mode="CMYK").convert("RGB"))).mean() < 20


def test_sixteen_bit_gray_is_scaled_not_clipped():
    levels = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    from_file = load_image(encoded(Image.fromarray(levels)))
    from_32_bit_mode = load_image(Image.fromarray(levels.astype(np.int32)))
    assert np.array_equal(np.asarray(from_file.convert("RGB"))[..., 0], levels >> 8)
    assert np.array_equal(np.asarray(from_32_bit_mode), levels >> 8)


@pytest.mark.parametrize("pixels", [np.zeros((4, 4), np.float32), np.full((4, 4), 70000, np.int32)])
def test_pil_images_beyond_sixteen_bits_are_refused(pixels):
    with pytest.raises(ImageError, match="expected 8 or 16 bits"):
        load_image(Image.fromarray(pixels))


def test_premultiplied_gray_is_refused_since_it_has_no_way_to_rgb():
    with pytest.raises(ImageError, match="mode La"):
        load_image(Image.new("La", (4, 4)))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(format):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=50, **options)
    assert load_image(data).convert("RGB").getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_kept_but_not_applied(format):
    exif = Image.Exif()
    exif[0x0112] = 6
    loaded = load_image(encoded(gradient(40, 30), format, exif=exif))
    assert loaded.size == (40, 30)
    assert loaded.getexif()[0x0112] == 6


def test_the_callers_image_is_not_changed():
    image = gradient(mode="RGBA")
    before = image.tobytes()
    load_image(image)
    assert image.mode == "RGBA" and image.tobytes() == before


@pytest.mark.parametrize(
    "array, problem",
    [
        (np.zeros((4, 4, 3), np.float32), "expected uint8"),
        (np.zeros((4, 4, 3), np.int64), "expected uint8"),
        (np.zeros((4, 4, 2), np.uint8), r"expected \[height, width\]"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"expected \[height, width\]"),
        (np.zeros((0, 4, 3), np.uint8), "at least one pixel"),
    ],
)
def test_arrays_of_other_kinds_are_refused_with_shape_and_dtype(array, problem):
    with pytest.raises(ImageError, match=problem) as error:
        load_image(array)
    assert str(array.shape) in one_line(error) and str(array.dtype) in one_line(error)


def test_a_view_of_more_pixels_than_memory_is_refused_before_it_is_copied():
    view = np.lib.stride_tricks.as_strided(np.zeros(3, np.uint8), (10**6, 10**6, 3), (0, 0, 1))
    with pytest.raises(ImageError, match="1000000x1000000 pixels"):
        load_image(view)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_uint8_arrays_are_height_width_channels(shape):
    assert load_image(np.zeros(shape, np.uint8)).size == (7, 5)


@pytest.mark.parametrize("source", [None, 3, ["a.png"], io.BytesIO(b"")])
def test_other_types_are_refused_by_name(source):
    with pytest.raises(ImageError, match=type(source).__name__):
        load_image(source)


def test_files_that_cannot_be_images_are_refused(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "notes.png").write_text("not an image")
    cases = [
        (tmp_path / "missing.png", "does not exist"),
        (tmp_path, "directory"),
        (tmp_path / "empty.png", "is empty"),
        (tmp_path / "notes.png", "not an image"),
        ("", "path is empty"),
        ("a\0b.png", "cannot be read"),
        ("x" * 5000, "cannot be read"),
    ]
    for source, problem in cases:
        with pytest.raises(ImageError, match=problem) as error:
            load_image(source)
        one_line(error)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes and device files are a POSIX thing")
def test_devices_and_pipes_are_refused_without_reading_them(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for source, kind in ((tmp_path / "pipe.png", "a named pipe"), ("/dev/zero", "a device")):
        with pytest.raises(ImageError, match=f"cannot be read: it is {kind}, expected a regular file"):
            load_image(source)


def test_refused_files_leave_no_open_descriptor(tmp_path):
    listing = Path("/proc/self/fd")
    if not listing.is_dir():
        pytest.skip("needs /proc")
    before = len(list(listing.iterdir()))
    for _ in range(5):
        with pytest.raises(ImageError):
            load_image(tmp_path)
    assert len(list(listing.iterdir())) == before


@pytest.mark.parametrize(
    "url, problem",
    [
        ("data:image/png,abc", "expected data:image"),
        ("data:image/png;base64", "expected data:image"),
        ("data:text/html;base64,PGI+", "text/html"),
        ("data:image/png;base64,@@@@", "malformed base64"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png;base64,aGVsbG8=", "not an image"),
        ("ftp://example.com/a.png", "scheme 'ftp://'"),
        ("file:///etc/passwd", "not an image"),
    ],
)
def test_bad_urls_are_refused(url, problem):
    with pytest.raises(ImageError, match=problem) as error:
        load_image(url, ImagePolicy.scripts())
    one_line(error)


def test_policies_open_and_close_the_sources(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(gradient()))
    with pytest.raises(ImageError, match="reads no local files"):
        load_image(path, ImagePolicy.server())
    for policy in (ImagePolicy(), ImagePolicy.server()):
        with pytest.raises(FetchError, match="takes no http"):
            load_image("http://example.com/a.png", policy)
    assert load_image(path, ImagePolicy.scripts()).size == (40, 30)
    assert load_image(path.read_bytes(), ImagePolicy.server()).size == (40, 30)


@pytest.mark.parametrize("size", [(6000, 6000), (12000, 12000), (40000, 40000), (1, 40_000_000)])
def test_bombs_are_refused_by_their_header(size):
    with pytest.raises(ImageError, match="limit of 32000000"):
        load_image(png_with_size(*size))


def test_zero_sized_images_are_refused():
    with pytest.raises(ImageError):
        load_image(png_with_size(0, 5))
    with pytest.raises(ImageError, match="0x5"):
        load_image(Image.new("RGB", (0, 5)))


def test_limits_hold_for_every_kind_of_source(tmp_path):
    image = gradient()
    data = encoded(image)
    path = tmp_path / "a.png"
    path.write_bytes(data)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    assert load_image(url, ImagePolicy(max_bytes=len(data), max_pixels=1200)).size == (40, 30)
    for source in (path, data, url):
        with pytest.raises(ImageError, match="bytes"):
            load_image(source, ImagePolicy(max_bytes=len(data) - 1))
    for source in (image, path, data, url, np.asarray(image)):
        with pytest.raises(ImageError, match="40x30 pixels, more than the limit of 1199"):
            load_image(source, ImagePolicy(max_pixels=1199))


def test_truncated_images_are_refused(tmp_path):
    for format in ("JPEG", "PNG", "WEBP", "BMP"):
        data = encoded(gradient(), format)
        with pytest.raises(ImageError):
            load_image(data[: len(data) // 2])
    path = tmp_path / "half.jpg"
    path.write_bytes(encoded(gradient(), "JPEG")[:700])
    with Image.open(path) as lazily_opened, pytest.raises(ImageError, match="PIL image is damaged"):
        load_image(lazily_opened)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_damaged_bytes_raise_nothing_but_image_errors(format):
    rng = random.Random(7)
    data = encoded(gradient(24, 18), format)
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        if rng.random() < 0.5:
            del damaged[rng.randrange(len(damaged)) :]
        try:
            load_image(bytes(damaged)).convert("RGB")
        except ImageError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 0


@pytest.mark.parametrize(
    "field, value",
    [("max_bytes", 0), ("max_pixels", 1.5), ("timeout", 0), ("timeout", float("nan")), ("max_redirects", -1)],
)
def test_a_policy_with_senseless_limits_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        ImagePolicy(**{field: value})


def test_a_header_tells_what_is_no_image_and_what_is_too_large_without_decoding(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8))
    long_header = Image.Exif()
    long_header[0x010E] = "x" * 60_000
    contents = {
        "good": encoded(noise),
        "cut": encoded(noise)[:2000],
        "long": encoded(noise, "JPEG", exif=long_header, icc_profile=b"x" * 60_000),
        "text": b"no image",
        "empty": b"",
        "bomb": png_with_size(30_000, 30_000),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name in ("good", "cut", "long"):
        check_header(tmp_path / name)
    refused = {
        "text": "not an image",
        "empty": "is empty",
        "bomb": "more than the limit of 32000000",
        "none": "does not exist",
    }
    for name, problem in refused.items():
        with pytest.raises(ImageError, match=problem):
            check_header(tmp_path / name)
    with pytest.raises(ImageError, match="larger than the limit of 100000 bytes"):
        check_header(str(tmp_path / "good"), ImagePolicy(max_bytes=100_000))
    with pytest.raises(ImageError, match="reads no local files"):
        check_header(tmp_path / "good", ImagePolicy.server())
