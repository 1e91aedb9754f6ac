"""GPTQ: better than rounding to nearest, written in the published format, read again exactly."""

from __future__ import annotations

import json
import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from examples.bundled_model.scenes.scene import generate_scene
from examples.bundled_model.scenes.tasks import make_conversations
from paddlemix.checkpoint import writer
from paddlemix.data.calibration import model_inputs
from paddlemix.errors import CheckpointError, ConfigurationError, NumericalError, TargetError
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from paddlemix.models.qwen_vl.processing import QwenVLProcessor
from paddlemix.models.qwen_vl.weights import WEIGHTS
from paddlemix.quantization import export
from paddlemix.quantization.gptq import RoundedWeight, best_scales, calibrate, round_weight
from paddlemix.quantization.tiles import dequantized
from paddlemix.zoo import DEFAULT_MODEL_DIR
from tests.checkpoint.building import open_checkpoint
from tests.random_model import random_model

check_export = partial(export.check_export, table=WEIGHTS)
save_gptq = partial(export.save_gptq, table=WEIGHTS)


def nearest(weight: np.ndarray) -> np.ndarray:
    """``weight`` rounded to nearest with a scale for each 128 inputs."""
    parts = []
    for start in range(0, len(weight), 128):
        group = weight[start : start + 128]
        scale = best_scales(group, np.ones(len(group), np.float32)).astype(np.float32)
        parts.append(np.clip(np.rint(group / scale), -8, 7) * scale)
    return np.concatenate(parts)


