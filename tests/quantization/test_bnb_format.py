"""Checkpoints that bitsandbytes saved in nf4."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddlemix.errors import CheckpointError, ConfigurationError
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from paddlemix.quantization.bnb_format import read_bnb_layers
from paddlemix.quantization.layers import QuantizedLinear
from paddlemix.quantization.tiles import PackedWeight, dequantized
from tests.checkpoint.building import write_safetensors
from tests.quantization.building import bnb_layer, write_bnb_model
from tests.random_model import random_model

FIXTURE = Path(__file__).parents[1] / "fixtures" / "bitsandbytes" / "layers.safetensors"
C_ATTN = "transformer.h.0.attn.c_attn.weight"


class Stored:
    """Arrays of one layer, called as those of a checkpoint."""

    path = Path("layers")

    def __init__(self, arrays):
        self.arrays = arrays

    def __contains__(self, name):
        return name in self.arrays

    def bnb_layers(self):
        state = next(name for name in self.arrays if ".quant_state." in name)
        return {"layer": (state.partition(".quant_state.")[0], state)}

    def dtype(self, name):
        return str(self.arrays[name].dtype)

    def shape(self, name):
        return self.arrays[name].shape

    def read(self, name):
        return self.arrays[name]


@pytest.fixture(scope="module")
def saved() -> dict[str, np.ndarray]:
    """What bitsandbytes itself wrote, see ``make.py`` beside it."""
    body = FIXTURE.read_bytes()
    length = int.from_bytes(body[:8], "little")
    header, data = json.loads(body[8 : 8 + length]), body[8 + length :]
    kinds = {"U8": np.uint8, "F32": np.float32}
    return {
        name: np.frombuffer(data[slice(*entry["data_offsets"])], kinds[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def layer_of(saved, name):
    arrays = {key: array for key, array in saved.items() if key.startswith(f"{name}.")}
    return read_bnb_layers(Stored(arrays))["layer"]


@pytest.mark.parametrize(("name", "fits"), [("double", True), ("plain", False), ("across", False)])
def test_weights_are_those_that_bitsandbytes_reads(saved, name, fits):
    layer, expected = layer_of(saved, name), saved[f"expected.{name}"]
    assert (layer.out_features, layer.in_features) == expected.shape and layer.fits_tiles() == fits
    np.testing.assert_array_equal(layer.dequantized(), expected.T)
    np.testing.assert_array_equal(layer.dequantized(slice(3, 8)), expected[3:8].T)


def test_our_tiles_hold_them_to_the_bit(saved, any_backend):
    layer, expected = layer_of(saved, "double"), saved["expected.double"]
    packed = PackedWeight("nf4", layer.in_features, layer.out_features)
    packed.put_nf4(slice(0, layer.out_features), layer.codes())
    packed.put_nf4_scales(layer.scale_codes, layer.factors, layer.values, layer.offset)
    arrays = [paddle.to_tensor(array) for array in (packed.weight, packed.scales)]
    sizes = layer.in_features, layer.out_features
    actual = dequantized("nf4", *arrays, *sizes, paddle.to_tensor(packed.nested))
    np.testing.assert_array_equal(actual, expected.T)


def test_quantizing_loses_no_more_than_bitsandbytes_does(saved, any_backend):
    expected = saved["expected.double"].T
    packed = PackedWeight("nf4", *expected.shape)
    packed.quantize(slice(0, expected.shape[1]), np.ascontiguousarray(expected))
    packed.finish()
    arrays = [paddle.to_tensor(array) for array in (packed.weight, packed.scales)]
    actual = dequantized("nf4", *arrays, *expected.shape, paddle.to_tensor(packed.nested))
    assert np.square(actual - expected).mean() < 1e-4 * np.square(expected).mean()  # they are on the grid already


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("x.weight.nested_absmax"), "'x.weight.nested_absmax' is missing"),
        (lambda arrays: arrays.update({"x.weight.absmax": np.zeros(3, np.uint8)}), "expected uint8 .16."),
        (lambda arrays: arrays.update({"x.weight.quant_map": np.zeros(16, np.float32)}), "has not the levels of nf4"),
        (lambda arrays: arrays.update({STATE: np.frombuffer(b"[1]", np.uint8)}), "holds no JSON object"),
        (lambda arrays: arrays.update({STATE: np.frombuffer(b"{", np.uint8)}), "holds no JSON"),
        (lambda arrays: arrays.update({STATE: np.frombuffer(b'{"shape": [8]}', np.uint8)}), "expected .out, in."),
        (
            lambda arrays: arrays.update({STATE: np.frombuffer(b'{"shape": [8, 128], "blocksize": 128}', np.uint8)}),
            "has blocksize 128, only 64 is supported",
        ),
        (lambda arrays: arrays.update({STATE.replace("nf4", "fp4"): arrays.pop(STATE)}), "only nf4"),
    ],
)
def test_damaged_layers_are_told(change, message):
    arrays, _ = bnb_layer(np.random.default_rng(0), 8, 128)
    named = {f"x.weight{part}": array for part, array in arrays.items()}
    change(named)
    with pytest.raises(CheckpointError, match=message):
        read_bnb_layers(Stored(named))


STATE = "x.weight.quant_state.bitsandbytes__nf4"


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    """A checkpoint as transformers saves it, and the weights that it stands for."""
    folder = tmp_path_factory.mktemp("bnb")
    random_model(folder, intermediate_size=768)[0].save_pretrained(folder / "float")
    return folder / "nf4", write_bnb_model(folder / "nf4", folder / "float")


def weights_of(layer: QuantizedLinear) -> np.ndarray:
    return dequantized(layer.kind, layer.qweight, layer.scales, layer.in_features, layer.out_features, layer.nested)


def test_a_checkpoint_loads_without_an_option_and_its_blocks_exactly(published, tmp_path):
    folder, weights = published
    model = QWenLMHeadModel.from_pretrained(folder)
    layers = {name: layer for name, layer in model.named_sublayers() if isinstance(layer, QuantizedLinear)}
    for path, layer in layers.items():
        in_blocks = path.startswith("transformer.h.")
        assert layer.kind == ("nf4" if in_blocks else "float16"), path
        expected = weights.get(f"{path}.weight")
        if in_blocks:
            np.testing.assert_array_equal(weights_of(layer), expected, err_msg=path)
        elif expected is not None:
            np.testing.assert_allclose(weights_of(layer), expected, rtol=2**-11, atol=1e-7, err_msg=path)
    model.save_pretrained(tmp_path)
    again = QWenLMHeadModel.from_pretrained(tmp_path)
    for name, tensor in again.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), model.state_dict()[name].numpy(), err_msg=name)


def test_what_does_not_fit_is_kept_in_16_bits_and_told(tmp_path, caplog):
    random_model(tmp_path, intermediate_size=176)[0].save_pretrained(tmp_path / "float")
    weights = write_bnb_model(tmp_path / "nf4", tmp_path / "float")
    layer = QWenLMHeadModel.from_pretrained(tmp_path / "nf4").transformer.h[1].mlp.c_proj
    assert layer.kind == "float16" and "does not fit ours" in caplog.text
    np.testing.assert_allclose(weights_of(layer), weights["transformer.h.1.mlp.c_proj.weight"], rtol=2**-11, atol=1e-7)


def test_other_formats_are_rounded_from_it(published):
    folder, weights = published
    model = QWenLMHeadModel.from_pretrained(folder, quantization="int8")
    layer = model.transformer.h[0].attn.c_attn
    assert layer.kind == "int8"
    step = np.abs(weights[C_ATTN]).max(0) / 127
    assert (np.abs(weights_of(layer) - weights[C_ATTN]) <= 0.501 * step).all()


def test_files_and_configuration_must_belong_together(published, tmp_path):
    folder, _ = published
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config.pop("quantization_config")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="stored as 'bitsandbytes' has them"):
        QWenLMHeadModel.from_pretrained(tmp_path)
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigurationError, match="load_in_4bit: got None, only True is supported"):
        QWenLMHeadModel.from_pretrained(tmp_path)


def test_weights_of_another_size_are_told(published, tmp_path):
    folder, _ = published
    from tests.checkpoint.building import open_checkpoint

    checkpoint = open_checkpoint(folder)
    tensors = {name: np.array(checkpoint.read(name)) for name in checkpoint.names()}
    arrays, _ = bnb_layer(np.random.default_rng(1), 64, 64)
    tensors.update({f"{C_ATTN}{part}": array for part, array in arrays.items()})
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write_safetensors(tmp_path / "model.safetensors", tensors, {"format": "pt"})
    with pytest.raises(CheckpointError, match="is .64, 64. in 4 bits, expected"):
        QWenLMHeadModel.from_pretrained(tmp_path)
