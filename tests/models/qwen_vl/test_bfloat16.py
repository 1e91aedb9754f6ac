"""bfloat16 against the original's bfloat16 run; needs a GPU (run with CUDA_VISIBLE_DEVICES set)."""

import numpy as np
import paddle
import pytest

from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from tests.golden_model import FOLDER, golden_arrays, golden_pixels, prompt

pytestmark = pytest.mark.skipif(paddle.device.cuda.device_count() == 0, reason="bfloat16 needs a GPU")


@pytest.fixture(scope="module")
def model():
    paddle.set_device("gpu")
    return QWenLMHeadModel.from_pretrained(FOLDER / "ckpt_safetensors", dtype="bfloat16")


@pytest.fixture(scope="module")
def original():
    with np.load(FOLDER / "bf16.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def assert_no_worse_than_the_original(actual, original, exact):
    """Error against the float32 numbers, at most twice the error of the original's bfloat16."""
    ours, theirs = np.abs(actual - exact), np.abs(original - exact)
    assert np.sqrt((ours**2).mean()) <= 2 * np.sqrt((theirs**2).mean())
    assert np.quantile(ours, 0.99) <= 2 * np.quantile(theirs, 0.99)


@pytest.mark.parametrize("image", ["a.jpg", "b.png", "c.png", "d.png"])
def test_features(model, original, image):
    with paddle.no_grad():
        features = model.visual(paddle.to_tensor(golden_pixels(image)[None]))[0].astype("float32").numpy()
    exact = golden_arrays("vision")[f"vision.{image[0]}.encode"][::2, ::2]
    assert_no_worse_than_the_original(features[::2, ::2], original[f"bf16.vision.{image[0]}.encode"], exact)


def test_logits(model, original):
    with paddle.no_grad():
        logits = model(**prompt("text_short")).logits[0].astype("float32").numpy()
    exact = golden_arrays("language")["text_short.logits"]
    assert_no_worse_than_the_original(logits, original["bf16.text_short.logits"], exact)
