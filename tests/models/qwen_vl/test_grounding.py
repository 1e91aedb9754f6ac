"""Reading, removing and drawing boxes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from paddlemix.models.qwen_vl import grounding
from paddlemix.models.qwen_vl.grounding import PALETTE, Box, draw, parse, strip

ANSWER = "<ref>击掌</ref><box>(536,509),(588,602)</box>"


def test_a_reference_and_its_box_are_read():
    assert parse(ANSWER) == [Box("击掌", 536, 509, 588, 602)]


@pytest.mark.parametrize(
    "text, boxes",
    [
        ("", []),
        ("no box here, (1,2),(3,4)", []),
        ("<box>(1,2),(3,4)</box>", [Box(None, 1, 2, 3, 4)]),
        (
            "<ref>a</ref><box>(1,2),(3,4)</box><box>(5,6),(7,8)</box>, <box>(9,9),(9,9)</box>",
            [Box("a", 1, 2, 3, 4), Box("a", 5, 6, 7, 8), Box("a", 9, 9, 9, 9)],
        ),
        (
            "<ref>a</ref><box>(1,2),(3,4)</box> and <box>(5,6),(7,8)</box>",
            [Box("a", 1, 2, 3, 4), Box(None, 5, 6, 7, 8)],
        ),
        (
            "<ref>a</ref> <ref> b </ref>\n<box>(1,2),(3,4)</box>",
            [Box("b", 1, 2, 3, 4)],
        ),
        ("<ref>  </ref><box>(1,2),(3,4)</box>", [Box(None, 1, 2, 3, 4)]),
        ("<ref>x < y</ref><box>(1,2),(3,4)</box>", [Box("x < y", 1, 2, 3, 4)]),
        ("<ref>open <box>(1,2),(3,4)</box>", [Box(None, 1, 2, 3, 4)]),
        ("<box>( 1 , 2 ) , ( 3 , 4 )</box>", [Box(None, 1, 2, 3, 4)]),
        ("<box>1,2,3,4</box>", [Box(None, 1, 2, 3, 4)]),
        ("<box>（1,2）,（3,4）</box>", [Box(None, 1, 2, 3, 4)]),
        ("<box>(1.4,2.6),(3,4)</box>", [Box(None, 1, 3, 3, 4)]),
    ],
)
def test_labels_go_to_the_boxes_that_follow(text, boxes):
    assert parse(text) == boxes


def test_swapped_corners_are_put_right():
    assert parse("<box>(30,4),(1,20)</box>") == [Box(None, 1, 4, 30, 20)]


def test_coordinates_out_of_range_are_moved_to_the_edge():
    assert parse(f"<box>(-5,3),(1200,{'9' * 5000})</box>") == [Box(None, 0, 3, 1000, 1000)]


def test_a_quad_gives_the_box_around_it():
    assert parse("<ref>sign</ref><quad>(10,20),(50,15),(55,40),(12,44)</quad>") == [Box("sign", 10, 15, 55, 44)]


@pytest.mark.parametrize(
    "place", ["", "(1,2)", "(1,2),(3,4),(5,6)", "(a,b),(c,d)", "(1,2),(3,4) px", "(1,2)(", "nan,1,2,3"]
)
def test_malformed_boxes_are_passed_over(place):
    assert parse(f"<box>{place}</box><box>(1,2),(3,4)</box>") == [Box(None, 1, 2, 3, 4)]


@pytest.mark.parametrize("cut", range(len(ANSWER)))
def test_an_answer_cut_off_anywhere_gives_the_whole_box_or_none(cut):
    found = parse(ANSWER[:cut])
    assert found == ([Box("击掌", 536, 509, 588, 602)] if "602)" in ANSWER[:cut] else [])


TAGS = [
    "<ref>",
    "</ref>",
    "<box>",
    "</box>",
    "<quad>",
    "</quad>",
    "(",
    ")",
    ",",
    "(1,2)",
    "-",
    "9" * 400,
    "<",
    " ",
    "\n",
]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.lists(st.one_of(st.sampled_from(TAGS), st.text(max_size=3))).map("".join)))
def test_any_text_can_be_parsed_and_stripped(text):
    for box in parse(text):
        assert 0 <= box.x1 <= box.x2 <= 1000 and 0 <= box.y1 <= box.y2 <= 1000
        assert box.label is None or box.label.strip()
    assert len(strip(text)) <= len(text)


def test_long_hostile_text_is_parsed_in_one_pass():
    for piece in (
        "<ref>",
        "<ref><",
        "<box>",
        "<box>(1,2),",
        "<",
        "(1,2),(3,4)",
        "<ref>a</ref><box>(",
        "<box>" + " " * 50,
    ):
        text = piece * 20000
        assert parse(text) == []
        strip(text)


@pytest.mark.parametrize(
    "text, plain",
    [
        ("no tags", "no tags"),
        (ANSWER, "击掌"),
        ("a <ref>bus</ref><box>(1,2),(3,4)</box><box>(5,6),(7,8)</box>.", "a bus."),
        ("<ref>sign</ref><quad>(1,1),(2,1),(2,2),(1,2)</quad>!", "sign!"),
        ("<box>(1,2),(3,4)</box>", ""),
        ("<ref>bus</ref><box>(1,2),(3", "bus"),
        ("<ref>bus", "bus"),
        ("a < b <b>bold</b>", "a < b <b>bold</b>"),
    ],
)
def test_strip_leaves_plain_text(text, plain):
    assert strip(text) == plain


def test_pixels_are_thousandths_rounded_down():
    assert Box(None, 178, 279, 806, 1000).pixels(640, 480) == (113, 133, 515, 480)


def gray(width: int = 320, height: int = 240, mode: str = "RGB") -> Image.Image:
    return Image.new("RGB", (width, height), (128, 128, 128)).convert(mode)


def changed(before: Image.Image, after: Image.Image) -> np.ndarray:
    """[height, width] bool: which pixels differ."""
    return (np.asarray(before.convert("RGB")) != np.asarray(after)).any(axis=2)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK"])
def test_drawing_makes_a_new_rgb_image_of_the_same_size(mode):
    image = gray(mode=mode)
    before = image.tobytes()
    drawn = draw(image, parse(ANSWER))
    assert drawn.mode == "RGB" and drawn.size == image.size
    assert image.tobytes() == before
    assert changed(image, drawn).any()
    assert not changed(image, draw(image, [])).any()


def test_outlines_stand_where_the_box_says():
    drawn = draw(gray(500, 400), [Box(None, 200, 250, 600, 750)], line_width=3)
    mask = (np.asarray(drawn) == PALETTE[0]).all(axis=2)
    rows, columns = np.where(mask)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (100, 100, 300, 300)
    assert mask[200, 100:103].all() and not mask[200, 103:298].any()


def test_each_label_has_one_color_and_the_palette_starts_over():
    names = [f"label {i}" for i in range(12)]
    boxes = [Box(name, 80 * i, 500, 80 * i + 60, 900) for i, name in enumerate(names)]
    boxes.append(Box("label 0", 0, 950, 60, 990))
    drawn = draw(gray(1200, 600), boxes, line_width=2, font_size=8)

    def outline(box: Box) -> tuple[int, ...]:
        x1, _, _, y2 = box.pixels(1200, 600)
        return drawn.getpixel((x1, y2 - 5))

    colors = [outline(box) for box in boxes]
    assert colors[:10] == list(PALETTE) and len(set(PALETTE)) == 10
    assert colors[10:] == [PALETTE[0], PALETTE[1], PALETTE[0]]


def test_drawing_is_deterministic():
    boxes = parse(ANSWER + "<ref>b</ref><box>(1,2),(300,400)</box>")
    assert draw(gray(), boxes).tobytes() == draw(gray(), boxes).tobytes()


@pytest.mark.parametrize("character", ["公", "鬱", "繁", "體", "あ", "カ", "働", "A", "é", "，", "…"])
def test_the_shipped_font_has_the_characters_of_labels(character):
    font = grounding._font(32)
    missing = font.getmask("\ue000")
    glyph = font.getmask(character)
    assert glyph.getbbox() is not None
    assert (glyph.size, bytes(glyph)) != (missing.size, bytes(missing))


def test_labels_of_different_text_look_different():
    images = [draw(gray(), [Box(label, 100, 300, 800, 900)]) for label in ("公交车", "自行车", "バス", "bus")]
    assert len({image.tobytes() for image in images}) == 4


@pytest.mark.parametrize("corner", [(0, 0, 60, 60), (940, 0, 1000, 60), (0, 940, 60, 1000), (940, 940, 1000, 1000)])
@pytest.mark.parametrize("label", ["bus", "一辆停在路边的红色公交车 beside a very long wall " * 4])
def test_labels_stay_wholly_inside_the_image(corner, label):
    image = gray(200, 150)
    canvas = grounding.ImageDraw.Draw(image, "RGBA")
    placed: list[tuple[int, int, int, int]] = []
    box = Box(label, *corner)
    grounding._draw_label(canvas, label, grounding._inside(box, image.size), PALETTE[0], 14, image.size, placed)
    [(x1, y1, x2, y2)] = placed
    assert 0 <= x1 < x2 <= 200 and 0 <= y1 < y2 <= 150


def test_labels_of_boxes_in_one_place_do_not_cover_each_other():
    image = gray(400, 300)
    canvas = grounding.ImageDraw.Draw(image, "RGBA")
    placed: list[tuple[int, int, int, int]] = []
    for label in ("first", "second", "third"):
        grounding._draw_label(canvas, label, (80, 90, 280, 240), PALETTE[0], 14, image.size, placed)
    assert len(placed) == 3
    for i, one in enumerate(placed):
        assert not any(grounding._overlap(one, other) for other in placed[:i])


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (4, 4), (12, 12), (30, 9)])
def test_images_too_small_for_labels_still_get_their_boxes(size):
    drawn = draw(gray(*size), [Box("公交车 the bus", 0, 0, 1000, 1000), Box(None, 500, 500, 500, 500)])
    assert drawn.size == size
    assert changed(gray(*size), drawn).any()


def test_boxes_made_by_hand_are_drawn_inside_whatever_they_say():
    drawn = draw(gray(), [Box("a\nb\t\x07", 900, 2000, -50, 10**400), Box("", 5, 5, 1, 1)])
    assert drawn.size == (320, 240)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
        ((0, 0, 10, 10), (5, 0, 15, 10), 1 / 3),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),
        ((0, 0, 10, 10), (30, 30, 40, 40), 0.0),
        ((5, 5, 5, 5), (5, 5, 5, 5), 0.0),
        ((0.9, 0.9, 0.1, 0.1), (0, 0, 1, 1), 0.0),
    ],
)
def test_iou(a, b, expected):
    assert grounding.iou(a, b) == grounding.iou(b, a) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("content", "kind", "points"),
    [
        ("(1,2),(30,999)", "box", [(1, 2), (30, 999)]),
        ("(-1,2),(3,1000)", "box", [(-1, 2), (3, 1000)]),
        ("(1,2),(3,4),(5,6),(7,8)", "quad", [(1, 2), (3, 4), (5, 6), (7, 8)]),
        ("(1,2),(3,4)", "quad", None),
        ("(1, 2),(3,4)", "box", None),
        ("(1.0,2),(3,4)", "box", None),
        ("(01,2),(3,4)", "box", None),
        ("(1,2)(3,4)", "box", None),
        ("", "box", None),
    ],
)
def test_exact_points_are_of_the_published_form(content, kind, points):
    assert grounding.exact_points(content, kind) == points
    if points is not None:
        assert grounding.box_text([value for point in points for value in point], kind) == f"<{kind}>{content}</{kind}>"


def test_exact_boxes_leave_out_other_forms():
    text = "<box>(1,2),(3,4)</box> <box>(1, 2),(3,4)</box> <box>(-1,2),(3,4)</box> <quad>(1,2),(3,4)</quad> (5,6),(7,8)"
    assert grounding.exact_boxes(text) == [(1, 2, 3, 4)]


@pytest.mark.parametrize("content", ["(1,2),(3,4)", "1,2,3,4", " ( 1 , 2 ) , ( 3 , 4 ) "])
def test_the_original_reads_four_integers_whatever_the_brackets(content):
    assert grounding.original_corners(content) == (1, 2, 3, 4)
    assert grounding.original_corners(content + ",5") is None
