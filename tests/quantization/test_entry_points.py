"""The option on its way from the programs, Appflow and the library to the model."""

from __future__ import annotations

import pytest

from paddlemix import predict as predict_module
from paddlemix.appflow import Appflow
from paddlemix.cli import common as cli
from paddlemix.cli import terminal
from paddlemix.errors import ConfigurationError
from paddlemix.inference import load_model
from paddlemix.predict import predict
from tests.tiny_model import ANSWER


@pytest.mark.parametrize("quantization", ["int8", "int4", "bf16", "nf4"])
def test_a_quantized_model_still_answers(tiny_model_dir, quantization):
    loaded = load_model(tiny_model_dir, quantization=quantization)
    assert loaded.model.lm_head.kind == {"bf16": "bfloat16"}.get(quantization, "int8")
    assert loaded.new_session().ask("where?").text == ANSWER


def test_predict_appflow_and_terminal_hand_it_on(tiny_model_dir, monkeypatch):
    assert predict("where?", [], tiny_model_dir, quantization="int8", vision_quantization="bf16").text == ANSWER
    flow = Appflow(
        app="image2text_generation", models=[str(tiny_model_dir)], quantization="int4", vision_quantization="bf16"
    )
    model = flow.chain[0]._loaded.model
    assert (model.lm_head.kind, model.visual.proj.kind) == ("int8", "bfloat16")
    assert flow(prompt="where?")["result"] == ANSWER
    asked = {}

    def load(options):
        asked.update(vars(options))
        raise ConfigurationError("enough")

    monkeypatch.setattr(terminal, "load_model", load)
    with pytest.raises(ConfigurationError, match="enough"):
        terminal.TerminalChat.load(tiny_model_dir, quantization="int4", vision_quantization="int8")
    assert {name: asked[name] for name in ("quantization", "vision_quantization")} == {
        "quantization": "int4",
        "vision_quantization": "int8",
    }


def test_unknown_values_are_refused_with_the_choices_before_anything_is_loaded(monkeypatch):
    with pytest.raises(ConfigurationError, match="quantization: got 'int2', expected one of int8, int4, bf16"):
        load_model("no/such-model", quantization="int2")
    monkeypatch.setattr(predict_module, "load_model", lambda *arguments, **options: pytest.fail("loaded"))
    with pytest.raises(ConfigurationError, match="vision_quantization: got 'x', expected one of int8, bf16"):
        predict("x", [], "no/such-model", quantization="int4", vision_quantization="x")


def test_programs_take_both_options(capsys):
    parser = cli.Parser()
    cli.add_options(parser, "model")
    options = parser.parse_args(["--quantization", "int4", "--vision_quantization", "bf16"])
    assert (options.quantization, options.vision_quantization) == ("int4", "bf16")
    assert parser.parse_args([]).quantization is None
    with pytest.raises(SystemExit):
        parser.parse_args(["--quantization", "int5"])
    message = capsys.readouterr().err
    assert "invalid choice: 'int5'" in message and all(name in message for name in ("int8", "int4", "bf16"))
