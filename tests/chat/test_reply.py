"""What an answer says of itself."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from paddlemix.chat.reply import Reply, Usage
from paddlemix.models.qwen_vl.grounding import Box, parse
from tests.tiny_model import ANSWER

IMAGE = Image.new("RGB", (200, 100), "white")


def reply(boxes: list[Box], image: Image.Image | None) -> Reply:
    return Reply(ANSWER, boxes, "stop", Usage(12, 5, 7), {"total": 0.12345}, image)


def test_counts_have_their_short_names() -> None:
    answer = reply([], None)
    assert (answer.prompt_tokens, answer.new_tokens, answer.reused_tokens) == (12, 5, 7)


def test_without_a_box_or_an_image_nothing_is_drawn(tmp_path: Path) -> None:
    for answer in (reply([], IMAGE), reply(parse(ANSWER), None)):
        assert answer.image() is None and answer.save(tmp_path) is None
    assert reply([], None).size is None and list(tmp_path.iterdir()) == []


def test_boxes_are_drawn_into_a_copy(tmp_path: Path) -> None:
    answer = reply(parse(ANSWER), IMAGE)
    drawn = answer.image()
    assert drawn is not None and drawn.size == answer.size == (200, 100)
    assert IMAGE.getextrema() == ((255, 255),) * 3
    path = answer.save(tmp_path / "new")
    assert path == tmp_path / "new" / "pred.jpg"


def test_json_has_pixels_where_there_is_an_image() -> None:
    with_image, without = (json.loads(json.dumps(reply(parse(ANSWER), image).to_dict())) for image in (IMAGE, None))
    assert with_image["image_size"] == [200, 100] and "pixels" in with_image["boxes"][0]
    assert without["image_size"] is None and "pixels" not in without["boxes"][0]
    assert with_image["timings"] == {"total": 0.1235}
    assert (with_image["prompt_tokens"], with_image["new_tokens"], with_image["finish_reason"]) == (12, 5, "stop")
