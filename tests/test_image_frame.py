"""One frame everywhere: what the model saw is what is drawn, and what pixels count in."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from paddlemix.appflow import Appflow
from paddlemix.errors import ConfigurationError
from paddlemix.finetune import evaluation
from paddlemix.finetune.configuration import FinetuneConfig
from paddlemix.finetune.run import check
from paddlemix.inference import load_model
from paddlemix.media import ImagePolicy
from paddlemix.models.qwen_vl.grounding import Box, draw
from paddlemix.models.qwen_vl.image_processing import QwenVLImageProcessor
from paddlemix.models.qwen_vl.processing import QwenVLProcessor
from paddlemix.predict import predict
from tests.tiny_model import ANSWER, ANSWER_BOX

BOX = Box(**ANSWER_BOX)
STORED, UPRIGHT = (120, 80), (80, 120)


@pytest.fixture(scope="module")
def pixels() -> Image.Image:
    """As the person saw it: red above, blue below."""
    image = Image.new("RGB", UPRIGHT, "red")
    image.paste("blue", (0, 60, 80, 120))
    return image


@pytest.fixture
def photo(pixels, tmp_path, monkeypatch):
    """A photo of a phone held upright, stored on its side, named in few enough letters for the slots of an image."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "p", "JPEG", quality=95, exif=exif)
    monkeypatch.chdir(tmp_path)
    return "p"


def is_the_drawn(drawn: Image.Image, image: Image.Image) -> bool:
    expected = np.asarray(draw(image, [BOX]), int)
    return drawn.size == image.size and np.abs(np.asarray(drawn, int) - expected).mean() < 4


@pytest.fixture(params=[False, True], ids=["as stored", "upright"])
def transpose(request) -> bool:
    return request.param


@pytest.fixture
def seen(transpose, pixels) -> Image.Image:
    return pixels if transpose else pixels.transpose(Image.Transpose.ROTATE_90)


def test_predict(tiny_model_dir, photo, transpose, seen):
    prediction = predict("where?", [photo], tiny_model_dir, exif_transpose=transpose)
    assert is_the_drawn(prediction.image(), seen)
    content = prediction.to_dict()
    assert content["image_size"] == list(seen.size)
    assert content["boxes"][0]["pixels"] == list(BOX.pixels(*seen.size))


def test_appflow_one_by_one_and_in_a_batch(tiny_model_dir, photo, transpose, seen):
    task = Appflow("image2text_generation", str(tiny_model_dir), exif_transpose=transpose)
    assert is_the_drawn(task(prompt="where?", image=photo)["image"], seen)
    for drawn in task(prompt=["where?", "what?"], image=[photo, [photo]])["image"]:
        assert is_the_drawn(drawn, seen)


def test_sessions_and_their_files(tiny_model_dir, photo, transpose, seen, tmp_path):
    loaded = load_model(tiny_model_dir, exif_transpose=transpose)
    session = loaded.new_session()
    assert is_the_drawn(session.ask("where?", [photo]).image(), seen)
    session.save(tmp_path / "talk.json")
    # what was seen is saved: it is not turned again, whatever the settings then
    other = load_model(tiny_model_dir, exif_transpose=True).new_session()
    other.load(tmp_path / "talk.json")
    assert is_the_drawn(other.ask("and now?").image(), seen)


def test_the_calls_of_the_original(tiny_model_dir, photo, transpose, seen):
    loaded = load_model(tiny_model_dir, exif_transpose=transpose)
    model, processor = loaded.model, loaded.processor
    taken = []
    begin = type(model.visual).begin
    query = processor.tokenizer.from_list_format([{"image": photo}, {"text": "where?"}])
    for talker in (processor, processor.tokenizer):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                type(model.visual),
                "begin",
                lambda self, images: taken.append(images.numpy()) or begin(self, images),
            )
            response, history = model.chat(talker, query)
        expected = QwenVLImageProcessor(56, exif_transpose=transpose)(photo)
        np.testing.assert_array_equal(taken.pop(), expected)
        assert response == ANSWER
        answer = "<box>(10,23),(654,987)</box>"
        for drawer in (processor, processor.tokenizer):
            drawn = drawer.draw_bbox_on_latest_picture(f"<ref>bus</ref>{answer}", history)
            assert drawn.size == seen.size and is_the_drawn(drawn, seen)


def test_an_ignored_orientation_is_told_once_for_each_image(tiny_model_dir, photo, caplog):
    session = load_model(tiny_model_dir).new_session()
    with caplog.at_level(logging.WARNING):
        session.ask("where?", [photo, photo])
        session.ask("and now?")
    (note,) = [record.getMessage() for record in caplog.records if "orientation" in record.getMessage()]
    assert "'p'" in note and "EXIF orientation 6 is ignored" in note and "--exif_transpose" in note
    caplog.clear()
    load_model(tiny_model_dir, exif_transpose=True).new_session().ask("where?", [photo])
    assert "orientation" not in caplog.text


