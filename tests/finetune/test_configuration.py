"""Options of a fine-tuning run: where they come from, what they are checked for."""

import argparse
import json

import pytest

from paddlemix.errors import ConfigurationError
from paddlemix.finetune.arguments import add_options, given_options
from paddlemix.finetune.configuration import DataSource, FinetuneConfig

REQUIRED = {"data": "talks.json", "output_dir": "out"}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def from_command_line(*arguments):
    parser = argparse.ArgumentParser()
    add_options(parser)
    return given_options(parser.parse_args(arguments))


def test_the_defaults_are_the_published_recipe():
    config = FinetuneConfig(**REQUIRED)
    assert (config.mode, config.lora_r, config.lora_alpha, config.lora_dropout) == ("lora", 64, 16, 0.05)
    assert config.lora_targets == ("c_attn", "attn.c_proj", "w1", "w2")
    assert (config.learning_rate, config.weight_decay, config.adam_beta2) == (1e-5, 0.1, 0.95)
    assert (config.warmup_ratio, config.lr_scheduler_type, config.max_length) == (0.01, "cosine", 2048)
    assert FinetuneConfig(**REQUIRED, mode="full").freeze == ("freeze_vit",)
    assert config.freeze == ()


def test_data_may_be_one_file_or_several_with_weights():
    assert FinetuneConfig(**REQUIRED).data == (DataSource("talks.json", 1.0),)
    config = FinetuneConfig(data=["a.json", {"path": "b.jsonl", "weight": 2}], output_dir="out", eval_data=["c.json"])
    assert config.data == (DataSource("a.json", 1.0), DataSource("b.jsonl", 2.0))
    assert config.eval_data == (DataSource("c.json"),)


def test_the_command_line_overrides_the_file(tmp_path):
    path = write(tmp_path / "config.json", {**REQUIRED, "lora_r": 8, "packing": True, "eval_data": "e.json"})
    given = from_command_line(
        "--lora_r", "4", "--packing", "False", "--lora_targets", "w1", "--eval_data", "none", "--max_steps", "-1"
    )  # fmt: skip
    config = FinetuneConfig.from_file(path, given)
    assert (config.lora_r, config.packing, config.lora_targets, config.eval_data) == (4, False, ("w1",), None)
    assert FinetuneConfig.from_file(path).lora_r == 8


def test_every_option_can_be_given_on_the_command_line_and_written_and_read_again():
    config = FinetuneConfig(data=[{"path": "a", "weight": 0.5}], output_dir="out", eval_fraction=0.1, eval_steps=3)
    assert FinetuneConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    parser = argparse.ArgumentParser()
    add_options(parser)
    for name in config.to_dict():
        assert f"--{name}" in parser.format_help()


@pytest.mark.parametrize(
    ("key", "meant"),
    [("lora_rank", "lora_r"), ("learning_rates", "learning_rate"), ("packed", "packing"), ("zzz", "known: data")],
)
def test_an_unknown_key_names_the_nearest_known_one(tmp_path, key, meant):
    path = write(tmp_path / "config.json", {**REQUIRED, key: 1})
    with pytest.raises(ConfigurationError, match=f"^{key}: unknown option.*{meant}"):
        FinetuneConfig.from_file(path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lora_r": 0}, "lora_r: got 0, expected an integer of at least 1"),
        ({"lora_r": True}, "lora_r: got True"),
        ({"lora_r": "8"}, "lora_r: got '8'"),
        ({"seed": 2**32}, "seed: got 4294967296, expected an integer from 0 to 2147483647"),
        ({"learning_rate": float("nan")}, "learning_rate: got nan"),
        ({"learning_rate": 0}, "expected a number above 0"),
        ({"lora_dropout": 1.0}, "expected a number of at least 0 and below 1"),
        ({"max_steps": 0}, "expected an integer from 1 to 1000000000000 or -1"),
        ({"mode": "Lora"}, "mode: got 'Lora', expected one of full, lora, qlora"),
        (
            {"sharding": "stage2"},
            "sharding: got 'stage2', which there is no more; use stage1",
        ),
        ({"sharding_parallel_degree": 2}, "sharding_parallel_degree: got it without sharding"),
        ({"packing": "yes"}, "packing: got 'yes', expected true or false"),
        ({"lora_targets": "w1"}, "lora_targets: got 'w1', expected a list of texts"),
        ({"data": []}, "data: got "),
        ({"data": [{"path": "a", "weight": 0}]}, "weight"),
        ({"data": [{"path": "a", "wieght": 2}]}, "wieght"),
        ({"data": None}, "data: got None"),
        ({"data": [{"path": "a", "weight": 10**400}]}, "data: got "),
        ({"data": "a\0b"}, "data: got "),
        ({"learning_rate": 10**400}, "expected a number above 0"),
        ({"output_dir": " "}, "output_dir"),
        ({"output_dir": "a\0b"}, "output_dir: got 'a\\x00b'"),
        ({"freeze": ["freeze_vit"]}, "freeze: everything but adapters"),
        ({"lora_targets": []}, "nothing would be trained"),
        ({"quantization": "int4"}, "only mode qlora"),
        ({"mode": "full", "lora_r": 8}, "lora_r: there are no adapters in mode full"),
        ({"mode": "full", "modules_to_save": ["wte"]}, "modules_to_save: there are no adapters"),
        ({"eval_data": "e.json", "eval_fraction": 0.1}, "give one of them"),
        ({"eval_data": {"path": "e.json", "weight": 2}}, "eval_data: got weight 2 for e.json, expected none"),
        ({"packing": True, "group_by_length": True}, "group_by_length: got it beside packing"),
        ({"eval_steps": 5}, "eval_steps: there is nothing to evaluate on"),
        ({"eval_on_start": True}, "eval_on_start: there is nothing to evaluate on"),
    ],
)
def test_what_cannot_work_is_refused_by_name(options, said):
    with pytest.raises(ConfigurationError) as caught:
        FinetuneConfig(**{**REQUIRED, **options})
    assert said in str(caught.value)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="^output_dir: missing"):
        FinetuneConfig.from_file(write(tmp_path / "config.json", {"data": "a.json"}))
    with pytest.raises(ConfigurationError, match="^data: missing"):
        FinetuneConfig.from_file(None, {"output_dir": "out"})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read as JSON: it ends in the middle"),
        ("[1]", "got list, expected a JSON object"),
        ('{"seed": 1, "seed": 2}', "'seed' stands there twice"),
        ("[" * 100000, "nested too deeply"),
    ],
)
def test_a_config_file_that_cannot_be_read_is_named(tmp_path, content, said):
    path = write(tmp_path / "config.json", content)
    with pytest.raises(ConfigurationError) as caught:
        FinetuneConfig.from_file(path)
    assert said in str(caught.value) and str(path) in str(caught.value)


def test_a_missing_config_file_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="no.json cannot be read"):
        FinetuneConfig.from_file(tmp_path / "no.json")


@pytest.mark.parametrize("value", ["x" * 10_000, ["\x1b[2J" * 1000], 10**5000], ids=["long", "controls", "digits"])
def test_foreign_values_are_shown_short_and_readable(value):
    with pytest.raises(ConfigurationError, match="mode: got .*, expected") as caught:
        FinetuneConfig(**REQUIRED, mode=value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_foreign_names_are_shown_short_and_readable():
    with pytest.raises(ConfigurationError, match=r"\\x1b\[2Jx+.*: unknown option") as caught:
        FinetuneConfig.from_dict({**REQUIRED, "\x1b[2J" + "x" * 100_000: 1})
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1200
