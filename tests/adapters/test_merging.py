from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from paddlemix.adapters import LoRAConfig, LoRALinear, inject, load_adapter, merge, save_adapter
from paddlemix.checkpoint import writer
from paddlemix.errors import AdapterError, CheckpointError
from paddlemix.finetune import merge_adapter
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from paddlemix.models.qwen_vl.processing import QwenVLProcessor
from tests.adapters.building import disturb, image_ids, images, tiny_model
from tests.checkpoint.building import convert_checkpoint, open_checkpoint
from tests.checkpoint.killing import KilledError, killing
from tests.quantization.building import write_gptq_model
from tests.tiny_model import write_tiny_model

TARGETS = ("c_attn", "c_proj", "w1", "in_proj", "c_fc", "kv_proj", "out_proj")


def logits(model) -> np.ndarray:
    with paddle.no_grad():
        return model(image_ids(), images=images()).logits.numpy()


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """``base``, a model in bfloat16; ``adapter``, for most of its layers, with the head beside it."""
    folder = tmp_path_factory.mktemp("merging")
    tiny_model().save_pretrained(folder / "base", dtype="bfloat16")
    model = QWenLMHeadModel.from_pretrained(folder / "base")
    inject(model, LoRAConfig(r=3, targets=TARGETS, modules_to_save=("lm_head", "ln_post")))
    disturb(model)
    model.lm_head.weight.set_value(model.lm_head.weight * 1.5)
    save_adapter(model, folder / "adapter")
    return folder


def unmerged(folders: Path, **options) -> np.ndarray:
    model = QWenLMHeadModel.from_pretrained(folders / "base", **options)
    load_adapter(model, folders / "adapter")
    return logits(model)


