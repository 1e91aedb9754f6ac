from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from paddlemix.checkpoint import layouts
from paddlemix.errors import CheckpointError, UnsafeCheckpointError
from paddlemix.models.qwen_vl.weights import WEIGHTS
from tests.checkpoint.building import open_checkpoint, random_weights, write_model, write_safetensors, write_torch


@pytest.mark.parametrize("folder", ["ckpt_bin", "ckpt_safetensors"])
def test_published_layouts_are_read(golden_dir: Path, folder: str) -> None:
    checkpoint = open_checkpoint(golden_dir / "model" / folder)
    config = json.loads((golden_dir / "model" / folder / "config.json").read_text())
    assert checkpoint.layout == layouts.HF
    shapes = {name: checkpoint.shape(name) for name in checkpoint.names()}
    assert shapes == WEIGHTS.expected_shapes(config, layouts.HF)
    assert {checkpoint.dtype(name) for name in shapes} == {"bfloat16"}


def test_torch_files_and_safetensors_hold_the_same_values(golden_dir: Path) -> None:
    first, second = (open_checkpoint(golden_dir / "model" / kind) for kind in ("ckpt_bin", "ckpt_safetensors"))
    assert set(first.names()) == set(second.names())
    for name in first.names():
        np.testing.assert_array_equal(first.read(name), second.read(name))


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_each_layout_is_told_and_read(tmp_path: Path, layout: str) -> None:
    weights = random_weights(layout)
    checkpoint = open_checkpoint(write_model(tmp_path, layout, weights))
    assert checkpoint.layout == layout
    assert set(checkpoint.our_names()) == set(
        WEIGHTS.expected_shapes(json.loads((tmp_path / "config.json").read_text()))
    )
    for name, value in weights.items():
        np.testing.assert_array_equal(checkpoint.read(name), value)


def test_a_single_file_is_a_checkpoint_too(tmp_path: Path) -> None:
    write_torch(tmp_path / "pytorch_model.bin", random_weights(layouts.HF))
    assert open_checkpoint(tmp_path / "pytorch_model.bin").layout == layouts.HF


def test_tensors_cannot_be_changed(tmp_path: Path) -> None:
    weights = random_weights(layouts.HF)
    checkpoint = open_checkpoint(write_model(tmp_path, layouts.HF, weights))
    values = checkpoint.read("lm_head.weight")
    np.testing.assert_array_equal(values, weights["lm_head.weight"])
    with pytest.raises(ValueError, match="read-only"):
        values[0, 0] = 1


def test_harmless_extra_keys_are_no_unknown_ones(tmp_path: Path) -> None:
    extra = {"transformer.rotary_emb.inv_freq": np.ones(4, np.float32), "transformer.extra": np.ones(4, np.float32)}
    checkpoint = open_checkpoint(write_model(tmp_path, layouts.HF, {**random_weights(layouts.HF), **extra}))
    assert checkpoint.unknown_names() == ["transformer.extra"]


@pytest.mark.parametrize(
    "file",
    [
        "../model.safetensors",
        "/etc/passwd",
        "a/../../b.safetensors",
        "sub/model.safetensors",
        "..\\x.bin",
        "..",
        "",
        "C:x",
    ],
)
def test_index_that_points_outside_its_folder_is_refused(tmp_path: Path, file: str) -> None:
    write_safetensors(tmp_path / "model.safetensors", random_weights(layouts.HF))
    folder = tmp_path / "model"
    write_model(folder, layouts.HF, shards=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["lm_head.weight"] = file
    path.write_text(json.dumps(index))
    with pytest.raises(UnsafeCheckpointError, match="only files in its own folder"):
        open_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "[" * 100_000])
def test_damaged_index_is_refused(tmp_path: Path, text: str) -> None:
    write_model(tmp_path, layouts.HF, shards=2)
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match="index"):
        open_checkpoint(tmp_path)


def test_all_missing_shards_are_listed(tmp_path: Path) -> None:
    write_model(tmp_path, layouts.HF, shards=3)
    (tmp_path / "model-00001-of-00003.safetensors").unlink()
    (tmp_path / "model-00003-of-00003.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"'model-00001-of-00003\S* is missing; 'model-00003-of-00003\S* is missing"
    ):
        open_checkpoint(tmp_path)


def test_shards_that_do_not_agree_with_the_index_are_listed(tmp_path: Path) -> None:
    write_model(tmp_path, layouts.HF, shards=2)
    weights = random_weights(layouts.HF)
    write_safetensors(
        tmp_path / "model-00001-of-00002.safetensors",
        {"transformer.h.0.ln_1.weight": weights["transformer.h.0.ln_1.weight"]},
    )
    with pytest.raises(CheckpointError, match="is in both .*'transformer.wte.weight' is missing from"):
        open_checkpoint(tmp_path)


def test_folder_without_weights_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights found; expected one of model.safetensors.index.json"):
        open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        open_checkpoint(tmp_path / "absent")


def test_unfinished_conversion_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / ".incomplete").mkdir()
    with pytest.raises(CheckpointError, match="not finished; run it again"):
        open_checkpoint(tmp_path)


