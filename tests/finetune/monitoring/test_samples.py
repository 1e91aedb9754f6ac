"""Sample images: both answers' boxes in two colors, the texts readable under the image."""

import pytest
from PIL import Image, ImageFont

from paddlemix.finetune.monitoring.samples import ANSWERED_COLOR, EXPECTED_COLOR, _plain, _wrap, draw_sample
from paddlemix.models.qwen_vl.grounding import FONT_FILE, PALETTE

GRAY = Image.new("RGB", (100, 100), (90, 90, 90))
EXPECTED = "<ref>公共汽车</ref><box>(100,100),(500,500)</box>"
ANSWERED = "<ref>公共汽车</ref><box>(600,600),(900,900)</box>"


def colors_in(image, corners):
    return {color for _, color in image.crop(corners).getcolors(1 << 20)}


def test_expected_and_answered_boxes_have_their_own_colors():
    sheet = draw_sample(GRAY, "step 5", "公共汽车在哪里?", EXPECTED, ANSWERED)
    assert sheet.width == 448
    upper, lower = (40, 40, 230, 230), (265, 265, 410, 410)
    assert PALETTE[EXPECTED_COLOR] in colors_in(sheet, upper) and PALETTE[ANSWERED_COLOR] in colors_in(sheet, lower)
    assert PALETTE[ANSWERED_COLOR] not in colors_in(sheet, upper)


def test_an_answer_keeps_its_color_where_nothing_was_expected():
    sheet = draw_sample(GRAY, "step 5", "?", "There is none.", ANSWERED)
    assert PALETTE[ANSWERED_COLOR] in colors_in(sheet, (265, 265, 410, 410))


@pytest.mark.parametrize(
    ("size", "drawn"), [((100, 50), (448, 224)), ((600, 500), (600, 500)), ((4000, 1000), (896, 224))]
)
def test_images_are_brought_to_a_size_that_can_be_looked_at(size, drawn):
    sheet = draw_sample(Image.new("L", size), "", "", "", "")
    assert (sheet.width, sheet.height > drawn[1]) == (drawn[0], True)
    # The ground of the texts begins where the image ends.
    assert sheet.getpixel((1, drawn[1] - 1)) == (0, 0, 0) and sheet.getpixel((1, drawn[1])) != (0, 0, 0)


def test_longer_texts_make_a_higher_image_up_to_a_limit():
    heights = [draw_sample(GRAY, "t", "word " * n, "a", "b").height for n in (1, 40, 400, 4000)]
    assert heights[0] < heights[1] < heights[2] == heights[3]


def test_captions_hold_no_tags_and_no_control_characters():
    assert _plain(f"It\x00 is\n{EXPECTED}.") == "It is 公共汽车 (100,100),(500,500)."
    assert _plain("") == "–"


@pytest.mark.parametrize("text", ["one two three " * 10, "公共汽车在哪里呢" * 8, "x" * 300, "", "a  " + "长" * 40])
def test_lines_fit_and_lose_nothing_but_what_is_cut(text):
    font = ImageFont.truetype(str(FONT_FILE), 16)
    lines = _wrap(text, font, 200)
    assert all(font.getlength(line.rstrip()) <= 200 for line in lines)
    joined = "".join(lines)
    assert joined == text or (joined.endswith("…") and text.startswith(joined[:-1]))
