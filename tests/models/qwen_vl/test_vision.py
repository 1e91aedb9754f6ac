from functools import lru_cache

import numpy as np
import paddle
import pytest

from paddlemix import ops
from paddlemix.errors import ImageError
from tests.golden_model import golden_arrays, golden_model, golden_pixels

pytestmark = pytest.mark.usefixtures("any_backend")

IMAGES = ("a.jpg", "b.png", "c.png", "d.png")


@lru_cache(maxsize=8)
def intermediates_on(backend, image):
    """Every stage of the image encoder on the backend in force, each ``[positions, width]``."""
    visual = golden_model().visual
    stages = {}
    with paddle.no_grad():
        stages["embed"] = visual.embed_patches(paddle.to_tensor(golden_pixels(image)[None]))
        stages["ln_pre"], _ = visual.ln_pre(stages["embed"])
        x, residual = stages["ln_pre"], None
        for index, block in enumerate(visual.transformer.resblocks):
            x, residual = block(x, residual)
            stages[f"block{index}"] = x + residual
        stages["resampler"] = visual.attn_pool(x + residual)
        stages["encode"] = visual(paddle.to_tensor(golden_pixels(image)[None]))
    return {name: stage[0].numpy() for name, stage in stages.items()}


def intermediates(image):
    return intermediates_on(ops.mode(), image)


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize(
    ("stage", "rows", "columns"), [("embed", 16, 4), ("ln_pre", 16, 4), ("block0", 8, 3), ("block1", 8, 3)]
)
def test_stages_equal_the_original(image, stage, rows, columns):
    expected = golden_arrays("vision").get(f"vision.{image[0]}.{stage}.slice")
    assert expected is not None
    np.testing.assert_allclose(intermediates(image)[stage][::rows, ::columns], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("stage", ["resampler", "encode"])
def test_features_equal_the_original(image, stage):
    expected = golden_arrays("vision")[f"vision.{image[0]}.{stage}"]
    np.testing.assert_allclose(intermediates(image)[stage], expected, rtol=0, atol=1e-5)


def test_an_image_of_the_tables_own_size_needs_no_resizing():
    with paddle.no_grad():
        features = golden_model().visual(golden_model().visual.blank_images())[0].numpy()
    expected = golden_arrays("vision")["vision.zeros224.encode.slice"]
    np.testing.assert_allclose(features[::4, ::3], expected, rtol=0, atol=1e-5)


def test_an_image_is_encoded_the_same_alone_and_in_a_batch():
    batch = np.stack([golden_pixels(image) for image in IMAGES])
    with paddle.no_grad():
        features = golden_model().visual(paddle.to_tensor(batch)).numpy()
    for row, image in enumerate(IMAGES):
        np.testing.assert_allclose(features[row], intermediates(image)["encode"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [[3, 56, 56], [1, 1, 56, 56], [1, 56, 56, 3], [1, 3, 56, 28], [1, 3, 57, 57]])
def test_pixels_of_another_shape_are_refused(shape):
    with pytest.raises(ImageError, match="images: got shape .*expected .n, 3, side, side."):
        golden_model().visual(paddle.zeros(shape))