def test_empty_and_unknown_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="is empty; delete it and download it again"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="unknown kind of weights"):
        open_checkpoint(tmp_path / "model.onnx")


def test_gptq_layers_are_found_and_their_parts_are_no_unknown_tensors(tmp_path: Path) -> None:
    tensors = {**random_weights(layouts.HF), "transformer.h.0.mlp.w1.qweight": np.zeros((1, 10), np.int32)}
    tensors["transformer.h.0.mlp.w1.qzeros"] = np.zeros((1, 10), np.int32)
    tensors["transformer.h.0.mlp.w9.qweight"] = np.zeros((1, 10), np.int32)
    checkpoint = open_checkpoint(write_model(tmp_path, layouts.HF, tensors))
    assert checkpoint.gptq_layers() == {"transformer.h.0.mlp.w1.weight": "transformer.h.0.mlp.w1"}
    assert checkpoint.unknown_names() == ["transformer.h.0.mlp.w9.qweight"]


def test_a_writable_map_has_the_values_and_never_changes_the_file(tmp_path: Path) -> None:
    weights = random_weights(layouts.HF)
    for checkpoint in (
        open_checkpoint(write_model(tmp_path / "a", layouts.HF, weights, shards=2)),
        open_checkpoint(write_model(tmp_path / "b", layouts.PADDLEMIX)),
    ):
        name = checkpoint.names()[0]
        before = np.array(checkpoint.read(name))
        mapped = checkpoint.map_writable(name)
        np.testing.assert_array_equal(mapped, before)
        mapped[...] = 0
        np.testing.assert_array_equal(checkpoint.read(name), before)


def test_packings_of_later_versions_and_of_some_shards_only_are_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", random_weights(layouts.PADDLE), {layouts.PACKING_MARKER: "9"})
    with pytest.raises(CheckpointError, match="paddlemix_packing=.*'9'.*expected '1' in every shard or in none"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "base_model.model.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "base_model.model.module.",
    ],
)
@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_prefixes_of_wrappers_are_passed_over(tmp_path: Path, layout: str, prefix: str) -> None:
    weights = random_weights(layout)
    checkpoint = open_checkpoint(
        write_model(tmp_path, layout, {prefix + name: value for name, value in weights.items()})
    )
    assert checkpoint.layout == layout
    assert checkpoint.names() == list(weights)
    assert checkpoint.unknown_names() == []
    for name, value in weights.items():
        np.testing.assert_array_equal(checkpoint.read(name), value)


def test_prefixes_in_shards_agree_with_their_index(tmp_path: Path) -> None:
    weights = {f"module.{name}": value for name, value in random_weights(layouts.HF).items()}
    checkpoint = open_checkpoint(write_model(tmp_path, layouts.HF, weights, shards=2))
    assert checkpoint.names()[0].startswith("transformer.")


def test_prefixes_that_only_some_names_bear_stay_and_one_is_shown(tmp_path: Path) -> None:
    weights = {f"module.{name}": value for name, value in random_weights(layouts.HF).items()}
    write_model(tmp_path, layouts.HF, {**weights, "step": np.ones(1, np.float32)})
    expected = "no weight has a name of Qwen-VL, one is called 'module.transformer.wte.weight'; expected e.g."
    with pytest.raises(CheckpointError, match=re.escape(expected)):
        open_checkpoint(tmp_path)


def test_another_model_shows_one_of_its_names_escaped_and_cut(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", {"\x1b[2J" + "x" * 10_000: np.ones(1, np.float32)})
    with pytest.raises(CheckpointError, match=r"one is called '\\x1b\[2Jx+…x+'; expected e.g.") as caught:
        open_checkpoint(tmp_path)
    assert len(str(caught.value)) < 400


def test_weights_under_the_names_of_autogptq_are_found(tmp_path: Path) -> None:
    for name in ("gptq_model-4bit-128g.safetensors", "gptq_model-8bit--1g.safetensors"):
        write_safetensors(tmp_path / name, random_weights(layouts.HF))
    with pytest.raises(CheckpointError, match="holds 2 models .*name the file of one of them"):
        open_checkpoint(tmp_path)
    (tmp_path / "quantize_config.json").write_text('{"model_file_base_name": "gptq_model-8bit--1g"}')
    assert [file.name for file in open_checkpoint(tmp_path).files] == ["gptq_model-8bit--1g.safetensors"]
    (tmp_path / "quantize_config.json").write_text('{"model_file_base_name": "../../secret"}')
    (tmp_path / "gptq_model-8bit--1g.safetensors").unlink()
    assert [file.name for file in open_checkpoint(tmp_path).files] == ["gptq_model-4bit-128g.safetensors"]


def test_names_in_errors_are_escaped_and_cut(tmp_path: Path) -> None:
    write_model(tmp_path, layouts.HF, shards=2)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["\x1b]0;title\x07" + "a" * 100_000] = "gone\x1b[2J" + "b" * 100_000
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="is missing") as caught:
        open_checkpoint(tmp_path)
    assert len(str(caught.value)) < 1000 and "\x1b" not in str(caught.value)
