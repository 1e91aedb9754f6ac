"""Whole models are loaded from a directory and saved into one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from paddlemix import QWenLMHeadModel, QWenVLConfig
from paddlemix.errors import CheckpointError, ConfigurationError
from paddlemix.models.qwen_vl.pretrained import choose_dtype


def test_a_damaged_generation_config_is_named(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="generation_config.json cannot be read as JSON"):
        QWenLMHeadModel.from_pretrained(folder)


def test_a_model_without_generation_config_has_the_published_values_and_says_so(
    tiny_model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    (folder / "generation_config.json").unlink()
    model = QWenLMHeadModel.from_pretrained(folder)
    assert not model.training
    config, first = model.generation_config, model.config.visual.image_start_id - 214
    assert (config.max_new_tokens, config.do_sample, config.top_p, config.top_k) == (512, True, 0.3, 0)
    assert (config.chat_format, config.max_window_size) == ("chatml", 6144)
    assert (config.eos_token_id, config.pad_token_id) == ([first, first + 1, first + 2], first)
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if "generation_config.json" in line] == [
        f"{folder}: has no generation_config.json; answers are generated with the values of Qwen-VL-Chat (at most 512 "
        "new tokens, sampling with top_p 0.3)."
    ]


def test_a_generation_config_that_cannot_work_is_told_before_the_weights_are_read(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"")
    path = folder / "generation_config.json"
    path.write_text('{"eos_token_id": 0.5}')
    with pytest.raises(ConfigurationError, match="generation_config.json: eos_token_id: expected an integer"):
        QWenLMHeadModel.from_pretrained(folder)


def test_every_dtype_becomes_float32_on_a_cpu_and_a_request_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_dtype(None, QWenVLConfig(bf16=True)) == "float32"
    assert choose_dtype("float32", QWenVLConfig()) == "float32"
    assert not caplog.records
    assert choose_dtype("bfloat16", QWenVLConfig()) == "float32"
    assert "dtype bfloat16 needs a GPU" in caplog.text


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="dtype: got 'int3', expected one of bfloat16, float16, float32"):
        choose_dtype("int3", QWenVLConfig())
