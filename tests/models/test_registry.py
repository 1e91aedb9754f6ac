"""Families are found by the architecture that ``config.json`` names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from paddlemix.errors import CheckpointError
from paddlemix.models.qwen_vl.weights import ADAPTER_TARGETS, FREEZE_PRESETS, WEIGHTS
from paddlemix.models.registry import DEFAULT_FAMILY, FAMILIES, family_of
from paddlemix.zoo import DEFAULT_MODEL_DIR


@pytest.mark.parametrize(
    "fields",
    [{"architectures": ["QWenLMHeadModel"]}, {"architectures": ["Other"]}, {"architectures": "QWen"}, {}, None],
)
def test_a_directory_that_names_no_known_architecture_has_the_default_family(tmp_path: Path, fields: object) -> None:
    if fields is not None:
        (tmp_path / "config.json").write_text(json.dumps(fields))
    assert family_of(tmp_path) is family_of(tmp_path / "model.safetensors") is DEFAULT_FAMILY


def test_a_file_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="config.json"):
        family_of(tmp_path)


def test_a_family_answers_from_its_own_modules() -> None:
    family = FAMILIES["QWenLMHeadModel"]
    assert (family.weights, family.adapter_targets, family.freeze_presets) == (WEIGHTS, ADAPTER_TARGETS, FREEZE_PRESETS)
    names = [family.config_class.__name__, family.model_class.__name__, family.processor_class.__name__]
    assert names == ["QWenVLConfig", "QWenLMHeadModel", "QwenVLProcessor"]
    config = family.read_config(DEFAULT_MODEL_DIR)
    family.check_vocabulary(DEFAULT_MODEL_DIR / "qwen.tiktoken", config)
    with pytest.raises(CheckpointError, match="another model's"):
        family.check_vocabulary(DEFAULT_MODEL_DIR / "qwen.tiktoken", {"visual": {"image_start_id": 9}})


def test_finding_a_family_imports_no_paddle() -> None:
    code = (
        "import sys; from paddlemix.models.registry import DEFAULT_FAMILY as f; f.weights; f.adapter_targets;"
        "print('paddle' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
