"""Models with low-bit weights: out of every layout, out of GPTQ checkpoints, saved and mapped again."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddlemix.checkpoint import layouts
from paddlemix.checkpoint.writer import TensorSource, write_checkpoint
from paddlemix.errors import CheckpointError, ConfigurationError, NotEnoughMemoryError
from paddlemix.models.qwen_vl.configuration import QWenVLConfig
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from paddlemix.quantization.layers import QuantizedLinear, SixteenBitEmbedding
from paddlemix.quantization.tiles import dequantized
from tests.backends import matmul_precision
from tests.checkpoint.building import (
    convert_checkpoint,
    name_in,
    open_checkpoint,
    write_pdparams,
    write_safetensors,
    write_torch_mixed,
)
from tests.golden_model import FOLDER, golden_model, prompt
from tests.quantization.building import write_gptq_model

C_ATTN = "transformer.h.1.attn.c_attn"
THIRD = "transformer.visual.attn_pool.attn.in_proj.2"


def test_a_paddle_without_views_is_told_how_to_get_them(monkeypatch, tiny_model_dir):
    monkeypatch.setattr(paddle, "get_flags", lambda name: {name: False})
    with pytest.raises(ConfigurationError, match="FLAGS_use_stride_kernel: is switched off"):
        QWenLMHeadModel.from_pretrained(tiny_model_dir, quantization="int4")


def quantized_layers(model: QWenLMHeadModel) -> dict[str, QuantizedLinear]:
    return {path: layer for path, layer in model.named_sublayers() if isinstance(layer, QuantizedLinear)}


def weight_of(layer: QuantizedLinear) -> np.ndarray:
    return dequantized(layer.kind, layer.qweight, layer.scales, layer.in_features, layer.out_features, layer.nested)


def float_weight(path: str) -> np.ndarray:
    """What the golden model has where a quantized one has the layer ``path``."""
    state = golden_model().state_dict()
    if ".in_proj." in path:
        packed, number = state[path.rpartition(".in_proj.")[0] + ".in_proj_weight"].numpy(), int(path[-1])
        width = packed.shape[0]
        return packed[:, number * width : (number + 1) * width]
    return (state[path] if path.endswith("visual.proj") else state[f"{path}.weight"]).numpy()


def arrays(model: QWenLMHeadModel) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def assert_equal_models(one: QWenLMHeadModel, other: QWenLMHeadModel) -> None:
    first, second = arrays(one), arrays(other)
    assert set(first) == set(second)
    for name, array in first.items():
        assert array.dtype == second[name].dtype
        np.testing.assert_array_equal(array, second[name], err_msg=name)


def logits(model: QWenLMHeadModel, case: str = "one_image") -> np.ndarray:
    with paddle.no_grad():
        return model(**prompt(case)).logits.numpy()


def damage(folder: Path, name: str) -> None:
    """Write the checkpoint of ``folder`` again without the tensor ``name``."""
    checkpoint = open_checkpoint(folder)
    kept = {other: checkpoint.read(other) for other in checkpoint.names() if other != name}
    sources = [
        TensorSource(other, array.shape, checkpoint.dtype(other), lambda array=array: [np.array(array)])
        for other, array in kept.items()
    ]
    metadata = {layouts.MARKER: checkpoint.layout, layouts.PACKING_MARKER: layouts.PACKING}
    write_checkpoint(folder, sources, metadata if checkpoint.packed else {})


# ---------------------------------------------------------------- formats


#: largest error of a weight beside the largest of its group (int4: 128 inputs, else the output), with some room
ROUNDING = {"int4": 0.45, "nf4": 0.17, "int8": 0.501 / 127, "bfloat16": 2**-8}


@pytest.mark.parametrize(
    ("options", "blocks", "head", "visual"),
    [
        ({"quantization": "int4"}, "int4", "int8", "int8"),
        ({"quantization": "int4", "vision_quantization": "bf16"}, "int4", "int8", "bfloat16"),
        ({"quantization": "nf4"}, "nf4", "int8", "int8"),
        ({"quantization": "int8"}, "int8", "int8", "int8"),
        ({"quantization": "bf16"}, "bfloat16", "bfloat16", "bfloat16"),
    ],
)
def test_every_linear_layer_has_its_format_and_weights_near_the_float_ones(options, blocks, head, visual):
    model = QWenLMHeadModel.from_pretrained(FOLDER / "ckpt_bin", **options)
    layers = quantized_layers(model)
    assert not any(isinstance(layer, paddle.nn.Linear) for layer in model.sublayers())
    for path, layer in layers.items():
        expected = visual if ".visual." in path else head if path == "lm_head" else blocks
        assert layer.kind == expected, path
        weight = float_weight(path)
        bound = np.abs(weight).max() * ROUNDING[layer.kind]
        np.testing.assert_allclose(weight_of(layer), weight, atol=bound, rtol=0, err_msg=path)
    assert isinstance(model.transformer.wte, SixteenBitEmbedding)
    assert model.transformer.wte.weight.dtype == paddle.bfloat16
    others = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.endswith(("qweight", "scales", "nested"))
    }
    assert {str(t.dtype) for name, t in others.items() if name != "transformer.wte.weight"} == {"paddle.float32"}
    for name, tensor in others.items():
        if name in golden_model().state_dict() and name != "transformer.wte.weight":
            np.testing.assert_array_equal(tensor.numpy(), golden_model().state_dict()[name].numpy())


@pytest.mark.parametrize(
    ("quantization", "precision", "tolerance"),
    [
        ("bf16", "float32", 2e-3),
        ("bf16", "bfloat16", 0.02),
        ("int8", "bfloat16", 0.1),
        ("int4", "bfloat16", 0.8),
        ("nf4", "bfloat16", 0.6),
    ],
)
def test_logits_stay_near_those_of_the_float_model(quantization, precision, tolerance):
    model = QWenLMHeadModel.from_pretrained(FOLDER / "ckpt_bin", quantization=quantization)
    with matmul_precision(precision):
        exact, rounded = logits(golden_model()), logits(model)
    assert np.sqrt(np.mean((exact - rounded) ** 2)) < tolerance * exact.std()


def test_bf16_weights_of_a_bfloat16_checkpoint_are_exact():
    model = QWenLMHeadModel.from_pretrained(FOLDER / "ckpt_bin", quantization="bf16")
    for path, layer in quantized_layers(model).items():
        np.testing.assert_array_equal(weight_of(layer), float_weight(path), err_msg=path)


def test_every_layout_gives_the_same_tiles(tmp_path):
    convert_checkpoint(FOLDER / "ckpt_bin", tmp_path / "paddle")
    ours = open_checkpoint(tmp_path / "paddle")
    (tmp_path / "mix").mkdir()
    weights = {name_in(layouts.PADDLEMIX, name): ours.read(name) for name in ours.names()}
    write_pdparams(tmp_path / "mix" / "model_state.pdparams", weights)
    shutil.copyfile(FOLDER / "ckpt_bin" / "config.json", tmp_path / "mix" / "config.json")
    first = QWenLMHeadModel.from_pretrained(FOLDER / "ckpt_bin", quantization="int4")
    for folder in (FOLDER / "ckpt_safetensors", tmp_path / "paddle", tmp_path / "mix"):
        assert_equal_models(first, QWenLMHeadModel.from_pretrained(folder, quantization="int4"))


def test_chunks_do_not_show(monkeypatch):
    from paddlemix.quantization import tiles

    whole = QWenLMHeadModel.from_pretrained(FOLDER / "ckpt_bin", quantization="int4")
    monkeypatch.setattr(tiles, "CHUNK", 5000)
    assert_equal_models(whole, QWenLMHeadModel.from_pretrained(FOLDER / "ckpt_bin", quantization="int4"))


def test_only_small_parameters_can_be_trained_and_gradients_reach_the_input():
    model = QWenLMHeadModel.from_pretrained(FOLDER / "ckpt_bin", quantization="int4")
    assert all(parameter.ndim == 1 or "visual" in name for name, parameter in model.named_parameters())
    layer = model.get_sublayer(C_ATTN) if hasattr(model, "get_sublayer") else model.transformer.h[1].attn.c_attn
    x = paddle.randn([3, layer.in_features])
    x.stop_gradient = False
    layer(x).sum().backward()
    expected = np.tile(weight_of(layer).sum(axis=1), (3, 1))
    np.testing.assert_allclose(x.grad.numpy(), expected, atol=1e-4)
    assert layer.qweight.stop_gradient and layer.scales.stop_gradient


# ---------------------------------------------------------------- saved and mapped


@pytest.mark.parametrize("quantization", ["bf16", "int8", "int4", "nf4"])
def test_a_saved_model_is_loaded_bit_for_bit_without_an_option(tmp_path, quantization):
    first = QWenLMHeadModel.from_pretrained(FOLDER / "ckpt_bin", quantization=quantization)
    first.save_pretrained(tmp_path, max_shard_bytes=500_000)
    section = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert (section["quant_method"], section["version"]) == ("paddlemix", 1)
    second = QWenLMHeadModel.from_pretrained(tmp_path)
    assert_equal_models(first, second)
    np.testing.assert_array_equal(logits(first), logits(second))
    assert_equal_models(first, QWenLMHeadModel.from_pretrained(tmp_path, quantization=quantization))
    second.save_pretrained(tmp_path / "again")
    assert_equal_models(first, QWenLMHeadModel.from_pretrained(tmp_path / "again"))


def mapped_ranges() -> list[tuple[int, int]]:
    ranges = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(".safetensors"):
            start, end = line.split()[0].split("-")
            ranges.append((int(start, 16), int(end, 16)))
    return ranges


def test_saved_tiles_stay_in_the_file_aligned_to_lines_and_outlive_everything_else(tmp_path):
    QWenLMHeadModel.from_pretrained(FOLDER / "ckpt_bin", quantization="int4").save_pretrained(tmp_path)
    model = QWenLMHeadModel.from_pretrained(tmp_path)
    before = arrays(model)
    gc.collect()
    ranges = mapped_ranges()
    layers = list(quantized_layers(model).values())
    tensors = [layer.qweight for layer in layers] + [layer.scales for layer in layers]
    for tensor in [*tensors, model.transformer.wte.weight]:
        assert any(start <= tensor.data_ptr() < end for start, end in ranges)
    assert all(layer.qweight.data_ptr() % 64 == 0 for layer in layers)
    shutil.rmtree(tmp_path)
    for name, array in arrays(model).items():
        np.testing.assert_array_equal(array, before[name])


def test_changing_a_loaded_model_does_not_change_the_file(tmp_path):
    QWenLMHeadModel.from_pretrained(FOLDER / "ckpt_bin", quantization="int8").save_pretrained(tmp_path)
    model = QWenLMHeadModel.from_pretrained(tmp_path)
    model.lm_head.scales.zero_()
    assert QWenLMHeadModel.from_pretrained(tmp_path).lm_head.scales.numpy().any()


def test_what_is_missing_or_misshapen_in_a_saved_model_is_listed(tmp_path):
    QWenLMHeadModel.from_pretrained(FOLDER / "ckpt_bin", quantization="int4").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"]["blocks"] = "int8"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        CheckpointError, match=rf"'{C_ATTN}.qweight' is uint8 \[48, 32, 16, 4\], expected uint8 \[48, 64"
    ):
        QWenLMHeadModel.from_pretrained(tmp_path)
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="quant_method=None, the weights are stored as 'paddlemix' has them"):
        QWenLMHeadModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", [f"{C_ATTN}.bias", f"{THIRD}.bias", f"{C_ATTN}.scales", "transformer.ln_f.weight"])
def test_a_tensor_missing_from_a_saved_model_is_named(tmp_path, name):
    QWenLMHeadModel.from_pretrained(FOLDER / "ckpt_bin", quantization="int8").save_pretrained(tmp_path / "model")
    damage(tmp_path / "model", name)
    with pytest.raises(CheckpointError, match=f"'{name}' is missing"):
        QWenLMHeadModel.from_pretrained(tmp_path / "model")


def test_another_dtype_or_format_for_a_quantized_model_is_refused(tmp_path):
    model = QWenLMHeadModel.from_pretrained(FOLDER / "ckpt_bin", quantization="int4")
    with pytest.raises(ConfigurationError, match="dtype: got 'bfloat16', but a quantized model is saved as it is"):
        model.save_pretrained(tmp_path, dtype="bfloat16")
    model.save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="quantized already .*leave them out"):
        QWenLMHeadModel.from_pretrained(tmp_path, quantization="int8")
    with pytest.raises(CheckpointError, match="is quantized, and read as it is by every program"):
        convert_checkpoint(tmp_path, tmp_path / "converted")


# ---------------------------------------------------------------- GPTQ


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    """A checkpoint in the form of Qwen-VL-Chat-Int4, and the weights that it stands for."""
    folder = tmp_path_factory.mktemp("gptq")
    return folder, write_gptq_model(folder, FOLDER / "ckpt_bin")


def stands_for(weights: dict[str, np.ndarray], path: str) -> np.ndarray:
    if ".in_proj." in path:
        packed, number = weights[path.rpartition(".in_proj.")[0] + ".in_proj_weight"], int(path[-1])
        width = packed.shape[0]
        return packed[:, number * width : (number + 1) * width]
    return weights.get(path, weights.get(f"{path}.weight"))


def test_published_int4_loads_without_an_option_and_exactly(published):
    folder, weights = published
    model = QWenLMHeadModel.from_pretrained(folder)
    for path, layer in quantized_layers(model).items():
        assert layer.kind == ("int4" if path.startswith("transformer.h.") else "float16"), path
        np.testing.assert_array_equal(weight_of(layer), stands_for(weights, path), err_msg=path)
        if path.startswith("transformer.h."):
            np.testing.assert_array_equal(layer.bias.numpy(), weights[f"{path}.bias"])
    assert model.transformer.wte.weight.dtype == paddle.float16
    np.testing.assert_array_equal(model.transformer.wte.weight.numpy(), weights["transformer.wte.weight"])
    assert np.isfinite(logits(model)).all()


def test_int4_on_top_of_it_rounds_head_and_vision_but_not_the_blocks(published):
    folder, weights = published
    plain = QWenLMHeadModel.from_pretrained(folder)
    model = QWenLMHeadModel.from_pretrained(folder, quantization="int4")
    assert model.lm_head.kind == "int8" and model.visual.proj.kind == "int8"
    for path, layer in quantized_layers(model).items():
        if path.startswith("transformer.h."):
            np.testing.assert_array_equal(weight_of(layer), stands_for(weights, path))
    assert quantized_layers(plain)["lm_head"].kind == "float16"
    vision = QWenLMHeadModel.from_pretrained(folder, vision_quantization="int8")
    assert vision.visual.proj.kind == "int8" and vision.lm_head.kind == "float16"


@pytest.mark.parametrize("kind", [{"sym": False}, {"act_order": True}, {"group_size": 32}])
def test_other_kinds_of_gptq_are_kept_in_16_bits(tmp_path, kind):
    weights = write_gptq_model(tmp_path, FOLDER / "ckpt_bin", **kind)
    model = QWenLMHeadModel.from_pretrained(tmp_path)
    layer = quantized_layers(model)[C_ATTN]
    assert layer.kind == "float16"
    exact = weights[f"{C_ATTN}.weight"]
    np.testing.assert_array_equal(weight_of(layer), exact.astype(np.float16).astype(np.float32))


def test_int4_that_cannot_be_had_exactly_is_told(tmp_path, caplog):
    write_gptq_model(tmp_path, FOLDER / "ckpt_bin", sym=False)
    model = QWenLMHeadModel.from_pretrained(tmp_path, quantization="int4")
    assert quantized_layers(model)[C_ATTN].kind == "float16"
    assert "this kind of GPTQ does not fit it; decoder layers are in float16" in caplog.text


def test_a_loaded_gptq_model_is_saved_as_ours(published, tmp_path):
    first = QWenLMHeadModel.from_pretrained(published[0])
    first.save_pretrained(tmp_path)
    assert_equal_models(first, QWenLMHeadModel.from_pretrained(tmp_path))


def test_a_gptq_checkpoint_with_a_part_missing_is_refused_by_name(published, tmp_path):
    shutil.copytree(published[0], tmp_path / "model")
    damage(tmp_path / "model", f"{C_ATTN}.g_idx")
    with pytest.raises(CheckpointError, match=rf"'{C_ATTN}.g_idx' is missing"):
        QWenLMHeadModel.from_pretrained(tmp_path / "model")


def test_weights_and_configuration_that_do_not_belong_together_are_refused(published, tmp_path):
    shutil.copytree(published[0], tmp_path / "gptq")
    shutil.copyfile(FOLDER / "ckpt_bin" / "config.json", tmp_path / "gptq" / "config.json")
    with pytest.raises(CheckpointError, match="quant_method=None, the weights are stored as 'gptq' has them"):
        QWenLMHeadModel.from_pretrained(tmp_path / "gptq")
    shutil.copytree(FOLDER / "ckpt_safetensors", tmp_path / "float")
    shutil.copyfile(published[0] / "config.json", tmp_path / "float" / "config.json")
    with pytest.raises(CheckpointError, match="quant_method='gptq', the weights are not quantized"):
        QWenLMHeadModel.from_pretrained(tmp_path / "float")


# ---------------------------------------------------------------- what cannot be


def test_weights_that_are_not_finite_are_named(tmp_path):
    shutil.copytree(FOLDER / "ckpt_safetensors", tmp_path / "model")
    checkpoint = open_checkpoint(tmp_path / "model")
    tensors = {name: np.array(checkpoint.read(name)) for name in checkpoint.names()}
    tensors["lm_head.weight"].reshape(-1)[7] = 0x7FC0
    shutil.rmtree(tmp_path / "model")
    (tmp_path / "model").mkdir()
    write_safetensors(tmp_path / "model" / "model.safetensors", tensors, dtype="bfloat16")
    shutil.copyfile(FOLDER / "ckpt_safetensors" / "config.json", tmp_path / "model" / "config.json")
    with pytest.raises(CheckpointError, match="damaged: 'lm_head.weight' holds NaN"):
        QWenLMHeadModel.from_pretrained(tmp_path / "model", quantization="int8")


def test_a_missing_bias_is_named_whatever_holds_the_weight(published, tmp_path):
    shutil.copytree(published[0], tmp_path / "model")
    damage(tmp_path / "model", "transformer.visual.transformer.resblocks.0.mlp.c_fc.bias")
    with pytest.raises(CheckpointError, match="resblocks.0.mlp.c_fc.bias' is missing"):
        QWenLMHeadModel.from_pretrained(tmp_path / "model")


def test_missing_and_misshapen_float_weights_are_listed_before_anything_is_rounded(tmp_path):
    shutil.copytree(FOLDER / "ckpt_bin", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "vocab_size": 600, "num_hidden_layers": 4}))
    with pytest.raises(CheckpointError) as caught:
        QWenLMHeadModel.from_pretrained(tmp_path / "model", quantization="int4")
    message = str(caught.value)
    assert "'lm_head.weight' has shape [512, 256], expected [600, 256]" in message
    assert "'transformer.h.3.mlp.w1.weight' is missing" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization": "fp8"}, "quantization: got 'fp8', expected one of int8, int4, bf16"),
        ({"quantization": "int4", "vision_quantization": "int2"}, "vision_quantization: got 'int2', expected one of"),
        ({"vision_quantization": "int8"}, "without quantization"),
    ],
)
def test_options_that_cannot_be_met_are_refused_with_the_choices(options, message):
    with pytest.raises(ConfigurationError, match=message):
        QWenLMHeadModel.from_pretrained(FOLDER / "ckpt_bin", **options)


def test_memory_is_asked_for_the_quantized_size(monkeypatch):
    from paddlemix.models.qwen_vl.kv_cache import answer_bytes
    from paddlemix.quantization import memory

    config = QWenVLConfig.from_pretrained(FOLDER / "ckpt_bin")
    working = answer_bytes(config, "float32", "float32")
    monkeypatch.setattr(memory, "available_memory", lambda: working + 3_000_000)
    with pytest.raises(
        NotEnoughMemoryError, match=r"float32 weights .*quantization= 'int4' \(0.0 GB\) or 'nf4' \(0.0 GB\) would fit"
    ):
        QWenLMHeadModel.from_pretrained(FOLDER / "ckpt_bin")
    QWenLMHeadModel.from_pretrained(FOLDER / "ckpt_bin", quantization="int4")
    monkeypatch.setattr(memory, "available_memory", lambda: working + 1_000_000)
    with pytest.raises(NotEnoughMemoryError, match="quantized .blocks int4.* use a larger machine"):
        QWenLMHeadModel.from_pretrained(FOLDER / "ckpt_bin", quantization="int4")


def as_autogptq_wrote_it(folder: Path, source: Path, name: str) -> None:
    """The folder without a ``quantization_config``, its weights under the name that AutoGPTQ gives them."""
    write_gptq_model(folder, source)
    config = json.loads((folder / "config.json").read_text())
    settings = config.pop("quantization_config")
    settings.pop("quant_method")
    settings["model_file_base_name"] = name.rpartition(".")[0]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "quantize_config.json").write_text(json.dumps(settings))
    if name.endswith(".safetensors"):
        (folder / "model.safetensors").rename(folder / name)
    else:
        checkpoint = open_checkpoint(folder / "model.safetensors")
        write_torch_mixed(folder / name, {tensor: checkpoint.read(tensor) for tensor in checkpoint.names()})
        (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("name", ["gptq_model-4bit-128g.safetensors", "gptq_model-4bit-128g.bin", "own.safetensors"])
def test_a_folder_of_autogptq_itself_is_read(tmp_path, name):
    source = FOLDER / "ckpt_bin"
    as_autogptq_wrote_it(tmp_path / "theirs", source, name)
    write_gptq_model(tmp_path / "published", source)
    theirs, published = (QWenLMHeadModel.from_pretrained(tmp_path / kind) for kind in ("theirs", "published"))
    assert quantized_layers(theirs)[C_ATTN].kind == "int4"
    assert_equal_models(theirs, published)


def test_weights_of_gptq_without_any_settings_say_so(tmp_path):
    as_autogptq_wrote_it(tmp_path, FOLDER / "ckpt_bin", "gptq_model-4bit-128g.safetensors")
    (tmp_path / "quantize_config.json").unlink()
    with pytest.raises(CheckpointError, match="stored as 'gptq' has them"):
        QWenLMHeadModel.from_pretrained(tmp_path)
