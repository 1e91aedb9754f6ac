"""The pages about fine-tuning say what is true, in both languages: options, defaults, examples, memory."""

import argparse
import json
import re
import shlex

from docs import finetuning_tables
from examples.bundled_model.scenes.lesson import write_lesson
from paddlemix.data.records import read_records
from paddlemix.finetune.arguments import add_options, given_options
from paddlemix.finetune.configuration import FinetuneConfig
from tests.test_readme import _LINK, ROOT, blocks, prose

PAGES = ("docs/finetuning.md", "docs/finetuning_cn.md")


def test_both_pages_have_the_same_examples_links_sections_and_tables():
    english, chinese = PAGES
    assert blocks(english) == blocks(chinese)
    links = [sorted(link for link in _LINK.findall(prose(page)) if link.startswith("images/")) for page in PAGES]
    assert links[0] == links[1] != []
    shapes = [re.findall(r"^(#+|\||- )", prose(page), re.MULTILINE) for page in PAGES]
    assert shapes[0] == shapes[1]


def test_the_generated_tables_are_up_to_date():
    for language, path in finetuning_tables.PAGES.items():
        text = path.read_text(encoding="utf-8")
        assert text == finetuning_tables.with_tables(text, language), "run python docs/finetuning_tables.py"


def test_every_option_has_a_chinese_help_text():
    assert list(finetuning_tables.help_texts("zh")) == list(finetuning_tables.help_texts("en"))


def commands(page):
    """The words of each command of a page, in order."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.strip()]


def json_blocks():
    return [json.loads(text) for text in blocks(PAGES[0], "json")]


def test_the_config_files_are_accepted():
    configs = [block for block in json_blocks() if "output_dir" in block]
    assert [FinetuneConfig.from_dict(config).mode for config in configs] == ["lora", "qlora", "lora", "full", "lora"]


def test_every_command_names_files_that_are_there_or_made_by_an_earlier_one():
    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    parser.add_argument("--check-only", action="store_true")
    add_options(parser)
    made = []
    for command in commands(PAGES[0]):
        named = [word for word in command if "/" in word and not word.startswith("-")]
        output = command[command.index("--output_dir") + 1] if "--output_dir" in command else None
        if command[2].endswith(".lesson") or "convert_" in command[1]:
            output = named[-1]
        for word in set(named) - {output}:
            is_made = any(word == path or word.startswith(path + "/") for path in made)
            assert is_made or (ROOT / word).exists(), (word, command)
        made += [] if output is None or "--check-only" in command else [output]
        if any(word.endswith("finetune.py") for word in command):
            start = next(index for index, word in enumerate(command) if word.endswith("finetune.py")) + 1
            options = parser.parse_args(command[start:])
            FinetuneConfig.from_file(ROOT / options.config, given_options(options))


def test_the_lesson_has_the_files_that_the_commands_name(tmp_path):
    lesson = write_lesson("robot", tmp_path, images=1, test_images=3)
    assert {lesson.train.name, lesson.test.name} == {"train.json", "test.json"}
    assert (tmp_path / "images" / "test-2.png").is_file()


def test_the_records_can_be_read(tmp_path):
    records = [block for block in json_blocks() if "output_dir" not in block]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    first, second = read_records(tmp_path / "train.jsonl")
    assert (first.labeled, second.labeled) == (True, False)
    assert first.images == second.images == [str(tmp_path / "images" / "scene-54.png")]
