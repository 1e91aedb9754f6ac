"""Arguments that users of transformers and PaddleNLP bring along."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddlemix.checkpoint import hub
from paddlemix.errors import ConfigurationError
from paddlemix.inference import load_model
from paddlemix.models.qwen_vl.configuration import QWenVLConfig
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from paddlemix.models.qwen_vl.pretrained_arguments import (
    PASSED_OVER,
    refuse_quantization_config,
    requested_device,
    requested_dtype,
    split_arguments,
    split_tokenizer_arguments,
)
from paddlemix.models.qwen_vl.processing import QwenVLProcessor
from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer

TRANSFORMERS = {"trust_remote_code": True, "revision": "main", "cache_dir": "/nowhere", "token": "t"}
MODEL = {"device_map": "auto", "torch_dtype": "auto", "attn_implementation": "sdpa", "low_cpu_mem_usage": True}


class Foreign:
    """A dtype or device of another library: known by how it is written."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


def test_what_changes_nothing_here_is_passed_over() -> None:
    assert split_arguments({**dict.fromkeys(PASSED_OVER, True), "use_logn_attn": False}) == (
        {},
        {"use_logn_attn": False},
    )


def test_what_concerns_the_hub_goes_there() -> None:
    given = {
        "revision": "v1",
        "cache_dir": "/x",
        "token": "t",
        "local_files_only": True,
        "from_hf_hub": True,
        "fp16": True,
    }
    hub = {"revision": "v1", "cache_dir": "/x", "token": "t", "offline": True, "store": "huggingface"}
    assert split_arguments(given) == (hub, {"fp16": True})
    assert split_arguments({"use_auth_token": "t", "local_files_only": False}) == ({"token": "t"}, {})


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("load_in_4bit", True, "write quantization='nf4' or 'int4'"),
        ("load_in_8bit", True, "quantization='int8'"),
        ("force_download", True, "remove the directory"),
        ("proxies", {"http": "x"}, "HTTPS_PROXY"),
        ("subfolder", "sub", "the directory itself"),
        ("max_memory", {0: "10GB"}, "one device"),
        ("offload_folder", "x", "one device"),
        ("ignore_mismatched_sizes", True, "error that lists it"),
        ("gguf_file", "x.gguf", "convert_weights.py"),
        ("load_in_4bit", "yes\x1b[2J", "write quantization='nf4' or 'int4'"),
        ("state_dict", {"a": np.zeros(1000)}, "set_state_dict"),
        ("load_in_8bit", 0.5, "quantization='int8'"),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_to_do(name: str, value: Any, advice: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{name}=.*: is not supported; .*{advice}") as caught:
        split_arguments({name: value})
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["load_in_4bit", "load_in_8bit", "force_download", "output_loading_info", "from_tf"])
@pytest.mark.parametrize("value", [None, False])
def test_what_is_switched_off_is_no_obstacle(name: str, value: Any) -> None:
    assert split_arguments({name: value, "proxies": {}, "subfolder": "", "max_memory": None}) == ({}, {})


@pytest.mark.parametrize("name", ["local_files_only", "from_hf_hub"])
def test_switches_are_true_or_false(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}: got 'yes', expected True or False"):
        split_arguments({name: "yes"})


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (None, None),
        ("auto", None),
        ("float16", "float16"),
        ("half", "float16"),
        ("bf16", "bfloat16"),
        ("torch.bfloat16", "bfloat16"),
        (Foreign("torch.float32"), "float32"),
        (paddle.float16, "float16"),
        (np.float32, "float32"),
        (np.dtype("float16"), "float16"),
    ],
)
def test_dtypes_of_every_library(dtype: Any, expected: str | None) -> None:
    assert requested_dtype(dtype, None) == requested_dtype(None, dtype) == requested_dtype(dtype, dtype) == expected


@pytest.mark.parametrize("dtype", ["int8", "float64", "x", 16, Foreign("torch.float8_e4m3fn"), np.float64, ["float16"]])
def test_other_dtypes_are_refused(dtype: Any) -> None:
    with pytest.raises(ConfigurationError, match="torch_dtype: got .*, expected 'auto' or one of bfloat16"):
        requested_dtype(None, dtype)


def test_two_dtypes_are_refused() -> None:
    assert requested_dtype("float16", "auto") == requested_dtype("auto", "float16") == "float16"
    with pytest.raises(ConfigurationError, match="torch_dtype: got float32 beside dtype=float16"):
        requested_dtype("float16", "float32")


@pytest.mark.parametrize(
    ("device_map", "expected"),
    [
        (None, None),
        ("auto", None),
        ("cpu", "cpu"),
        ("cuda", "gpu"),
        ("cuda:1", "gpu:1"),
        ("gpu:0", "gpu:0"),
        (0, "gpu:0"),
        ({"": 0}, "gpu:0"),
        ({"": "cpu"}, "cpu"),
        ({"transformer": "cuda:0", "lm_head": "cuda:0"}, "gpu:0"),
        (Foreign("cuda:0"), "gpu:0"),
        (paddle.CPUPlace(), "cpu"),
    ],
)
def test_a_single_device_is_taken(device_map: Any, expected: str | None) -> None:
    assert requested_device(device_map) == expected


