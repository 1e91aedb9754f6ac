"""A stage of the bundled model's training writes a model, and goes on where it was stopped."""

import csv
import json
import shutil

import numpy as np
import paddle
import pytest

from examples.bundled_model.training import train
from paddlemix.errors import CheckpointError
from paddlemix.models.qwen_vl.configuration import QWenVLConfig
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer
from paddlemix.utils.files import VOCAB_FILE
from paddlemix.zoo import DEFAULT_MODEL_DIR

COLUMNS = ("step", "loss", "learning_rate", "tokens")


def run(output_dir, *options: str) -> None:
    arguments = ["anneal", "--output_dir", str(output_dir), "--max_steps", "3", "--batch_size", "2", "--workers", "0"]
    assert train.main([*arguments, "--logging_steps", "1", "--save_steps", "2", *options]) == 0


def log_of(output_dir) -> list[list[str]]:
    with (output_dir / "log.csv").open(encoding="utf-8") as file:
        return [[row[name] for name in COLUMNS] for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("training") / "whole"
    run(output_dir)
    return output_dir


def test_it_writes_a_model_and_the_parts_of_the_loss(whole):
    assert QWenVLConfig.from_pretrained(whole / "model").hidden_size == 192
    records = [json.loads(line) for line in (whole / "curve.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3]
    assert {"text", "naming", "reading", "box"} <= set(records[0]["parts"])


def test_an_interrupted_stage_goes_on_as_if_it_had_not_been(whole, tmp_path):
    stopped = tmp_path / "stopped"
    shutil.copytree(whole, stopped)
    shutil.rmtree(stopped / "checkpoint-3", ignore_errors=True)
    (stopped / train.WEIGHTS_FILE).unlink()
    run(stopped)
    assert log_of(stopped) == log_of(whole)
    assert (stopped / train.WEIGHTS_FILE).read_bytes() == (whole / train.WEIGHTS_FILE).read_bytes()


def test_a_stage_begins_with_the_weights_of_the_one_before(whole, tmp_path):
    run(tmp_path / "next", "--start", str(whole), "--learning_rate", "1e-9")
    first, last = log_of(whole)[0], log_of(tmp_path / "next")[0]
    assert float(last[1]) < float(first[1])


def test_a_stage_can_begin_with_a_model_alone(whole):
    tokenizer = QWenVLTokenizer.from_pretrained(DEFAULT_MODEL_DIR)
    paddle.seed(7)
    model = train.build_training_model(tokenizer, 0.5)
    heads = model.word_head.weight.numpy()
    train.start_from(model, tokenizer, whole / "model")
    stored = QWenLMHeadModel.from_pretrained(whole / "model")
    np.testing.assert_array_equal(model.model.lm_head.weight.numpy(), stored.lm_head.weight.numpy())
    np.testing.assert_array_equal(model.word_head.weight.numpy(), heads)


def test_a_model_of_another_geometry_is_refused(whole):
    tokenizer = QWenVLTokenizer.from_pretrained(DEFAULT_MODEL_DIR)
    model = train.build_training_model(tokenizer, 0.5)
    model.model.config.num_hidden_layers += 1
    with pytest.raises(CheckpointError, match="another geometry"):
        train.start_from(model, tokenizer, whole / "model")


def test_a_model_of_another_vocabulary_gives_what_it_knows_of_each_token(whole, tmp_path):
    tokenizer = QWenVLTokenizer.from_pretrained(DEFAULT_MODEL_DIR)
    model = train.build_training_model(tokenizer, 0.5)
    other = tmp_path / "other"
    shutil.copytree(whole / "model", other)
    ranks = (other / VOCAB_FILE).read_bytes().splitlines()
    first, second = (line.split()[0] for line in ranks[-2:])
    ranks[-2:] = [second + b" " + ranks[-2].split()[1], first + b" " + ranks[-1].split()[1]]
    (other / VOCAB_FILE).write_bytes(b"\n".join(ranks) + b"\n")
    train.start_from(model, tokenizer, other)
    stored = QWenLMHeadModel.from_pretrained(other)
    swapped = [*range(len(ranks) - 2), len(ranks) - 1, len(ranks) - 2, *range(len(ranks), 1600)]
    np.testing.assert_array_equal(model.model.lm_head.weight.numpy(), stored.lm_head.weight.numpy()[:, swapped])
    wte, own = stored.transformer.wte.weight.numpy(), model.model.transformer.wte.weight.numpy()
    np.testing.assert_array_equal(own, wte[swapped])


def test_a_token_that_the_model_lacks_keeps_its_initial_values(whole, tmp_path):
    tokenizer = QWenVLTokenizer.from_pretrained(DEFAULT_MODEL_DIR)
    model = train.build_training_model(tokenizer, 0.5)
    initial = model.model.transformer.wte.weight.numpy()
    other = tmp_path / "other"
    shutil.copytree(whole / "model", other)
    ranks = (other / VOCAB_FILE).read_bytes().splitlines()
    (other / VOCAB_FILE).write_bytes(b"\n".join(ranks[:-1]) + b"\n")
    train.start_from(model, tokenizer, other)
    stored = QWenLMHeadModel.from_pretrained(other).transformer.wte.weight.numpy()
    own, new = model.model.transformer.wte.weight.numpy(), len(ranks) - 1
    np.testing.assert_array_equal(own[new], initial[new])
    np.testing.assert_array_equal(own[:new], stored[:new])
    np.testing.assert_array_equal(own[new + 1 :], stored[new:-1])


def test_the_stage_of_the_heads_leaves_the_model_as_it_is(whole, tmp_path):
    arguments = ["heads", "--output_dir", str(tmp_path / "heads"), "--max_steps", "2", "--batch_size", "2"]
    assert train.main([*arguments, "--workers", "0", "--start", str(whole / "model")]) == 0
    before, after = (folder / "model" / "model.safetensors" for folder in (whole, tmp_path / "heads"))
    assert after.read_bytes() == before.read_bytes()


def test_a_start_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="absent: holds neither"):
        run(tmp_path / "out", "--start", str(tmp_path / "absent"))


def test_weights_of_another_training_are_refused(whole, tmp_path):
    model = train.build_training_model(QWenVLTokenizer.from_pretrained(DEFAULT_MODEL_DIR), 0.5)
    del model.word_head
    with pytest.raises(CheckpointError, match="word_head.*unknown"):
        train.load_weights(model, whole)