def assert_close(got: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


# ---------------------------------------------------------------------------------------------------- in memory


def test_a_merged_model_answers_like_the_unmerged_one(folders, any_backend):
    model = QWenLMHeadModel.from_pretrained(folders / "base")
    before = logits(model)
    load_adapter(model, folders / "adapter")
    expected = logits(model)
    merge(model)
    assert_close(logits(model), expected, 1e-5)
    assert np.abs(expected - before).max() > 0.1
    assert not any(isinstance(layer, LoRALinear) for layer in model.sublayers())


def test_a_merged_model_is_saved_and_adapted_again_like_any_other(folders, tmp_path):
    model = QWenLMHeadModel.from_pretrained(folders / "base")
    load_adapter(model, folders / "adapter")
    merge(model)
    model.save_pretrained(tmp_path)
    again = QWenLMHeadModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(logits(again), logits(model))
    assert len(inject(again, LoRAConfig(r=2))) == 8


def test_quantized_layers_cannot_hold_the_sum(folders):
    model = QWenLMHeadModel.from_pretrained(folders / "base", quantization="int4")
    load_adapter(model, folders / "adapter")
    with pytest.raises(AdapterError, match="is quantized.*merge_adapter"):
        merge(model)
    assert any(isinstance(layer, LoRALinear) for layer in model.sublayers())


def test_a_model_without_an_adapter_is_told(folders):
    with pytest.raises(AdapterError, match="has no adapter"):
        merge(tiny_model())


# ---------------------------------------------------------------------------------------------------- on disk


@pytest.mark.parametrize("dtype, tolerance", [(None, 2e-2), ("float32", 1e-5), ("float16", 3e-3)])
def test_a_merged_directory_answers_like_the_unmerged_model(folders, tmp_path, dtype, tolerance):
    merge_adapter(folders / "base", folders / "adapter", tmp_path / "out", dtype)
    checkpoint = open_checkpoint(tmp_path / "out")
    assert {checkpoint.dtype(name) for name in checkpoint.names()} == {dtype or "bfloat16"}
    assert_close(logits(QWenLMHeadModel.from_pretrained(tmp_path / "out")), unmerged(folders), tolerance)


def test_a_base_in_pytorchs_layout_gives_the_same_directory(folders, tmp_path):
    convert_checkpoint(folders / "base", tmp_path / "hf", "hf")
    merge_adapter(folders / "base", folders / "adapter", tmp_path / "one")
    merge_adapter(tmp_path / "hf", folders / "adapter", tmp_path / "other")
    one, other = open_checkpoint(tmp_path / "one"), open_checkpoint(tmp_path / "other")
    assert one.layout == other.layout == "paddle"
    for name in one.names():
        np.testing.assert_array_equal(one.read(name), other.read(name), err_msg=name)


def test_a_merged_directory_converts_to_pytorchs_layout(folders, tmp_path):
    merge_adapter(folders / "base", folders / "adapter", tmp_path / "out", "float32")
    result = convert_checkpoint(tmp_path / "out", tmp_path / "hf", "hf", verify=True)
    assert result.verified
    weight = load_file(tmp_path / "hf" / "model.safetensors")["transformer.h.0.attn.c_attn.weight"]
    model = QWenLMHeadModel.from_pretrained(tmp_path / "out")
    np.testing.assert_array_equal(weight.T, model.transformer.h[0].attn.c_attn.weight.numpy())


def test_a_merged_directory_is_complete(tmp_path):
    base = write_tiny_model(tmp_path / "base")
    model = QWenLMHeadModel.from_pretrained(base)
    inject(model, LoRAConfig(r=2))
    save_adapter(model, tmp_path / "adapter")
    out = merge_adapter(base, tmp_path / "adapter", tmp_path / "out")
    assert {path.name for path in out.iterdir()} == {path.name for path in base.iterdir()}
    assert not writer.damaged_files(out, writer.read_manifest(out))
    assert QwenVLProcessor.from_pretrained(out).chat_format == "chatml"
    assert QWenLMHeadModel.from_pretrained(out).generation_config.max_new_tokens == 48


@pytest.mark.parametrize("quantization", ["int8", "int4", "bf16"])
def test_a_quantized_base_is_merged_into_16_bit_weights(folders, tmp_path, quantization, any_backend):
    model = QWenLMHeadModel.from_pretrained(folders / "base", quantization=quantization)
    model.save_pretrained(tmp_path / "quantized")
    merge_adapter(tmp_path / "quantized", folders / "adapter", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config and config["torch_dtype"] == "bfloat16"
    merged = QWenLMHeadModel.from_pretrained(tmp_path / "out")
    assert merged.config.quantization is None
    tolerance = 3e-2 if any_backend == "reference" else 6e-2  # the kernels round activations to 8 bits
    assert_close(logits(merged), unmerged(folders, quantization=quantization), tolerance)
    assert convert_checkpoint(tmp_path / "out", tmp_path / "hf", "hf").tensors == len(
        open_checkpoint(folders / "base").names()
    )


def gptq_base(folder: Path, source: Path, *, zero_biases: bool) -> None:
    write_gptq_model(folder, source)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name, values in tensors.items():
        if zero_biases and name.startswith("transformer.h.") and name.endswith(".bias") and "c_attn" not in name:
            values[:] = 0
    save_file(tensors, path, {"format": "pt"})


def test_an_adapter_of_a_gptq_base_is_merged_into_what_its_integers_stand_for(tmp_path):
    write_tiny_model(tmp_path / "float")
    gptq_base(tmp_path / "base", tmp_path / "float", zero_biases=True)
    model = QWenLMHeadModel.from_pretrained(tmp_path / "base")
    inject(model, LoRAConfig(r=2))
    disturb(model)
    save_adapter(model, tmp_path / "adapter")
    merge_adapter(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    merged = QWenLMHeadModel.from_pretrained(tmp_path / "out")
    assert open_checkpoint(tmp_path / "out").dtype("transformer.wte.weight") == "float16"
    ids = paddle.to_tensor([[5, 6, 7, 8, 9]])
    with paddle.no_grad():
        assert_close(merged(ids).logits.numpy(), model(ids).logits.numpy(), 1e-2)


def test_biases_that_a_float_model_has_no_place_for_are_not_dropped(tmp_path):
    write_tiny_model(tmp_path / "float")
    gptq_base(tmp_path / "base", tmp_path / "float", zero_biases=False)
    model = QWenLMHeadModel.from_pretrained(tmp_path / "base")
    inject(model, LoRAConfig(r=2))
    save_adapter(model, tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="attn.c_proj.bias' has no place in a float model"):
        merge_adapter(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")


def test_the_folders_of_base_and_adapter_are_not_written_to(folders):
    for name in ("base", "adapter"):
        with pytest.raises(AdapterError, match="is the folder of .* itself"):
            merge_adapter(folders / "base", folders / "adapter", folders / name)


@pytest.mark.parametrize("held", ["finetune.json", "adapter_config.json"])
def test_a_training_or_an_adapter_is_not_merged_into(folders, tmp_path, held):
    (tmp_path / held).write_text("{}")
    with pytest.raises(AdapterError, match=f"{held}.; name another folder"):
        merge_adapter(folders / "base", folders / "adapter", tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [held]


def test_an_adapter_for_another_model_is_refused_before_anything_is_written(folders, tmp_path):
    other = tiny_model()
    other.transformer.ln_f.weight.set_value(other.transformer.ln_f.weight * 2)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(AdapterError, match="another base model"):
        merge_adapter(tmp_path / "other", folders / "adapter", tmp_path / "out")
    with pytest.raises(AdapterError, match="does not fit the model"):
        merge_adapter(write_tiny_model(tmp_path / "larger"), folders / "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sums_that_do_not_fit_are_refused(folders, tmp_path):
    model = QWenLMHeadModel.from_pretrained(folders / "base")
    inject(model, LoRAConfig(r=2))
    disturb(model)
    model.transformer.h[1].mlp.w1.lora_B.set_value(paddle.full([2, 24], 1e6))
    save_adapter(model, tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="h.1.mlp.w1.weight' holds .* too large for float16"):
        merge_adapter(folders / "base", tmp_path / "adapter", tmp_path / "out", "float16")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_merge_goes_on_where_it_stopped(folders, tmp_path):
    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_adapter(folders / "base", folders / "adapter", tmp_path / "out", max_shard_bytes=4000, progress=stop)
    with pytest.raises(CheckpointError, match="not finished"):
        open_checkpoint(tmp_path / "out")
    kept = {path.name for path in (tmp_path / "out" / ".incomplete").glob("*.safetensors")}
    assert kept
    merge_adapter(folders / "base", folders / "adapter", tmp_path / "out", max_shard_bytes=4000)
    assert_close(logits(QWenLMHeadModel.from_pretrained(tmp_path / "out")), unmerged(folders), 2e-2)


def test_wherever_a_merge_is_killed_the_same_command_goes_on(folders, tmp_path, monkeypatch):
    target, fresh = tmp_path / "out", tmp_path / "fresh"
    options = {"max_shard_bytes": 8_000}
    merge_adapter(folders / "base", folders / "adapter", fresh, **options)
    expected = {path.name: path.read_bytes() for path in fresh.iterdir() if not path.name.startswith(".")}
    for point in range(1, 1000, 3):
        shutil.rmtree(target, ignore_errors=True)
        with monkeypatch.context() as patch:
            killing(patch, point)
            try:
                merge_adapter(folders / "base", folders / "adapter", target, **options)
                break
            except KilledError:
                pass
        try:
            open_checkpoint(target)
        except CheckpointError:
            pass
        else:
            names = {path.name for path in target.glob("*.safetensors")}
            assert names == {name for name in expected if name.endswith(".safetensors")}
        merge_adapter(folders / "base", folders / "adapter", target, **options)
        assert {path.name: path.read_bytes() for path in target.iterdir() if path.name in expected} == expected
    assert 10 < point < 999


def retyped(folder: Path, source: Path, change) -> Path:
    """A copy of a model whose tensors ``change`` alters."""
    shutil.copytree(source, folder)
    path = folder / "model.safetensors"
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata)
    return folder


def misshapen(tensors) -> None:
    tensors["transformer.visual.proj"] = np.ones((3, 5), np.float32)  # has no adapter


def of_integers(tensors) -> None:
    tensors["transformer.h.0.attn.c_attn.weight"] = np.ones((16, 48), np.int32)


@pytest.mark.parametrize("change", [misshapen, of_integers])
def test_a_base_that_does_not_fit_its_configuration_is_refused(folders, tmp_path, change):
    convert_checkpoint(folders / "base", tmp_path / "float32", dtype="float32")
    base = retyped(tmp_path / "base", tmp_path / "float32", change)
    with pytest.raises(CheckpointError, match="does not fit config.json: 'transformer"):
        merge_adapter(base, folders / "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("quantization", ["int8", "int4", "bf16", "nf4"])
@pytest.mark.parametrize("part", ["qweight", "scales", "bias"])
def test_tiles_that_do_not_fit_the_configuration_are_refused(folders, tmp_path, quantization, part):
    if (quantization, part) == ("bf16", "scales"):
        return  # has none
    QWenLMHeadModel.from_pretrained(folders / "base", quantization=quantization).save_pretrained(tmp_path / "tiles")
    name = f"transformer.h.0.attn.c_attn.{part}"

    def change(tensors) -> None:
        tensors[name] = tensors[name][:1]

    base = retyped(tmp_path / "base", tmp_path / "tiles", change)
    with pytest.raises(CheckpointError, match=name):
        merge_adapter(base, folders / "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()
