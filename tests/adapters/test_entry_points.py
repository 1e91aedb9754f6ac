"""An adapter through everything that loads a model."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest

from paddlemix.adapters.merging import merge_adapter
from paddlemix.appflow import Appflow
from paddlemix.cli.terminal import TerminalChat
from paddlemix.errors import AdapterError
from paddlemix.inference import load_model
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from paddlemix.predict import predict
from paddlemix.utils.files import GENERATION_CONFIG_FILE, read_json_object, write_json
from tests.adapters.building import write_silencing_adapter
from tests.tiny_model import ANSWER


@pytest.fixture(scope="module")
def adapter(tiny_model_dir, tmp_path_factory) -> Path:
    return write_silencing_adapter(tiny_model_dir, tmp_path_factory.mktemp("adapter"))


def test_predict(tiny_model_dir, adapter):
    assert predict("?\n", model=tiny_model_dir).text == ANSWER
    assert predict("?\n", model=tiny_model_dir, adapter=adapter).text == ""


def test_appflow(tiny_model_dir, adapter):
    task = Appflow(app="image2text_generation", models=[str(tiny_model_dir)], adapter=str(adapter))
    assert task(prompt="?\n")["result"] == ""


def test_the_terminal(tiny_model_dir, adapter):
    chat = TerminalChat.load(tiny_model_dir, adapter=adapter)
    chat._out = io.StringIO()
    chat.run_script(["hello"])
    assert ANSWER not in chat._out.getvalue()


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_quantized_models_take_adapters_too(tiny_model_dir, adapter, quantization):
    assert predict("?\n", model=tiny_model_dir, adapter=adapter, quantization=quantization).text == ""


def make_raw(directory: Path) -> None:
    """Turn a chat model's directory into that of a base model."""
    path = directory / GENERATION_CONFIG_FILE
    write_json(path, {**read_json_object(path), "chat_format": "raw"})


def test_a_base_model_with_an_adapter_converses(tiny_model_dir, adapter, tmp_path):
    base = shutil.copytree(tiny_model_dir, tmp_path / "base")
    make_raw(base)
    assert load_model(base).is_base
    loaded = load_model(base, adapter=adapter)
    assert not loaded.is_base
    assert loaded.model.generation_config.chat_format == "chatml"
    assert not load_model(merge_adapter(base, adapter, tmp_path / "merged")).is_base


def test_a_missing_adapter_is_told_before_the_weights_are_read(tiny_model_dir, monkeypatch):
    monkeypatch.setattr(QWenLMHeadModel, "from_directory", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(AdapterError, match="'nowhere' is no directory"):
        load_model(tiny_model_dir, adapter="nowhere")
