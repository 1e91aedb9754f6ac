"""The mean of two models lies between them, token by token."""

import numpy as np
import paddle
import pytest

from examples.bundled_model.training import mixing, train
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer
from paddlemix.utils.files import VOCAB_FILE
from paddlemix.zoo import DEFAULT_MODEL_DIR


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A model of random values whose vocabulary lacks the last rank of the bundled one."""
    folder = tmp_path_factory.mktemp("mixing") / "other"
    tokenizer = QWenVLTokenizer.from_pretrained(DEFAULT_MODEL_DIR)
    paddle.seed(3)
    train.export(train.build_training_model(tokenizer, 0.5), tokenizer, folder)
    lines = (folder / VOCAB_FILE).read_bytes().splitlines()
    (folder / VOCAB_FILE).write_bytes(b"\n".join(lines[:-1]) + b"\n")
    return folder


def values(folder, name: str) -> np.ndarray:
    return QWenLMHeadModel.from_pretrained(folder, dtype="float32").state_dict()[name].numpy()


def test_weights_are_the_mean_and_tokens_keep_their_names(other, tmp_path):
    out = tmp_path / "out"
    assert mixing.main([str(other), str(DEFAULT_MODEL_DIR), str(out), "--share", "0.75"]) == 0
    name = "transformer.h.1.mlp.w1.weight"
    expected = 0.25 * values(other, name) + 0.75 * values(DEFAULT_MODEL_DIR, name)
    np.testing.assert_allclose(values(out, name), expected, rtol=1e-2, atol=1e-3)
    rows = {folder: values(folder, "transformer.wte.weight") for folder in (other, DEFAULT_MODEL_DIR, out)}
    last = len(QWenVLTokenizer.from_pretrained(DEFAULT_MODEL_DIR).mergeable_ranks) - 1
    np.testing.assert_allclose(rows[out][last], rows[DEFAULT_MODEL_DIR][last], rtol=1e-2, atol=1e-3)
    expected = 0.25 * rows[other][last] + 0.75 * rows[DEFAULT_MODEL_DIR][last + 1]
    np.testing.assert_allclose(rows[out][last + 1], expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("share", ["-0.1", "1.5", "nan", "half"])
def test_a_share_that_is_none_is_refused(share, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        mixing.main([str(tmp_path), str(tmp_path), str(tmp_path / "out"), "--share", share])
    assert stop.value.code == 2 and "--share" in capsys.readouterr().err