@pytest.mark.parametrize(
    "device_map", ["balanced", "balanced_low_0", "sequential", {}, {"a": 0, "b": 1}, {"a": "cuda:0", "b": "cpu"}]
)
def test_spreading_over_devices_is_refused(device_map: Any) -> None:
    with pytest.raises(ConfigurationError, match="device_map=.*: a model lies on one device; write"):
        requested_device(device_map)


def test_how_other_libraries_quantize_is_refused_with_what_to_write() -> None:
    refuse_quantization_config(None)
    refuse_quantization_config({"quant_method": "gptq"})
    with pytest.raises(ConfigurationError, match="quantization_config: got Foreign; write quantization='nf4', 'int4'"):
        refuse_quantization_config(Foreign("BitsAndBytesConfig"))


@pytest.mark.parametrize("token", ["<|endoftext|>", None])
def test_the_tokenizers_own_special_tokens_may_be_named(token: str | None) -> None:
    given = {"pad_token": token, "eos_token": token, "padding_side": "left", "use_fast": False}
    assert split_tokenizer_arguments(given) == ({}, {"padding_side": "left"})


@pytest.mark.parametrize(
    ("name", "token"), [("pad_token", "<|extra_0|>"), ("eos_token", "<|im_end|>"), ("unk_token", "x")]
)
def test_other_special_tokens_are_refused(name: str, token: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{name}: got {re.escape(repr(token))}, but .*; leave it out"):
        split_tokenizer_arguments({name: token})


# ---------------------------------------------------------------- on a model


def test_what_transformers_users_write_loads_the_model(tiny_model_dir: Path) -> None:
    plain = QWenLMHeadModel.from_pretrained(tiny_model_dir)
    model = QWenLMHeadModel.from_pretrained(str(tiny_model_dir), **TRANSFORMERS, **MODEL, use_safetensors=True)
    assert all((model.state_dict()[name] == value).all() for name, value in plain.state_dict().items())
    model = QWenLMHeadModel.from_pretrained(tiny_model_dir, torch_dtype=paddle.float32, device_map="cpu")
    assert model.config.dtype == "float32"
    config = QWenVLConfig.from_pretrained(
        tiny_model_dir, **TRANSFORMERS, torch_dtype="auto", attn_implementation="eager"
    )
    assert config.to_dict() == QWenVLConfig.from_pretrained(tiny_model_dir).to_dict()
    processor = QwenVLProcessor.from_pretrained(tiny_model_dir, **TRANSFORMERS, use_fast=True, max_images=3)
    assert processor.max_images == 3
    tokenizer = QWenVLTokenizer.from_pretrained(tiny_model_dir, **TRANSFORMERS, padding_side="left")
    assert tokenizer.padding_side == "left"


def test_a_configuration_can_be_given_and_stays_as_it_is(tiny_model_dir: Path) -> None:
    config = QWenVLConfig.from_pretrained(tiny_model_dir, use_logn_attn=False)
    before = config.to_dict()
    model = QWenLMHeadModel.from_pretrained(tiny_model_dir, config=config)
    assert model.config.use_logn_attn is False and model.config is not config
    assert config.to_dict() == before
    with pytest.raises(ConfigurationError, match="config: got dict; expected a QWenVLConfig"):
        QWenLMHeadModel.from_pretrained(tiny_model_dir, config={})
    with pytest.raises(ConfigurationError, match="config: got together with .'fp16'"):
        QWenLMHeadModel.from_pretrained(tiny_model_dir, config=config, fp16=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device_map": "cuda:0"}, "device_map: got 'gpu:0', but this Paddle sees 0 GPU"),
        ({"device_map": "mps"}, "device_map: got 'mps', expected 'cpu', 'gpu'"),
        ({"device_map": "balanced"}, "a model lies on one device"),
        ({"torch_dtype": "float8"}, "torch_dtype: got 'float8', expected 'auto' or one of"),
        ({"load_in_4bit": True}, "write quantization='nf4' or 'int4'"),
        ({"quantization_config": Foreign("x")}, "quantization_config: got Foreign"),
        ({"use_dynamic_ntk_": True}, "use_dynamic_ntk_"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_read(
    tiny_model_dir: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        QWenLMHeadModel.from_pretrained(tiny_model_dir, **arguments)


def test_a_model_is_looked_for_once(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve, asked = hub.resolve, []
    monkeypatch.setattr(hub, "resolve", lambda name, **options: asked.append(name) or resolve(name, **options))
    load_model(tiny_model_dir)
    assert asked == [tiny_model_dir]
