from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddlemix.checkpoint import dtypes, layouts, save_model
from paddlemix.checkpoint.loading import check_config
from paddlemix.errors import CheckpointError, ConfigurationError, TargetError
from paddlemix.inference import load_model
from paddlemix.models.qwen_vl.configuration import QWenVLConfig
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from paddlemix.models.qwen_vl.processing import QwenVLProcessor
from paddlemix.models.qwen_vl.weights import WEIGHTS
from paddlemix.zoo import DEFAULT_MODEL_DIR
from tests.checkpoint.building import (
    CONFIG,
    convert_checkpoint,
    load_into,
    name_in,
    open_checkpoint,
    random_weights,
    write_model,
    write_pdparams,
)

SQUARE = "transformer.h.1.attn.c_proj.weight"
HEAD = "lm_head.weight"


class Weights(paddle.nn.Layer):
    """Nothing but parameters, under our names."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], dtype: str = "float32") -> None:
        super().__init__()
        for name, shape in shapes.items():
            layer = self
            *path, last = name.split(".")
            for part in path:
                if part not in layer._sub_layers:
                    layer.add_sublayer(part, paddle.nn.Layer())
                layer = layer._sub_layers[part]
            layer.add_parameter(last, layer.create_parameter(list(shape), dtype=dtype))


def model(dtype: str = "float32") -> Weights:
    return Weights(WEIGHTS.expected_shapes(CONFIG), dtype)


def values(layer: paddle.nn.Layer) -> dict[str, np.ndarray]:
    return {name: parameter.numpy() for name, parameter in layer.state_dict().items()}


@pytest.fixture(scope="module")
def golden_folders(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, Path]:
    """The golden model in every layout that can be read."""
    source = request.getfixturevalue("golden_dir") / "model"
    folder = tmp_path_factory.mktemp("layouts")
    convert_checkpoint(source / "ckpt_bin", folder / "paddle", max_shard_bytes=1_000_000)
    ours = open_checkpoint(folder / "paddle")
    names = {name_in(layouts.PADDLEMIX, name): name for name in ours.names()}
    (folder / "paddlemix").mkdir()
    write_pdparams(folder / "paddlemix" / "model_state.pdparams", {n: ours.read(ours_) for n, ours_ in names.items()})
    (folder / "paddlemix" / "config.json").write_bytes((source / "ckpt_bin" / "config.json").read_bytes())
    return {
        "bin": source / "ckpt_bin",
        "safetensors": source / "ckpt_safetensors",
        "paddle": folder / "paddle",
        "paddlemix": folder / "paddlemix",
    }


@pytest.mark.parametrize("kind", ["bin", "safetensors", "paddle", "paddlemix"])
def test_from_pretrained_reads_every_layout(golden_folders: dict[str, Path], golden_dir: Path, kind: str) -> None:
    loaded = QWenLMHeadModel.from_pretrained(golden_folders[kind], dtype="float32")
    golden = np.load(golden_dir / "model" / "language.npz")
    with paddle.no_grad():
        logits = loaded(paddle.to_tensor(golden["text_short.input_ids"].astype(np.int64))).logits
    np.testing.assert_allclose(logits.numpy()[0], golden["text_short.logits"], atol=1e-3)
    exact = open_checkpoint(golden_folders["bin"])
    head = loaded.lm_head.weight.numpy()
    np.testing.assert_array_equal(head, dtypes.to_float32(exact.read(HEAD), "bfloat16").T)


def test_saved_model_is_loaded_bit_for_bit(golden_folders: dict[str, Path], tmp_path: Path) -> None:
    first = QWenLMHeadModel.from_pretrained(golden_folders["paddle"], dtype="float32")
    first.save_pretrained(tmp_path / "saved")
    second = QWenLMHeadModel.from_pretrained(tmp_path / "saved", dtype="float32")
    theirs = values(second)
    assert set(theirs) == set(values(first))
    for name, value in values(first).items():
        np.testing.assert_array_equal(theirs[name], value)


def test_a_place_that_cannot_be_written_is_named(golden_folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    loaded = QWenLMHeadModel.from_pretrained(golden_folders["paddle"], dtype="float32")
    with pytest.raises(CheckpointError, match="file: cannot be written"):
        loaded.save_pretrained(tmp_path / "file")


def test_names_and_shapes_of_the_model_are_those_of_the_table(golden_dir: Path) -> None:
    config = json.loads((golden_dir / "model" / "ckpt_bin" / "config.json").read_text())
    with paddle.LazyGuard():
        made = QWenLMHeadModel(QWenVLConfig(**config))
    shapes = {name: tuple(parameter.shape) for name, parameter in made.state_dict().items()}
    assert shapes == WEIGHTS.expected_shapes(made.config) == WEIGHTS.expected_shapes(config)


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_values_arrive_in_our_orientation(tmp_path: Path, layout: str) -> None:
    weights, made = random_weights(layout), model()
    assert load_into(made, write_model(tmp_path, layout, weights)) == []
    for name, value in values(made).items():
        theirs = weights[name_in(layout, name)]
        transposed = WEIGHTS.is_transposed(name, layout, layouts.PADDLE)
        np.testing.assert_array_equal(value, theirs.T if transposed else theirs)


def test_values_are_converted_to_the_type_of_the_parameters(tmp_path: Path) -> None:
    weights, made = random_weights(layouts.PADDLE), model("bfloat16")
    load_into(made, write_model(tmp_path, layouts.PADDLE, weights), "bfloat16")
    np.testing.assert_array_equal(values(made)[HEAD], dtypes.from_float32(weights[HEAD], "bfloat16"))


def test_model_that_was_made_in_another_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is float32, expected bfloat16"):
        load_into(model(), write_model(tmp_path, layouts.PADDLE), "bfloat16")


def test_parameters_that_were_never_initialized_are_filled_and_can_be_trained(tmp_path: Path) -> None:
    weights = random_weights(layouts.PADDLE)
    with paddle.LazyGuard():
        made = model()
    load_into(made, write_model(tmp_path, layouts.PADDLE, weights))
    parameter = made.state_dict()[HEAD]
    (parameter * parameter).sum().backward()
    np.testing.assert_allclose(parameter.grad.numpy(), 2 * weights[HEAD], rtol=1e-6)


def test_everything_that_does_not_fit_is_listed_before_anything_is_written(tmp_path: Path) -> None:
    weights = random_weights(layouts.HF)
    del weights["transformer.ln_f.weight"]
    weights[HEAD] = weights[HEAD][:-1]
    weights["transformer.h.2.ln_1.weight"] = np.ones(8, np.float32)
    weights["something.else"] = np.ones(8, np.float32)
    made = model()
    before = values(made)
    with pytest.raises(CheckpointError) as caught:
        load_into(made, write_model(tmp_path, layouts.HF, weights))
    message = str(caught.value)
    assert "'transformer.ln_f.weight' is missing" in message
    assert "'transformer.h.2.ln_1.weight' is not in the model" in message
    assert "'something.else' is not a weight of Qwen-VL" in message
    assert "'lm_head.weight' has shape [10, 8], expected [11, 8]" in message
    for name, value in values(made).items():
        np.testing.assert_array_equal(value, before[name])


def test_not_strict_accepts_missing_and_unexpected_but_never_misshapen(tmp_path: Path) -> None:
    weights = random_weights(layouts.HF)
    del weights["transformer.ln_f.weight"]
    weights["something.else"] = np.ones(8, np.float32)
    with paddle.LazyGuard():
        made = model()
    missing = load_into(made, write_model(tmp_path / "a", layouts.HF, weights), strict=False)
    assert missing == ["transformer.ln_f.weight"]
    assert made.state_dict()["transformer.ln_f.weight"].numpy().shape == (8,)
    weights[HEAD] = weights[HEAD].T
    with pytest.raises(CheckpointError, match=r"has shape \[8, 11\], expected \[11, 8\]"):
        load_into(made, write_model(tmp_path / "b", layouts.HF, weights), strict=False)


def test_computed_tensors_are_passed_over(tmp_path: Path) -> None:
    weights = {**random_weights(layouts.HF), "transformer.rotary_emb.inv_freq": np.ones(2, np.float32)}
    assert load_into(model(), write_model(tmp_path, layouts.HF, weights)) == []


def test_nan_and_infinity_are_refused_unless_allowed(tmp_path: Path) -> None:
    weights = random_weights(layouts.HF)
    weights[HEAD][0, 0], weights[SQUARE][1, 1] = np.nan, np.inf
    folder = write_model(tmp_path, layouts.HF, weights)
    load_into(model(), folder, check_finite=False)
    with pytest.raises(CheckpointError, match=f"damaged: '{SQUARE}' holds NaN .*'{HEAD}' holds NaN"):
        load_into(model(), folder)


def test_values_too_large_for_the_type_of_the_parameters_are_refused(tmp_path: Path) -> None:
    weights = random_weights(layouts.HF)
    weights[HEAD][0, 0] = 1e5
    with pytest.raises(CheckpointError, match=f"'{HEAD}' holds NaN .* too large for float16"):
        load_into(model("float16"), write_model(tmp_path, layouts.HF, weights))


def test_saving_as_another_dtype(tmp_path: Path) -> None:
    made = model()
    save_model(made, tmp_path, dtype="bfloat16")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.layout == layouts.PADDLE
    np.testing.assert_array_equal(checkpoint.read(HEAD), dtypes.from_float32(values(made)[HEAD], "bfloat16"))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"num_hidden_layers": 900}, "num_hidden_layers is 900, the weights are of 2 layers"),
        ({"visual": {"layers": 3}}, "visual.layers is 3, the weights are of 2 layers"),
        ({"hidden_size": 1 << 30}, "'transformer.wte.weight' has shape [11, 8], expected [11, 1073741824]"),
        ({"vocab_size": 12}, "'lm_head.weight' has shape [11, 8], expected [12, 8]"),
        ({"visual": {"output_dim": 1 << 40}}, "'transformer.visual.attn_pool.query' has shape [4, 8], expected"),
    ],
)
def test_a_config_is_compared_with_the_headers_before_anything_is_made(tmp_path, changes, problem) -> None:
    checkpoint = open_checkpoint(write_model(tmp_path, layouts.HF))
    check_config(checkpoint, CONFIG)
    config = {**CONFIG, **changes, "visual": {**CONFIG["visual"], **changes.get("visual", {})}}
    with pytest.raises(CheckpointError, match=re.escape(problem)):
        check_config(checkpoint, config)


def test_weights_that_the_config_asks_for_and_the_files_lack_are_listed(tmp_path) -> None:
    weights = random_weights(layouts.PADDLEMIX)
    del weights["transformer.llm.h.1.mlp.w1.weight"]
    with pytest.raises(CheckpointError, match="config.json: 'transformer.llm.h.1.mlp.w1.weight' is missing$"):
        check_config(open_checkpoint(write_model(tmp_path, layouts.PADDLEMIX, weights)), CONFIG)


@pytest.mark.parametrize("quantization", [None, "int4", "bf16"])
def test_loading_tells_how_far_it_is(quantization: str | None) -> None:
    told: list[tuple[int, int]] = []
    options = {} if quantization is None else {"quantization": quantization}
    QWenLMHeadModel.from_pretrained(DEFAULT_MODEL_DIR, progress=lambda *now: told.append(now), **options)
    total = open_checkpoint(DEFAULT_MODEL_DIR).nbytes()
    assert len(told) > 50 and told[-1] == (total, total)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-2][0] > total * 0.9


def test_a_saved_model_is_not_written_over_another_or_foreign_files(tmp_path: Path) -> None:
    model = QWenLMHeadModel.from_pretrained(DEFAULT_MODEL_DIR)
    QwenVLProcessor.from_pretrained(DEFAULT_MODEL_DIR).save_pretrained(tmp_path / "out")
    model.save_pretrained(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(TargetError, match="holds a finished result"):
        model.save_pretrained(tmp_path / "out")
    model.save_pretrained(tmp_path / "out", overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(TargetError, match="did not write .notes.txt"):
        model.save_pretrained(tmp_path / "out", overwrite=True)


def test_a_missing_vocabulary_is_told_before_the_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    QWenLMHeadModel.from_pretrained(DEFAULT_MODEL_DIR).save_pretrained(tmp_path / "model")
    monkeypatch.setattr(QWenLMHeadModel, "from_directory", None)
    with pytest.raises(CheckpointError, match="qwen.tiktoken"):
        load_model(tmp_path / "model")
