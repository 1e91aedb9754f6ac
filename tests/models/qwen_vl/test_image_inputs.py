import numpy as np
import pytest
from PIL import Image

from paddlemix.engine.options import GenerationOptions
from paddlemix.errors import ImageError, PromptError
from paddlemix.media import ImagePolicy
from paddlemix.models.qwen_vl.image_inputs import (
    id_array,
    image_sources_from_ids,
    left_padding,
    load_images_of_ids,
    spans_from,
)
from tests.golden_model import FOLDER, golden_config, golden_pixels

IMG, END, PAD, EOD = 300, 301, 302, 290
STOP_IS_PAD = GenerationOptions(eos_token_id=(EOD,), pad_token_id=EOD)
STOP_IS_OTHER = GenerationOptions(eos_token_id=(291,), pad_token_id=EOD)


def span(path):
    content = list(path.encode()) if isinstance(path, str) else path
    return [IMG, *content, *[PAD] * (256 - len(content)), END]


def sources(*rows):
    return image_sources_from_ids(np.array(rows), golden_config().visual)


def test_paths_are_read_in_order_over_the_rows():
    assert sources([*span("a.jpg"), 5, *span("目录/b.png")], [*span("c.png"), 5, *span("d")]) == [
        "a.jpg",
        "目录/b.png",
        "c.png",
        "d",
    ]


@pytest.mark.parametrize("length", [254, 255, 256])
def test_a_path_may_fill_the_span(length):
    assert sources(span("x" * length)) == ["x" * length]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (span(""), "pass images="),
        (span([270, 271]), "other ids than the bytes of a path"),
        (span([0xC3, 0x28]), "not UTF-8"),
        ([IMG, 5, 6], "without its </img>"),
    ],
)
def test_spans_without_a_readable_path_are_refused(row, message):
    with pytest.raises(PromptError, match=message):
        sources(row)


def test_images_are_read_under_the_policy(monkeypatch):
    monkeypatch.chdir(FOLDER / "images")
    ids = np.array([[*span("a.jpg"), *span("b.png"), *span("a.jpg")]])
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
    ids = np.array([[*span("x"), *span("y"), *span("x")]])
    assert load_images_of_ids(ids, golden_config().visual).shape == [3, 3, 448, 448]
    assert opened == ["x", "y"]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2], r"\[batch, length\]"),
        ([[1], [1, 2]], "unequal length"),
        ([[]], r"\[batch, length\]"),
        ([[0.5]], "integers"),
        ([[512]], "0 to 511"),
        ([[-1]], "0 to 511"),
    ],
)
def test_ids_are_checked(ids, message):
    with pytest.raises(PromptError, match=message):
        id_array(ids, golden_config())


def test_padding_is_taken_from_the_mask():
    mask = left_padding(np.array([[EOD, 1, 2], [3, 4, 5]]), [[0, 1, 1], [1, 1, 1]], STOP_IS_PAD)
    np.testing.assert_array_equal(mask, [[False, True, True], [True, True, True]])


def test_a_mask_without_zeros_is_none():
    assert left_padding(np.array([[1, 2]]), [[1, 1]], STOP_IS_PAD) is None


def test_padding_is_derived_where_it_cannot_be_mistaken():
    ids = np.array([[EOD, EOD, 1, EOD, 2], [1, 2, 3, 4, 5]])
    np.testing.assert_array_equal(left_padding(ids, None, STOP_IS_OTHER)[0], [False, False, True, True, True])
    assert left_padding(ids[1:].repeat(2, 0), None, STOP_IS_PAD) is None
    assert left_padding(ids[:1], None, STOP_IS_PAD) is None  # one row needs no padding


def test_a_mask_is_demanded_where_padding_may_be_a_stop_token():
    with pytest.raises(PromptError, match="attention_mask: needed, because 290"):
        left_padding(np.array([[EOD, 1], [1, 2]]), None, STOP_IS_PAD)


@pytest.mark.parametrize(
    ("mask", "message"), [([[1, 1, 0]], "zeros behind ones"), ([[1, 1]], "shape"), ([[0, 0, 0]], "nothing but padding")]
)
def test_unusable_masks_are_refused(mask, message):
    with pytest.raises(PromptError, match=message):
        left_padding(np.array([[1, 2, 3]]), mask, STOP_IS_PAD)


def test_spans_are_told_apart_by_their_position():
    row = [5, *span("x"), 5, *span("y")]
    visual = golden_config().visual
    assert spans_from(np.array([row, row]), 0, visual).tolist() == [True] * 4
    assert spans_from(np.array([row, row]), 100, visual).tolist() == [False, True] * 2
