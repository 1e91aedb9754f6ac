"""config.json: what other tools write beside it is passed over, other models are called by their names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from paddlenlp.transformers.configuration_utils import PretrainedConfig

from paddlemix.errors import ConfigurationError
from paddlemix.models.qwen_vl.config_schema import (
    KNOWN_FIELDS,
    LANGUAGE,
    VISUAL,
    check_config,
    read_config,
    read_visual,
)

PUBLISHED: dict[str, Any] = {
    "model_type": "qwen",
    "architectures": ["QWenLMHeadModel"],
    "hidden_size": 4096,
    "visual": {"image_size": 448, "output_dim": 4096},
}


def write(folder: Path, **fields: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({**PUBLISHED, **fields}))
    return folder


def test_the_defaults_are_those_of_the_published_model_and_of_their_kinds() -> None:
    config = check_config({})
    assert {name: config["visual"][name] for name in VISUAL} == {name: field.default for name, field in VISUAL.items()}
    assert {name: config[name] for name in LANGUAGE} == {name: field.default for name, field in LANGUAGE.items()}
    assert check_config(config) == config


@pytest.mark.parametrize(
    "neutral",
    [
        {"_attn_implementation_autoset": True, "_commit_hash": "abc", "_name_or_path": 5, "__class__": "x"},
        {"softmax_in_fp32": True, "use_cache_quantization": False, "use_cache_kernel": True},
        {"softmax_in_fp32": False, "use_cache_kernel": False, "use_flash_attn": "auto", "attn_implementation": "sdpa"},
        {"rope_parameters": None, "rope_scaling": None},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "rope_scaling": {"type": "default"}},
        {"rope_theta": 10000, "rope_parameters": {}},
        {"torchscript": False, "pruned_heads": {}, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}},
        {"dtype": "float16", "torch_dtype": "float16", "transformers_version": "4.51.3", "sliding_window": None},
        {"top_k": 50, "temperature": 1.0, "max_length": 20, "bad_words_ids": None, "is_decoder": False},
        {"quantization_config": None, "tie_word_embeddings": False, "gradient_checkpointing": True},
    ],
)
def test_private_and_neutral_fields_are_passed_over(neutral: dict[str, Any], tmp_path: Path) -> None:
    plain = read_config(write(tmp_path))
    assert plain is not None
    read = read_config(write(tmp_path, **neutral))
    kept = ("dtype", "torch_dtype")
    assert read is not None and {**read, **dict.fromkeys(kept)} == {**plain, **dict.fromkeys(kept)}


def test_every_field_of_paddlenlps_base_class_is_known() -> None:
    assert {name for name in vars(PretrainedConfig()) if not name.startswith("_")} <= KNOWN_FIELDS


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"]}, "Qwen2-VL"),
        ({"model_type": "qwen2_5_vl", "architectures": ["Qwen2_5_VLForConditionalGeneration"]}, "Qwen2.5-VL"),
        ({"model_type": "qwen3_vl_moe", "architectures": ["Qwen3VLMoeForConditionalGeneration"]}, "Qwen3-VL"),
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, "Qwen2, a language model without vision"),
        ({"model_type": "monkey", "architectures": ["MonkeyLMHeadModel"]}, "Monkey"),
        ({"model_type": "monkey", "architectures": ["TextMonkeyLMHeadModel"]}, "TextMonkey"),
        ({"model_type": "qwen", "architectures": ["MonkeyLMHeadModel"]}, "Monkey"),
        ({"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]}, "LLaVA"),
        ({"model_type": "llava_llama", "architectures": ["LlavaLlamaForCausalLM"]}, "LLaVA"),
        ({"model_type": "internvl_chat", "architectures": ["InternVLChatModel"]}, "InternVL"),
        ({"model_type": "minicpmv"}, "MiniCPM-V"),
        ({"model_type": "qwen", "visual": None}, "text-only Qwen"),
        ({"model_type": "qwen", "visual": None, "audio": {}}, "Qwen-Audio"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "'bert'"),
        ({"model_type": None, "architectures": None, "visual": None, "vision_config": {}}, "vision_config"),
    ],
)
def test_other_models_are_called_by_their_names(fields: dict[str, Any], name: str, tmp_path: Path) -> None:
    content = {key: value for key, value in {**PUBLISHED, **fields}.items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(content))
    for read in (read_config, read_visual):
        with pytest.raises(ConfigurationError) as caught:
            read(tmp_path)
        assert f"{name}" in str(caught.value) and "this project runs Qwen-VL (version 1)" in str(caught.value)


def test_a_field_that_cannot_work_is_named_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"config.json: hidden_size: expected an integer from 1 to 131072"):
        read_config(write(tmp_path, hidden_size="4096"))
    with pytest.raises(ConfigurationError, match=r"config.json: unknown configuration field\(s\) 'self'"):
        read_config(write(tmp_path, self=1))
    with pytest.raises(ConfigurationError, match=r"config.json: visual: unknown field\(s\) 'patches', 'self'"):
        read_config(write(tmp_path, visual={"self": 1, "patches": 3, "_note": 1}))


def test_a_processor_needs_the_visual_part_only(tmp_path: Path) -> None:
    write(tmp_path, hidden_size=8, visual={"image_size": 56, "n_queries": 4})
    assert read_visual(tmp_path)["n_queries"] == 4
    with pytest.raises(ConfigurationError, match="hidden_size"):
        read_visual(write(tmp_path, hidden_size="192"))
    (tmp_path / "config.json").unlink()
    assert read_visual(tmp_path) is read_config(tmp_path) is None


def test_the_schemas_need_no_paddle() -> None:
    modules = "config_schema, generation_file, image_processing, original_chat"
    code = f"import sys; from paddlemix.models.qwen_vl import {modules}; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
