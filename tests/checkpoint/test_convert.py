from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from paddlemix.checkpoint import dtypes, layouts
from paddlemix.checkpoint.convert import verify_conversion
from paddlemix.errors import CheckpointError, ConfigurationError
from paddlemix.models.qwen_vl.weights import WEIGHTS
from paddlemix.zoo import DEFAULT_MODEL_DIR
from tests.checkpoint.building import (
    CONFIG,
    convert_checkpoint,
    open_checkpoint,
    random_weights,
    write_model,
    write_safetensors,
)

HEAD = "lm_head.weight"
SQUARE = "transformer.h.1.attn.c_proj.weight"


def tensors(folder: Path) -> dict[str, np.ndarray]:
    checkpoint = open_checkpoint(folder)
    return {name: checkpoint.read(name) for name in checkpoint.names()}


def assert_equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert set(one) == set(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize("source", ["ckpt_bin", "ckpt_safetensors"])
def test_round_trip_of_the_original_is_bit_exact(golden_dir: Path, tmp_path: Path, source: str) -> None:
    original = golden_dir / "model" / source
    there = convert_checkpoint(original, tmp_path / "paddle", verify=True, max_shard_bytes=1_000_000)
    back = convert_checkpoint(tmp_path / "paddle", tmp_path / "hf", "hf", verify=True)
    assert (there.source_layout, there.layout, back.source_layout, back.layout) == ("hf", "paddle", "paddle", "hf")
    assert len(there.files) > 1
    assert there.total_bytes == back.total_bytes == 5_376_864
    assert_equal(tensors(original), tensors(tmp_path / "hf"))


def test_pytorch_tools_read_the_export(golden_dir: Path, tmp_path: Path) -> None:
    convert_checkpoint(golden_dir / "model" / "ckpt_bin", tmp_path / "paddle", dtype="float32")
    convert_checkpoint(tmp_path / "paddle", tmp_path / "hf", "hf")
    file = tmp_path / "hf" / "model.safetensors"
    with safetensors.safe_open(file, "numpy") as opened:
        assert opened.metadata() == {"format": "pt"}
    exported = safetensors.numpy.load_file(file)
    golden = open_checkpoint(golden_dir / "model" / "ckpt_bin")
    assert set(exported) == set(golden.names())
    for name in golden.names():
        np.testing.assert_array_equal(exported[name], dtypes.to_float32(golden.read(name), "bfloat16"))


def test_our_files_carry_a_marker_that_pytorch_tools_refuse(tmp_path: Path) -> None:
    convert_checkpoint(write_model(tmp_path / "in", layouts.HF), tmp_path / "out")
    with safetensors.safe_open(tmp_path / "out" / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pd", "paddlemix_layout": "paddle"}


def test_linear_weights_are_transposed_and_others_not(tmp_path: Path) -> None:
    weights = random_weights(layouts.HF)
    convert_checkpoint(write_model(tmp_path / "in", layouts.HF, weights), tmp_path / "out")
    converted = tensors(tmp_path / "out")
    np.testing.assert_array_equal(converted[SQUARE], weights[SQUARE].T)
    np.testing.assert_array_equal(converted[HEAD], weights[HEAD].T)
    for name in ("transformer.visual.proj", "transformer.wte.weight", "transformer.visual.attn_pool.query"):
        np.testing.assert_array_equal(converted[name], weights[name])


@pytest.mark.parametrize("to", ["paddle", "hf"])
def test_paddlemix_weights_are_converted_either_way(tmp_path: Path, to: str) -> None:
    weights = random_weights(layouts.PADDLEMIX)
    convert_checkpoint(write_model(tmp_path / "in", layouts.PADDLEMIX, weights), tmp_path / "out", to, verify=True)
    converted = tensors(tmp_path / "out")
    assert set(converted) == set(WEIGHTS.expected_shapes(CONFIG, to))
    square = weights["transformer.llm.h.1.attn.c_proj.weight"]
    np.testing.assert_array_equal(converted[SQUARE], square.T if to == "hf" else square)
    np.testing.assert_array_equal(converted["transformer.visual.proj"], weights["visual.proj"])


def test_configuration_and_tokenizer_are_copied(tmp_path: Path) -> None:
    source = write_model(tmp_path / "in", layouts.HF)
    (source / "qwen.tiktoken").write_bytes(b"IQ== 0\n")
    (source / "generation_config.json").write_text("{}")
    (source / "secret.txt").write_text("not part of a model")
    convert_checkpoint(source, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "checkpoint_manifest.json", "config.json", "generation_config.json", "model.safetensors", "qwen.tiktoken",
    ]  # fmt: skip
    assert (tmp_path / "out" / "config.json").read_text() == (source / "config.json").read_text()


def test_side_file_that_cannot_be_copied_leaves_no_part_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        Path(target).write_bytes(b"par")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(CheckpointError, match="cannot be written: No space left on device"):
        convert_checkpoint(write_model(tmp_path / "in", layouts.HF), tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_another_dtype_is_converted_and_noted(tmp_path: Path) -> None:
    weights = random_weights(layouts.HF)
    source = write_model(tmp_path / "in", layouts.HF, weights)
    convert_checkpoint(source, tmp_path / "out", "hf", dtype="bfloat16", verify=True)
    checkpoint = open_checkpoint(tmp_path / "out")
    assert checkpoint.dtype(HEAD) == "bfloat16"
    np.testing.assert_array_equal(checkpoint.read(HEAD), dtypes.from_float32(weights[HEAD], "bfloat16"))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_values_too_large_for_float16_are_reported_by_tensor(tmp_path: Path) -> None:
    weights = random_weights(layouts.HF)
    weights[HEAD][1, 2] = 1e5
    weights[SQUARE][:2, 0] = -7e4
    source = write_model(tmp_path / "in", layouts.HF, weights)
    with pytest.raises(
        CheckpointError, match="c_proj.weight' holds 2 values too large.*lm_head.weight' holds 1 values"
    ):
        convert_checkpoint(source, tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()


def test_nan_and_infinity_are_refused_unless_allowed(tmp_path: Path) -> None:
    weights = random_weights(layouts.HF)
    weights[HEAD][3, 4], weights[SQUARE][0, 0] = np.nan, np.inf
    source = write_model(tmp_path / "in", layouts.HF, weights)
    with pytest.raises(CheckpointError, match="c_proj.weight' holds 1 NaN or infinite.*lm_head.weight' holds 1 NaN"):
        convert_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    convert_checkpoint(source, tmp_path / "out", check_finite=False)
    assert np.isnan(tensors(tmp_path / "out")[HEAD][4, 3])


def test_everything_that_does_not_fit_the_configuration_is_listed(tmp_path: Path) -> None:
    weights = random_weights(layouts.HF)
    del weights["transformer.ln_f.weight"]
    weights[HEAD] = weights[HEAD][:-1]
    weights["transformer.h.2.ln_1.weight"] = np.ones(8, np.float32)
    weights["something.else"] = np.ones(8, np.float32)
    with pytest.raises(CheckpointError) as caught:
        convert_checkpoint(write_model(tmp_path / "in", layouts.HF, weights), tmp_path / "out")
    message = str(caught.value)
    assert "'something.else' is not a weight of Qwen-VL" in message
    assert "'transformer.ln_f.weight' is missing" in message
    assert "'lm_head.weight' has shape (10, 8), expected (11, 8)" in message
    assert "'transformer.h.2.ln_1.weight' is not part of the configured model" in message
    assert not (tmp_path / "out").exists()


def test_tensors_that_are_computed_are_left_out_and_named(tmp_path: Path) -> None:
    weights = {**random_weights(layouts.HF), "transformer.rotary_emb.inv_freq": np.ones(2, np.float32)}
    result = convert_checkpoint(write_model(tmp_path / "in", layouts.HF, weights), tmp_path / "out", verify=True)
    assert result.passed_over == ("transformer.rotary_emb.inv_freq",)
    assert "transformer.rotary_emb.inv_freq" not in tensors(tmp_path / "out")


def test_weights_without_a_configuration_are_converted(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", random_weights(layouts.HF))
    convert_checkpoint(tmp_path / "model.safetensors", tmp_path / "out", verify=True)
    assert open_checkpoint(tmp_path / "out").layout == layouts.PADDLE


def test_verification_finds_a_changed_value(tmp_path: Path) -> None:
    source = write_model(tmp_path / "in", layouts.HF)
    convert_checkpoint(source, tmp_path / "out")
    changed = {name: value.copy() for name, value in tensors(tmp_path / "out").items()}
    changed[SQUARE] = changed[SQUARE].T.copy()
    write_safetensors(tmp_path / "out" / "model.safetensors", changed)
    with pytest.raises(
        CheckpointError, match="model.safetensors is not the file.*c_proj.weight' differs from the source"
    ):
        verify_conversion(open_checkpoint(source), tmp_path / "out")


@pytest.mark.parametrize(
    "content, said",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 2561218\n", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><html><body>Log in</body></html>", "is an HTML page"),
        (b"", "is empty"),
    ],
)
def test_a_vocabulary_that_is_something_else_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    source = write_model(tmp_path / "in", layouts.HF)
    (source / "qwen.tiktoken").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"qwen.tiktoken {said}"):
        convert_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_vocabulary_is_named(tmp_path: Path) -> None:
    source = write_model(tmp_path / "in", layouts.HF)
    assert convert_checkpoint(source, tmp_path / "out", verify=True).missing == ("qwen.tiktoken",)
    assert convert_checkpoint(DEFAULT_MODEL_DIR, tmp_path / "bundled", verify=True).missing == ()


@pytest.mark.parametrize("cut", [2, 20, 5000])
def test_verifying_finds_a_vocabulary_that_was_cut_short(tmp_path: Path, cut: int) -> None:
    source = shutil.copytree(DEFAULT_MODEL_DIR, tmp_path / "in")
    content = (source / "qwen.tiktoken").read_bytes()
    (source / "qwen.tiktoken").write_bytes(content[:-cut])
    with pytest.raises(CheckpointError, match="vocabulary file .*in/qwen.tiktoken"):
        convert_checkpoint(source, tmp_path / "out", verify=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes, field",
    [
        ({"hidden_size": "192"}, "hidden_size"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"visual": {**CONFIG["visual"], "mlp_ratio": float("nan")}}, "no NaN"),
        ({"visual": 5}, "visual"),
        ({"model_type": "llama"}, "llama"),
    ],
)
def test_a_configuration_that_the_loader_refuses_is_refused(tmp_path: Path, changes: dict, field: str) -> None:
    source = write_model(tmp_path / "in", layouts.HF)
    (source / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    with pytest.raises((ConfigurationError, CheckpointError), match=field) as caught:
        convert_checkpoint(source, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_fields_of_other_tools_without_effect_do_not_matter(tmp_path: Path) -> None:
    source = write_model(tmp_path / "in", layouts.HF)
    fields = {"_attn_implementation_autoset": True, "softmax_in_fp32": False, "use_cache_kernel": False}
    (source / "config.json").write_text(json.dumps({**CONFIG, **fields}))
    convert_checkpoint(source, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {**CONFIG, **fields}


def test_progress_reaches_all_and_no_more(tmp_path: Path) -> None:
    written: list[tuple[int, int]] = []
    verified: list[tuple[int, int]] = []
    convert_checkpoint(
        write_model(tmp_path / "in", layouts.HF),
        tmp_path / "out",
        verify=True,
        progress=lambda *now: written.append(now),
        verify_progress=lambda *now: verified.append(now),
    )
    for told in (written, verified):
        assert len(told) > 10
        assert [done for done, _ in told] == sorted(done for done, _ in told)
        assert told[-1][0] == told[-1][1] > 0


def test_source_is_never_overwritten(tmp_path: Path) -> None:
    source = write_model(tmp_path, layouts.HF)
    with pytest.raises(CheckpointError, match="folder of the source itself"):
        convert_checkpoint(source, tmp_path / ".")


@pytest.mark.parametrize("options", [{"to": "onnx"}, {"dtype": "int8"}, {"max_shard_bytes": 0}])
def test_impossible_options_are_named(tmp_path: Path, options: dict) -> None:
    with pytest.raises(ConfigurationError, match=f"{next(iter(options))}: got"):
        convert_checkpoint(tmp_path, tmp_path / "out", **options)


KILLED = """
import sys, time
from paddlemix.checkpoint import convert, writer
from paddlemix.models.registry import DEFAULT_FAMILY
write = writer.write_safetensors
def slowly(path, *arguments):
    if "00004" in path.name:
        path.with_name(path.name + ".tmp").write_bytes(b"half a file")
        print("writing", flush=True)
        time.sleep(60)
    return write(path, *arguments)
writer.write_safetensors = slowly
convert.convert_checkpoint(sys.argv[1], sys.argv[2], family=DEFAULT_FAMILY, max_shard_bytes=1_000_000)
"""


def test_killed_conversion_is_completed_by_the_next(golden_dir: Path, tmp_path: Path) -> None:
    source, output = golden_dir / "model" / "ckpt_bin", tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(source), str(output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert [path.name for path in output.iterdir()] == [".incomplete"]
    with pytest.raises(CheckpointError, match="not finished; run it again"):
        open_checkpoint(output)
    finished = (output / ".incomplete" / "model-00001-of-00006.safetensors").stat()
    time.sleep(0.01)
    convert_checkpoint(source, output, max_shard_bytes=1_000_000, verify=True)
    assert (output / "model-00001-of-00006.safetensors").stat().st_mtime_ns == finished.st_mtime_ns
    assert not list(output.glob("**/*.tmp"))
    assert not (output / ".incomplete").exists()
