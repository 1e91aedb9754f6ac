"""Written images are whole or not there."""

from __future__ import annotations

import os

import pytest
from PIL import Image

from paddlemix.errors import ConfigurationError
from paddlemix.media.saving import save_image

RED, BLUE = (Image.new("RGB", (8, 8), color) for color in ("red", "blue"))


def test_an_older_image_is_replaced(tmp_path):
    path = tmp_path / "a" / "p.png"
    assert save_image(RED, path) == save_image(BLUE, path) == path
    assert Image.open(path).getpixel((0, 0)) == (0, 0, 255)
    assert os.listdir(path.parent) == ["p.png"]


def test_or_a_free_name_is_taken(tmp_path):
    names = [save_image(RED, tmp_path / "p.jpg", overwrite=False).name for _ in range(3)]
    assert names == ["p.jpg", "p-2.jpg", "p-3.jpg"]
    assert sorted(os.listdir(tmp_path)) == sorted(names)


def test_new_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    path = save_image(RED, tmp_path / "p.png")
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="suffix '.txt', expected one of .jpg"):
        save_image(RED, tmp_path / "p.txt")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigurationError, match="file.*cannot be written"):
        save_image(RED, tmp_path / "file" / "p.png")


def test_a_failed_write_leaves_nothing_and_keeps_the_old_image(tmp_path, monkeypatch):
    path = save_image(RED, tmp_path / "p.png")
    before = path.read_bytes()

    def full(self, file, *arguments, **options):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(ConfigurationError, match="No space left"):
        save_image(BLUE, path)
    assert os.listdir(tmp_path) == ["p.png"]
    assert path.read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_or_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "p.png")
    with pytest.raises(ConfigurationError, match="cannot be written: it is a named pipe"):
        save_image(RED, tmp_path / "p.png")
    assert os.listdir(tmp_path) == ["p.png"]
