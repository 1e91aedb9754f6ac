import numpy as np
import pytest

from paddlemix.engine.request import ImageInput
from paddlemix.errors import PromptError
from paddlemix.models.qwen_vl.image_placeholders import PlaceholderFormat, split_text
from tests.golden_model import golden_config

IMG, END, PAD = 300, 301, 302
FORM = PlaceholderFormat.of(golden_config().visual)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([IMG, *[PAD] * 256, 5], "1 <img> but 0 </img>"),
        ([IMG, *[PAD] * 255, END], "256 placeholders"),
        ([END, *[PAD] * 256, IMG], "256 placeholders"),
    ],
)
def test_a_cut_placeholder_is_refused(row, message):
    with pytest.raises(PromptError, match=message):
        FORM.indices(np.array([row]))


def test_a_placeholder_must_end_in_its_own_row():
    ids = np.array([[5] * 200 + [IMG] + [PAD] * 99, [PAD] * 157 + [END] + [5] * 142])
    with pytest.raises(PromptError, match="256 placeholders"):
        FORM.indices(ids)


def test_indices_are_counted_over_the_rows():
    row = [7, IMG, *[PAD] * 256, END]
    indices = FORM.indices(np.array([row, row]))
    assert indices.shape == (2, 256)
    assert indices[:, 0].tolist() == [2, 2 + len(row)]


def placeholder(path):
    content = list(path.encode()) if isinstance(path, str) else path
    return [IMG, *content, *[PAD] * (256 - len(content)), END]


def sources(*rows):
    return FORM.paths(np.array(rows))


def test_paths_are_read_in_order_over_the_rows():
    assert sources(
        [*placeholder("a.jpg"), 5, *placeholder("目录/b.png")], [*placeholder("c.png"), 5, *placeholder("d")]
    ) == [
        "a.jpg",
        "目录/b.png",
        "c.png",
        "d",
    ]


@pytest.mark.parametrize("length", [254, 255, 256])
def test_a_path_may_fill_the_placeholder(length):
    assert sources(placeholder("x" * length)) == ["x" * length]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (placeholder(""), "pass images="),
        (placeholder([270, 271]), "other ids than the bytes of a path"),
        (placeholder([0xC3, 0x28]), "not UTF-8"),
        ([IMG, 5, 6], "without its </img>"),
    ],
)
def test_placeholders_without_a_readable_path_are_refused(row, message):
    with pytest.raises(PromptError, match=message):
        sources(row)


def test_what_is_written_is_read_back():
    assert FORM.encode("目录/b.png") == placeholder("目录/b.png")
    with pytest.raises(PromptError, match="257 bytes of UTF-8, expected at most 256"):
        FORM.encode("x" * 257)


def test_images_are_placed_where_their_placeholders_begin():
    row = [5, *placeholder("x"), 5, *placeholder("y")]
    images = [ImageInput(0, b"x"), ImageInput(0, b"y")]
    assert [(image.start, image.key) for image in FORM.place(row, images)] == [(2, b"x"), (261, b"y")]
    with pytest.raises(PromptError, match="images: got 1 for 2 <img>"):
        FORM.place(row, images[:1])


def test_only_complete_placeholders_count():
    row = [*placeholder("x"), IMG, 5, *placeholder("")]
    assert FORM.count_complete(np.array([row, row])) == 4
    assert FORM.count_complete(np.array([[IMG, 5]])) == 0


def test_text_is_split_at_closed_placeholders():
    assert list(split_text("a<img>x</img><img>b<img>y</img>")) == [("a", "x"), ("<img>b", "y"), ("", None)]
