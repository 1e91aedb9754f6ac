"""Whole models are loaded from a directory and saved into one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from paddlemix import QWenLMHeadModel, QWenVLConfig
from paddlemix.errors import CheckpointError, ConfigurationError
from paddlemix.models.qwen_vl.loading import choose_dtype


def test_a_damaged_generation_config_is_named(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="generation_config.json cannot be read as JSON"):
        QWenLMHeadModel.from_pretrained(folder)


def test_a_model_without_generation_config_has_the_defaults(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    (folder / "generation_config.json").unlink()
    model = QWenLMHeadModel.from_pretrained(folder)
    assert not model.training
    assert model.generation_config.eos_token_id is None


def test_every_dtype_becomes_float32_on_a_cpu_and_a_request_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_dtype(None, QWenVLConfig(bf16=True)) == "float32"
    assert choose_dtype("float32", QWenVLConfig()) == "float32"
    assert not caplog.records
    assert choose_dtype("bfloat16", QWenVLConfig()) == "float32"
    assert "dtype bfloat16 needs a GPU" in caplog.text


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="dtype: got 'int3', expected one of bfloat16, float16, float32"):
        choose_dtype("int3", QWenVLConfig())
