"""The bundled model says the same whatever its operators run on."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlemix import ops
from paddlemix.inference import load_model
from paddlemix.zoo import DEFAULT_MODEL, DEMO_IMAGE
from tests.backends import require_library

PROMPTS = ("Describe the picture with boxes.", "图中有几个物体?", "Where is the red apple?")


@pytest.fixture(scope="module")
def loaded():
    return load_model(DEFAULT_MODEL, device="cpu")


def answers(loaded, prompt):
    model, processor = loaded.model, loaded.processor
    inputs = processor(prompt, DEMO_IMAGE, return_tensors="pd")
    ids, _ = model.generate(inputs["input_ids"], images=inputs["images"], max_new_tokens=48, do_sample=False)
    return ids.numpy().tolist()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_tokens_are_the_same_in_plain_paddle_and_on_the_kernels(loaded, prompt):
    require_library()
    with ops.using("reference"):
        expected = answers(loaded, prompt)
    with ops.using("cpu"):
        assert answers(loaded, prompt) == expected


def test_a_16_bit_cache_changes_the_logits_a_little(any_backend):
    model = load_model(DEFAULT_MODEL, device="cpu", kv_cache_dtype="bfloat16")
    assert model.model.new_cache(1, 4).keys[0].dtype == paddle.bfloat16
    inputs = model.processor(PROMPTS[0], DEMO_IMAGE, return_tensors="pd")
    logits = []
    for dtype in ("bfloat16", "float32"):
        model.model.config.kv_cache_dtype = dtype
        with paddle.no_grad():
            logits.append(model.model(inputs["input_ids"], images=inputs["images"]).logits[0, -1].numpy())
    difference = np.abs(logits[0] - logits[1]).max()
    assert 0 < difference < 0.02 * np.abs(logits[1]).max()
