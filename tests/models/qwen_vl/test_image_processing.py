"""Images as the model sees them: equal to the original's, pixel for pixel."""

from __future__ import annotations

import hashlib
import io
import json
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemix.errors import ConfigurationError, ImageError
from paddlemix.media import ImagePolicy
from paddlemix.models.qwen_vl.image_placeholders import PlaceholderFormat
from paddlemix.models.qwen_vl.image_processing import QwenVLImageProcessor, image_key, load_images_of_ids
from tests.golden_model import FOLDER, golden_config, golden_pixels

NAMES = ["a.jpg", "b.png", "c.png", "d.png"]
FORM = PlaceholderFormat.of(golden_config().visual)


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict:
    with np.load(golden_dir / "model" / "vision.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files if ".resized_u8" in name or ".pixels" in name}


@pytest.mark.parametrize("name", NAMES)
def test_resized_images_equal_the_originals(name, golden, golden_dir):
    path = golden_dir / "model" / "images" / name
    meta = json.loads((golden_dir / "model" / "meta.json").read_text())
    resized = np.asarray(QwenVLImageProcessor().resize(Image.open(path)))
    expected = golden[f"vision.{path.stem}.resized_u8.slice"]
    off = np.abs(resized[::7, ::7].astype(int) - expected)
    if path.suffix == ".png":
        assert off.max() == 0
        assert hashlib.sha256(resized.tobytes()).hexdigest() == meta["images"][name]["resized_u8_sha256"]
    else:  # JPEG decoders may differ by one level
        assert off.max() <= 1 and (off > 0).mean() <= 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_normalized_pixels_equal_the_originals(name, golden, golden_dir):
    path = golden_dir / "model" / "images" / name
    pixels = QwenVLImageProcessor()(path)
    assert pixels.shape == (1, 3, 448, 448) and pixels.dtype == np.float32
    expected = golden[f"vision.{path.stem}.pixels.slice"]
    np.testing.assert_allclose(pixels[0, :, ::7, ::7], expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(pixels[0].mean(axis=(1, 2)), golden[f"vision.{path.stem}.pixels.mean"], atol=2e-6)
    np.testing.assert_allclose(pixels[0].std(axis=(1, 2)), golden[f"vision.{path.stem}.pixels.std"], atol=2e-6)


def test_a_batch_is_its_images_in_order(golden_dir):
    processor = QwenVLImageProcessor(image_size=56)
    paths = [golden_dir / "model" / "images" / name for name in NAMES]
    batch = processor(paths)
    assert batch.shape == (4, 3, 56, 56)
    for index, path in enumerate(paths):
        assert np.array_equal(batch[index], processor(Image.open(path))[0])
    assert processor([]).shape == (0, 3, 56, 56)


def half_transparent(mode: str) -> Image.Image:
    """Left half opaque red, right half transparent green."""
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 255))
    image.paste((0, 255, 0, 0), (8, 0, 16, 16))
    if mode == "RGB with a transparent color":
        image = image.convert("RGB")
        image.info["transparency"] = (0, 255, 0)
    elif mode == "P":
        image = image.convert("RGB").quantize(2)
        green = image.getpixel((12, 4))
        image.info["transparency"] = bytes(0 if i == green else 255 for i in range(2))
    return image


