"""The tables of options in the documents are those of the dataclasses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from paddlemix.appflow.image2text_generation import QwenVLChatTask
from paddlemix.cli import arguments, option_tables
from paddlemix.cli import common as cli
from paddlemix.options import ALL_OPTIONS, CONVERSATION, GENERATION, IMAGES, MODEL, ModelOptions, SessionOptions

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "options.md"


def test_the_tables_of_the_document_are_current(capsys):
    assert option_tables.main(["--check", str(DOCUMENT)]) == 0, "python -m paddlemix.cli.option_tables --write"


def test_stale_tables_are_named_and_written(tmp_path, capsys):
    path = tmp_path / "options.md"
    path.write_text("before\n<!-- options: generation -->\nold\n<!-- end of options -->\nafter\n", encoding="utf-8")
    assert option_tables.main(["--check", str(path)]) == 1
    assert "stale" in capsys.readouterr().out
    assert option_tables.main(["--write", str(path)]) == 0
    text = path.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "`--top_p FLOAT`" in text
    assert option_tables.main(["--check", str(path)]) == 0


def test_every_option_is_on_the_command_line_and_in_appflow():
    parser = cli.Parser()
    cli.add_options(parser, MODEL, CONVERSATION, IMAGES, GENERATION)
    typed = {action.dest for action in parser._actions}
    assert set(ALL_OPTIONS) - typed == {"image_policy"}
    assert set(ALL_OPTIONS) - set(QwenVLChatTask.options) == {"model", "device"}
    assert all(item.help and item.group for item in ALL_OPTIONS.values())


def test_what_is_typed_makes_the_options_of_python():
    parser = cli.Parser()
    cli.add_options(parser, MODEL, CONVERSATION, IMAGES)
    typed = "--model_name_or_path here --dtype float32 --exif_transpose --trusted_tags True --max_pixels 9".split()
    parsed = parser.parse_args(typed)
    given = arguments.given_options(parsed, ALL_OPTIONS)
    fields = {field.name for field in dataclasses.fields(ModelOptions)}
    model = ModelOptions(**{name: value for name, value in given.items() if name in fields})
    session = SessionOptions(**{name: value for name, value in given.items() if name not in fields})
    assert (model.model, model.dtype, model.exif_transpose, model.adapter) == ("here", "float32", True, None)
    assert session.trusted_tags is True and session.policy.max_pixels == 9


@pytest.mark.parametrize("frozen", [ModelOptions(), SessionOptions()])
def test_options_do_not_change(frozen):
    with pytest.raises(dataclasses.FrozenInstanceError):
        frozen.dtype = "float32"
