"""Texts that stand for images: paths as terminals write them, file: addresses, data URLs, base64."""

from __future__ import annotations

import base64
import io
import os
import tracemalloc

import pytest
from PIL import Image

from paddlemix.errors import ImageError
from paddlemix.media import ImagePolicy, load_image
from paddlemix.media.sources import scheme_of


@pytest.fixture(scope="module")
def png() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((31, 17), 80).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def home(tmp_path, png, monkeypatch):
    """A home directory, which is the working directory too, with an image of an awkward name."""
    (tmp_path / "my image (1).png").write_bytes(png)
    (tmp_path / "back\\slash.png").write_bytes(png)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "spelling",
    [
        "my image (1).png",
        r"my\ image\ \(1\).png",
        "'my image (1).png'",
        '"my image (1).png" ',
        "~/my image (1).png",
        r"~/my\ image\ \(1\).png",
        " my image (1).png\n",
        r"back\slash.png",
        r"back\\slash.png",
        "file://{home}/my%20image%20(1).png",
        "FILE://localhost{home}/my%20image%20%281%29.png",
        "file:{home}/my image (1).png",
    ],
)
def test_a_path_may_be_written_as_a_terminal_or_a_browser_does(home, spelling):
    spelling = spelling.replace("{home}", str(home))
    assert load_image(spelling).size == (31, 17)
    with pytest.raises(ImageError, match="reads no local files"):
        load_image(spelling, ImagePolicy.server())


def test_a_file_that_is_there_is_never_taken_for_a_spelling_of_another(home, png):
    (home / "'my image (1).png'").write_bytes(b"not this")
    with pytest.raises(ImageError, match="not an image"):
        load_image("'my image (1).png'")


@pytest.mark.parametrize(
    "url",
    ["file://server/share/a.png", "file://../a.png", "file:///%00", "file:///no/such", "file:///\ud800", "file:///%ff"],
)
def test_file_addresses_of_other_computers_and_of_nothing_are_refused(url):
    with pytest.raises(ImageError, match="expected file:///path|does not exist|cannot be read"):
        load_image(url)


def test_base64_is_taken_with_and_without_its_header(png):
    text = base64.b64encode(png).decode()
    urlsafe = base64.urlsafe_b64encode(png).decode()
    for source in (
        text,
        f" {text}\n",
        urlsafe,
        base64.encodebytes(png).decode(),
        "data:image;base64," + text,
        "data:image/png;base64," + urlsafe,
        "data:;base64," + text.replace("+", "%2B").replace("/", "%2f"),
    ):
        assert load_image(source, ImagePolicy.server()).size == (31, 17)


def test_paths_are_no_base64():
    for path in ("/9j/a.jpg", "R0lGOD", "Qk" + "images/" * 20, "iVBOR/" * 20 + ".png", "a" * 300, "~/x"):
        assert scheme_of(path) == ""


@pytest.mark.parametrize(
    "payload, problem",
    [
        ("{png}=AAAA", "malformed base64"),
        ("{png}%ZZ", "malformed base64"),
        ("{png}é", "not ASCII"),
        ("{png}\ud800", "not ASCII"),
        ("A", "malformed base64"),
        ("=", "malformed base64"),
    ],
)
def test_malformed_base64_is_refused(png, payload, problem):
    text = base64.b64encode(png).decode().rstrip("=")
    with pytest.raises(ImageError, match=problem):
        load_image("data:image/png;base64," + payload.replace("{png}", text + "A" * (-len(text) % 4)))


@pytest.mark.parametrize("encode", ["plain", "escaped", "lines"])
def test_a_data_url_that_is_decoded_in_pieces_is_whole(encode, monkeypatch):
    monkeypatch.setattr("paddlemix.media.sources._PIECE", 61)
    buffer = io.BytesIO()
    Image.effect_noise((40, 20), 90).save(buffer, "PNG")
    text = base64.b64encode(buffer.getvalue()).decode()
    if encode == "escaped":
        text = "".join(f"%{ord(c):02x}" if i % 3 == 0 else c for i, c in enumerate(text))
    if encode == "lines":
        text = "\r\n".join(text[i : i + 7] for i in range(0, len(text), 7))
    loaded = load_image("data:image/png;base64," + text)
    assert loaded.tobytes() == Image.open(buffer).tobytes()


@pytest.mark.parametrize("letters", ["%41", "A", " ", "é", "%"])
def test_an_endless_data_url_is_refused_before_it_is_copied(letters):
    url = "data:image/png;base64," + letters * (20_000_000 // len(letters))
    tracemalloc.start()
    with pytest.raises(ImageError, match="limit of 1000000 bytes"):
        load_image(url, ImagePolicy.server().replace(max_bytes=1_000_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


class _Path(os.PathLike):
    def __init__(self, value):
        self.value = value

    def __fspath__(self):
        return self.value


@pytest.mark.parametrize("value", [5, None, b"/no/such", "/no/such", "\0"])
def test_what_claims_to_be_a_path_is_read_or_refused(value):
    with pytest.raises(ImageError):
        load_image(_Path(value))


def test_a_missing_working_directory_is_no_other_error(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ImageError, match="does not exist"):
        load_image("a.png")