def test_a_reduced_jpeg_has_the_pixels_of_its_file(tiny_model_dir, photo, caplog):
    prediction = predict("where?", [photo], tiny_model_dir, exif_transpose=True, max_pixels=2400)
    assert prediction.image().size == (40, 60) and prediction.size == UPRIGHT
    content = prediction.to_dict()
    assert content["image_size"] == [80, 120]
    assert content["boxes"][0]["pixels"] == list(BOX.pixels(80, 120))
    (note,) = [record.getMessage() for record in caplog.records if "--max_pixels" in record.getMessage()]
    assert "'p': 120x80 pixels are read at 60x40" in note


def test_a_background_shows_through_in_what_is_drawn(tiny_model_dir, tmp_path):
    path = tmp_path / "clear.png"
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(path)
    for color in ("lime", "#00ff00", "0,255,0", (0, 255, 0)):
        prediction = predict("where?", [path], tiny_model_dir, background=color)
        assert prediction.image().getpixel((39, 20)) == (0, 255, 0)
    with pytest.raises(ConfigurationError, match="background: got 'no color'"):
        predict("where?", [path], tiny_model_dir, background="no color")


def test_fine_tuning_names_images_whose_orientation_is_ignored(tiny_model_dir, photo, tmp_path):
    (tmp_path / "data.json").write_text(
        '[[{"role": "user", "content": [{"type": "image", "image": "p"}, {"type": "text", "text": "what?"}]},'
        ' {"role": "assistant", "content": "a bus"}]]'
    )
    options = {"data": "data.json", "output_dir": "out", "model_name_or_path": str(tiny_model_dir)}
    for how in ("decode", "header"):
        config = {**options, "dataloader_num_workers": 0, "image_check": how}
        (report,) = check(FinetuneConfig.from_dict(config))
        assert "the EXIF orientation of 1 image(s) is ignored" in report.summary()
        assert str(tmp_path / "p") in report.summary() and "exif_transpose" in report.summary()
        (report,) = check(FinetuneConfig.from_dict({**config, "exif_transpose": True}))
        assert "orientation" not in report.summary()


def test_evaluations_draw_what_the_model_saw(photo, transpose, seen, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(evaluation, "draw_sample", lambda image, *texts: drawn.append(image) or image)
    record = SimpleNamespace(location=SimpleNamespace(path="data.json", line=1))
    messages = [{"role": "user", "content": [{"type": "image", "image": photo}, {"type": "text", "text": "where?"}]}]
    question = evaluation.Question(record, messages, ANSWER)
    processor = QwenVLImageProcessor(56, exif_transpose=transpose)
    evaluation._draw([question], [ANSWER], [evaluation.score(ANSWER, ANSWER)], tmp_path, 1, processor, ImagePolicy())
    (image,) = drawn
    assert image.size == seen.size and np.abs(np.asarray(image, int) - np.asarray(seen, int)).mean() < 4


def test_fine_tuning_takes_colors_and_limits():
    config = FinetuneConfig.from_dict({"data": "a", "output_dir": "b", "background": "white", "max_pixels": 100})
    assert config.background == (255, 255, 255) and config.max_pixels == 100
    assert FinetuneConfig.from_dict(config.to_dict()) == config
    for name, value in (("background", "whit"), ("background", 5), ("max_pixels", 0), ("exif_transpose", "yes")):
        with pytest.raises(ConfigurationError, match=name):
            FinetuneConfig.from_dict({"data": "a", "output_dir": "b", name: value})


def test_loading_an_image_again_changes_nothing(photo):
    processor = QwenVLImageProcessor(56, exif_transpose=True)
    once = processor.load(photo, ImagePolicy(max_pixels=2400))
    again = processor.load(once)
    assert again.size == once.size == (40, 60) and again.tobytes() == once.tobytes()


def test_the_setting_of_a_folder_counts_unless_told_otherwise(tiny_model_dir, photo, tmp_path):
    processor = QwenVLProcessor.from_pretrained(tiny_model_dir, exif_transpose=True, background="red")
    folder = tmp_path / "processor"
    processor.save_pretrained(folder)
    assert QwenVLProcessor.from_pretrained(folder).image_processor.load(photo).size == UPRIGHT
    assert QwenVLProcessor.from_pretrained(folder).image_processor.background == (255, 0, 0)
    stored = QwenVLProcessor.from_pretrained(folder, exif_transpose=False)
    assert stored.image_processor.load(photo).size == STORED