def correlated_inputs(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    return (rng.standard_normal((rows, width // 4)) @ rng.standard_normal((width // 4, width))).astype(np.float32)


@pytest.mark.parametrize(("in_features", "out_features"), [(128, 5), (192, 40), (300, 1100)])
def test_outputs_err_less_than_with_rounding_to_nearest(in_features, out_features):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((in_features, out_features)).astype(np.float32)
    x = correlated_inputs(rng, 500, in_features)
    rounded = round_weight(weight, x.T.astype(np.float64) @ x)
    assert rounded.q.dtype == np.int8 and -8 <= rounded.q.min() < rounded.q.max() <= 7
    assert rounded.scales.dtype == np.float16 and rounded.scales.shape == (-(-in_features // 128), out_features)
    errors = [np.square(x @ (w - weight)).sum() for w in (rounded.dequantized(), nearest(weight))]
    assert errors[0] < 0.6 * errors[1]


def test_with_inputs_that_have_nothing_in_common_it_is_rounding_to_nearest():
    weight = np.random.default_rng(1).standard_normal((200, 30)).astype(np.float32)
    np.testing.assert_array_equal(round_weight(weight, np.eye(200)).dequantized(), nearest(weight))


def test_inputs_that_are_always_zero_get_no_weight_and_disturb_nothing():
    rng = np.random.default_rng(2)
    weight, x = rng.standard_normal((64, 8)).astype(np.float32), correlated_inputs(rng, 100, 64)
    x[:, 7] = 0
    rounded = round_weight(weight, x.T.astype(np.float64) @ x)
    assert not rounded.q[7].any() and np.isfinite(rounded.dequantized()).all()


def test_inputs_that_are_not_finite_are_refused_by_layer():
    hessian = np.eye(8)
    hessian[3, 3] = np.nan
    with pytest.raises(NumericalError, match="h.0.c_attn: its calibration inputs hold NaN"):
        round_weight(np.ones((8, 8), np.float32), hessian, name="h.0.c_attn")


def test_too_few_inputs_for_the_damping_are_told():
    with pytest.raises(NumericalError, match="w1: its calibration inputs do not tell .* damping=0; use more samples"):
        round_weight(np.ones((8, 8), np.float32), np.ones((8, 8)), damping=0, name="w1")


# ---------------------------------------------------------------- whole models


def scenes(first: int, count: int) -> list:
    """Questions and answers about drawn scenes, as messages."""
    result = []
    for seed in range(first, first + count):
        scene = generate_scene(seed, size=168)
        for conversation in make_conversations(scene, np.random.default_rng(seed), 2):
            question, answer = conversation.turns[0]
            content = [{"type": "image", "image": scene.pil()}, {"type": "text", "text": question}]
            result.append(([{"role": "user", "content": content}, {"role": "assistant", "content": answer}], False))
    return result


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """The bundled model after calibration, its rounded weights, and the folder that it was written to."""
    processor = QwenVLProcessor.from_pretrained(DEFAULT_MODEL_DIR)
    model = QWenLMHeadModel.from_pretrained(DEFAULT_MODEL_DIR)
    lines: list[str] = []
    samples = model_inputs(scenes(2**33, 15), processor, max_length=512)
    rounded = calibrate(model, samples, progress=lines.append)
    assert len(lines) == len(model.transformer.h)
    folder = tmp_path_factory.mktemp("gptq") / "model"
    save_gptq(DEFAULT_MODEL_DIR, rounded, folder)
    return model, rounded, folder


def log_probabilities(model: QWenLMHeadModel) -> np.ndarray:
    processor = QwenVLProcessor.from_pretrained(DEFAULT_MODEL_DIR)
    rows = []
    with paddle.no_grad():
        for inputs in model_inputs(scenes(2**34, 8), processor, max_length=512):
            rows.append(paddle.nn.functional.log_softmax(model(**inputs, use_cache=False).logits[0]).numpy())
    return np.concatenate(rows)


def test_a_calibrated_model_is_nearer_to_the_float_one_than_rounding_to_nearest(calibrated):
    exact = log_probabilities(QWenLMHeadModel.from_pretrained(DEFAULT_MODEL_DIR))
    divergence = []
    for folder in (calibrated[2], DEFAULT_MODEL_DIR):
        found = log_probabilities(QWenLMHeadModel.from_pretrained(folder, quantization="int4"))
        divergence.append((np.exp(exact) * (exact - found)).sum(axis=-1).mean())
    assert 0 < divergence[0] < 0.6 * divergence[1]


def test_what_is_written_is_what_was_calibrated(calibrated):
    model, rounded, folder = calibrated
    loaded = QWenLMHeadModel.from_pretrained(folder)
    blocks = [f"transformer.h.{n}" for n in range(len(model.transformer.h))]
    assert set(rounded) == {
        f"{block}.{name}"
        for block in blocks
        for name in ("attn.c_attn", "attn.c_proj", "mlp.w1", "mlp.w2", "mlp.c_proj")
    }
    layers = dict(loaded.named_sublayers())
    state = model.state_dict()
    for path, weight in rounded.items():
        layer = layers[path]
        found = dequantized("int4", layer.qweight, layer.scales, layer.in_features, layer.out_features)
        np.testing.assert_array_equal(found, weight.dequantized())
        np.testing.assert_array_equal(found, state[f"{path}.weight"].numpy())


def test_the_files_have_the_names_types_and_settings_of_the_published_ones(calibrated):
    _, rounded, folder = calibrated
    checkpoint = open_checkpoint(folder)
    assert checkpoint.layout == "hf" and checkpoint.unknown_names() == []
    types = {"qweight": "int32", "qzeros": "int32", "scales": "float16", "g_idx": "int32", "bias": "float16"}
    for path in rounded:
        assert {part: checkpoint.dtype(f"{path}.{part}") for part in types} == types
    without = "transformer.h.0.mlp.w1.bias"
    assert not checkpoint.read(without).any()
    assert checkpoint.dtype("lm_head.weight") == "float16"
    config = json.loads((folder / "config.json").read_text())
    beside = json.loads((folder / "quantize_config.json").read_text())
    assert config["quantization_config"] == {**beside, "quant_method": "gptq"}
    assert config["fp16"] is True and config["torch_dtype"] == "float16"
    assert list(beside) == [
        "bits", "group_size", "damp_percent", "desc_act", "static_groups", "sym", "true_sequential",
        "model_name_or_path", "model_file_base_name",
    ]  # fmt: skip


def test_a_quantized_model_and_no_samples_are_refused(calibrated):
    with pytest.raises(ConfigurationError, match="model: is quantized already"):
        calibrate(QWenLMHeadModel.from_pretrained(calibrated[2]), [])
    with pytest.raises(ConfigurationError, match="samples: got none"):
        calibrate(calibrated[0], [])
    with pytest.raises(CheckpointError, match="is quantized already; give the unquantized weights"):
        save_gptq(calibrated[2], calibrated[1], calibrated[2].parent / "again")
    with pytest.raises(CheckpointError, match="is the folder of the source itself"):
        save_gptq(DEFAULT_MODEL_DIR, calibrated[1], DEFAULT_MODEL_DIR)


def test_sizes_that_the_format_cannot_hold_are_refused_before_anything_is_written(tmp_path):
    model, _ = random_model(tmp_path)
    model.save_pretrained(tmp_path / "model")
    odd = {"transformer.h.0.mlp.w1": RoundedWeight(np.zeros((64, 40), np.int8), np.ones((1, 40), np.float16))}
    with pytest.raises(ConfigurationError, match="w1: has 64 x 40 weights, but GPTQ's format needs multiples of 32"):
        save_gptq(tmp_path / "model", odd, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_told_before_calibrating(calibrated, tmp_path, monkeypatch):
    shapes = {name: weight.q.shape for name, weight in calibrated[1].items()}
    checkpoint = check_export(DEFAULT_MODEL_DIR, shapes, tmp_path / "out")
    written = save_gptq(DEFAULT_MODEL_DIR, calibrated[1], tmp_path / "out")
    total = writer.read_manifest(written)["total_size"]
    assert export._written_bytes(checkpoint, shapes) == total
    for free, fits in ((total + writer.SPARE_BYTES, True), (total + writer.SPARE_BYTES - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        if fits:
            check_export(DEFAULT_MODEL_DIR, shapes, tmp_path / "not" / "there")
        else:
            with pytest.raises(CheckpointError, match="GB needed, .* GB free on this disk; nothing written"):
                check_export(DEFAULT_MODEL_DIR, shapes, tmp_path / "not" / "there")
    with pytest.raises(TargetError, match="holds a finished result"):
        check_export(DEFAULT_MODEL_DIR, shapes, tmp_path / "out")
