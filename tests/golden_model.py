"""The small checkpoint of which the PyTorch original's numbers are known, and those numbers."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddlemix.models.qwen_vl.configuration import QWenVLConfig
from paddlemix.models.qwen_vl.image_placeholders import PlaceholderFormat
from paddlemix.models.qwen_vl.image_processing import QwenVLImageProcessor
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel

FOLDER = Path(__file__).resolve().parent / "fixtures" / "golden" / "model"
LANGUAGE_CASES = (
    "text_short", "one_image", "two_images", "long_a3", "long_a7", "cross_a1", "cross_a3",
    "batch_mixed", "batch_text", "batch_long", "batch_cross",
)  # fmt: skip
NTK_ALPHA = {
    "text_short": 1, "one_image": 7, "two_images": 15, "long_a3": 3, "long_a7": 7, "cross_a1": 1, "cross_a3": 3,
    "batch_mixed": 7, "batch_text": 1, "batch_long": 3, "batch_cross": 1,
}  # fmt: skip

# Tolerances: several times the noise of the original between builds, and well below the effect of any known mistake.
LOGITS = 3e-4
CACHES = 5e-5
HIDDEN = 2e-5
FINAL_HIDDEN = 1e-4


@lru_cache(maxsize=1)
def golden_model() -> QWenLMHeadModel:
    """The model, shared by all tests: leave it as it is."""
    return new_golden_model()


def new_golden_model(**overrides: Any) -> QWenLMHeadModel:
    return QWenLMHeadModel.from_pretrained(FOLDER / "ckpt_safetensors", dtype="float32", **overrides)


def golden_config() -> QWenVLConfig:
    return golden_model().config


@lru_cache(maxsize=3)
def golden_arrays(name: str) -> dict[str, np.ndarray]:
    """All arrays of ``vision``, ``language`` or ``train``. Large ones are thinned out: see :func:`compare`."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


@lru_cache(maxsize=8)
def golden_pixels(name: str) -> np.ndarray:
    """A golden image as model input, float32 ``[3, 448, 448]``."""
    return QwenVLImageProcessor()(FOLDER / "images" / name)[0]


def prompt(case: str) -> dict[str, Any]:
    """What the model is called with: ``input_ids``, ``images`` and ``attention_mask`` of a case."""
    arrays = golden_arrays("language")
    ids = arrays[f"{case}.input_ids"].astype(np.int64)
    mask = arrays.get(f"{case}.attention_mask")
    return {
        "input_ids": paddle.to_tensor(ids),
        "images": images_of(ids),
        "attention_mask": None if mask is None else paddle.to_tensor(mask.astype(np.int64)),
    }


def images_of(ids: np.ndarray) -> paddle.Tensor | None:
    """Pixels of the images that the ids name, or ``None``."""
    sources = PlaceholderFormat.of(golden_config().visual).paths(ids)
    return paddle.to_tensor(np.stack([golden_pixels(source) for source in sources])) if sources else None


def compare(actual: np.ndarray, name: str, tolerance: float) -> None:
    """Compare with a golden array of the language cases, of whose positions every seventh may be kept."""
    arrays = golden_arrays("language")
    if name in arrays:
        np.testing.assert_allclose(actual, arrays[name], rtol=0, atol=tolerance)
    else:
        np.testing.assert_allclose(actual[::7], arrays[f"{name}.every7"], rtol=0, atol=tolerance)