@pytest.mark.parametrize("mode", ["RGBA", "RGB with a transparent color", "P"])
def test_transparency_is_dropped_by_default_and_filled_on_request(mode):
    image = half_transparent(mode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dropped = QwenVLImageProcessor().to_rgb(image)
        filled = QwenVLImageProcessor(background=(10, 20, 30)).to_rgb(image)
    assert dropped.getpixel((4, 4)) == filled.getpixel((4, 4)) == (255, 0, 0)
    assert dropped.getpixel((12, 4)) == (0, 255, 0)
    assert filled.getpixel((12, 4)) == (10, 20, 30)


def test_an_opaque_image_is_the_same_on_any_background():
    image = Image.linear_gradient("L")
    on_white = QwenVLImageProcessor(background=[255, 255, 255]).to_rgb(image)
    assert on_white.tobytes() == QwenVLImageProcessor().to_rgb(image).tobytes()


def test_exif_orientation_is_ignored_by_default_and_applied_on_request():
    image = Image.new("RGB", (40, 20), "red")
    image.paste("blue", (20, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    as_stored = QwenVLImageProcessor(image_size=8)(buffer.getvalue())
    upright = QwenVLImageProcessor(image_size=8, exif_transpose=True)(buffer.getvalue())
    assert np.array_equal(as_stored, QwenVLImageProcessor(image_size=8)(image))
    assert np.array_equal(upright, as_stored[:, :, ::-1, ::-1])


def test_broken_exif_data_does_not_keep_an_image_from_loading():
    rng = random.Random(3)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A] = 6, "a description" * 5, 72.0
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(buffer, "JPEG", exif=exif)
    data = bytearray(buffer.getvalue())
    start = data.index(b"Exif\0\0") + 6
    upright = QwenVLImageProcessor(image_size=8, exif_transpose=True)
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            damaged[start + rng.randrange(100)] = rng.randrange(256)
        assert upright(bytes(damaged)).shape == (1, 3, 8, 8)


def test_unusable_images_raise_image_errors():
    with pytest.raises(ImageError):
        QwenVLImageProcessor()([b"not an image"])


def test_settings_survive_a_round_trip_through_json():
    processor = QwenVLImageProcessor(image_size=168, exif_transpose=True, background=(1, 2, 3))
    settings = json.loads(json.dumps(processor.to_dict()))
    assert QwenVLImageProcessor.from_dict(settings).to_dict() == processor.to_dict()


@pytest.mark.parametrize(
    "settings",
    [
        {"image_size": 0},
        {"image_size": 448.0},
        {"image_size": True},
        {"exif_transpose": 1},
        {"background": "white"},
        {"background": [0, 0]},
        {"background": [0, 0, 256]},
        {"do_resize": False},
    ],
)
def test_senseless_settings_are_refused_by_name(settings):
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        QwenVLImageProcessor.from_dict(settings)


def test_keys_are_equal_exactly_when_the_model_input_is():
    small, large = QwenVLImageProcessor(image_size=56), QwenVLImageProcessor(image_size=112)
    rows = np.arange(30 * 100 * 3, dtype=np.uint32).reshape(30, 100, 3).astype(np.uint8)
    wide, tall = Image.fromarray(rows), Image.fromarray(rows.reshape(100, 30, 3))
    buffer = io.BytesIO()
    wide.save(buffer, "PNG")
    assert image_key(wide, small) == image_key(Image.open(buffer), small)
    transparent = half_transparent("RGBA")
    keys = [
        image_key(wide, small),
        image_key(tall, small),
        image_key(wide, large),
        image_key(transparent, small),
        image_key(transparent, QwenVLImageProcessor(image_size=56, background=(255, 255, 255))),
    ]
    assert len(set(keys)) == 5 and all(len(key) == 64 for key in keys)


def test_images_are_read_under_the_policy(monkeypatch):
    monkeypatch.chdir(FOLDER / "images")
    ids = np.array([[*FORM.encode("a.jpg"), *FORM.encode("b.png"), *FORM.encode("a.jpg")]])
    pixels = load_images_of_ids(ids, golden_config().visual).numpy()
    for row, name in enumerate(("a.jpg", "b.png", "a.jpg")):
        np.testing.assert_array_equal(pixels[row], golden_pixels(name))
    with pytest.raises(ImageError):
        load_images_of_ids(ids, golden_config().visual, ImagePolicy.server())


def test_an_image_named_twice_is_read_once(monkeypatch):
    opened = []

    def load(source, policy):
        opened.append(source)
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr("paddlemix.models.qwen_vl.image_processing.load_image", load)
    ids = np.array([[*FORM.encode("x"), *FORM.encode("y"), *FORM.encode("x")]])
    assert load_images_of_ids(ids, golden_config().visual).shape == [3, 3, 448, 448]
    assert opened == ["x", "y"]
