"""One question from names to an answer."""

from __future__ import annotations

import json
import os

import pytest
from PIL import Image

from paddlemix import predict as module
from paddlemix.errors import ConfigurationError, ImageError, PromptError
from paddlemix.predict import predict
from tests.tiny_model import ANSWER, ANSWER_BOX


def test_an_answer_has_text_boxes_timings_and_a_drawn_image(tiny_model_dir, tmp_path):
    image = Image.new("RGB", (200, 100), "white")
    prediction = predict("where?", [image], tiny_model_dir)
    content = json.loads(json.dumps(prediction.to_dict()))
    assert content["text"] == ANSWER
    assert content["boxes"] == [{**ANSWER_BOX, "pixels": [2, 2, 130, 98]}]
    assert set(content["timings"]) == {"model", "load", "encode", "prefill", "decode", "total"}
    assert content["new_tokens"] == 19
    path = prediction.save(tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "pred.jpg"
    with Image.open(path) as drawn:
        assert drawn.size == (200, 100)
        assert drawn.getpixel((130, 50)) != (255, 255, 255)


def test_without_an_image_nothing_is_drawn(tiny_model_dir, tmp_path):
    prediction = predict("where?", [], tiny_model_dir)
    assert prediction.image() is None and prediction.save(tmp_path) is None
    assert prediction.to_dict()["boxes"] == [ANSWER_BOX]
    assert os.listdir(tmp_path) == []


def test_a_base_model_continues_the_prompt(tiny_base_model_dir):
    assert predict("where?", [Image.new("L", (9, 9))], tiny_base_model_dir).text == ANSWER
    with pytest.raises(ConfigurationError, match="system"):
        predict("where?", [], tiny_base_model_dir, system="x")


def test_tags_in_the_prompt_count_only_where_they_are_trusted(tiny_model_dir):
    prompt = "<ref>bus</ref>"
    trusted, plain = (predict(prompt, [], tiny_model_dir, trusted_tags=trust) for trust in (True, False))
    assert trusted.prompt_tokens < plain.prompt_tokens


@pytest.mark.parametrize(
    ("prompt", "images", "options", "error"),
    [
        (None, [], {}, PromptError),
        ("x", ["missing.jpg"], {}, ImageError),
        ("x", [], {"top_p": 2.0}, ConfigurationError),
        ("x", [], {"stop_strings": ""}, ConfigurationError),
        ("x", [], {"trusted_tags": "False"}, ConfigurationError),
        ("x", [], {"system": 5}, ConfigurationError),
        (" ", [], {}, PromptError),
        (5, [], {}, PromptError),
        ("x", [], {"beams": 2}, ConfigurationError),
        ("x", ["missing.jpg"] * 33, {}, PromptError),
        ("x", [Image.new("RGB", (9, 9))], {"max_pixels": 80}, ImageError),
        ("x", [], {"max_pixels": 0}, ConfigurationError),
        ("x", [], {"exif_transpose": "yes"}, ConfigurationError),
        ("x", [], {"background": "no color"}, ConfigurationError),
    ],
)
def test_mistakes_are_found_before_the_model_is_loaded(monkeypatch, prompt, images, options, error):
    monkeypatch.setattr(module, "load_model", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(error):
        predict(prompt, images, "no/such-model-here", **options)
