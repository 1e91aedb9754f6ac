"""The pages about fine-tuning say what is true, in both languages: options, defaults, examples, memory."""

import argparse
import json
import re
import shlex
from dataclasses import MISSING, fields
from math import prod

import pytest

from examples.bundled_model.scenes.lesson import write_lesson
from paddlemix.data.records import read_records
from paddlemix.finetune.configuration import FinetuneConfig, add_options, given_options
from paddlemix.finetune.freezing import frozen_names
from paddlemix.models.qwen_vl.configuration import QWenVLConfig
from paddlemix.models.qwen_vl.weights import ADAPTER_TARGETS, FREEZE_PRESETS, WEIGHTS
from tests.test_readme import _LINK, ROOT, blocks, prose

PAGES = ("docs/finetuning.md", "docs/finetuning_cn.md")
RANK = 64
DEVICES = 8


def test_both_pages_have_the_same_examples_links_sections_and_tables():
    english, chinese = PAGES
    assert blocks(english) == blocks(chinese)
    links = [sorted(link for link in _LINK.findall(prose(page)) if link.startswith("images/")) for page in PAGES]
    assert links[0] == links[1] != []
    shapes = [re.findall(r"^(#+|\||- )", prose(page), re.MULTILINE) for page in PAGES]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("page", PAGES)
def test_the_table_has_every_option_with_its_default(page):
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", prose(page), re.MULTILINE)
    table = {
        name: default.strip("`") for name, default in rows if name in {item.name for item in fields(FinetuneConfig)}
    }
    expected = {item.name: item.default for item in fields(FinetuneConfig)}
    assert list(table) == list(expected)
    required = {name for name, default in expected.items() if default is MISSING}
    assert required == {"data", "output_dir"}
    for name in set(expected) - required:
        default = expected[name]
        assert json.loads(table[name]) == (list(default) if isinstance(default, tuple) else default), name


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


@pytest.mark.parametrize("page", PAGES)
def test_the_memory_table_follows_from_the_number_of_parameters(page):
    shapes = WEIGHTS.expected_shapes(QWenVLConfig())
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    total, decoder = sum(sizes.values()), sum(size for name, size in sizes.items() if name.startswith("transformer.h."))
    frozen = frozen_names(list(sizes), ["freeze_vit"], FREEZE_PRESETS, WEIGHTS)
    without_vit = total - sum(sizes[name] for name in frozen)
    adapted = [name for name in sizes if name.startswith("transformer.h.") and _is_adapted(name)]
    adapters = sum(RANK * sum(shapes[name]) for name in adapted)
    embeddings = sizes["transformer.wte.weight"] + sizes["lm_head.weight"]

    def row(weights, trained, gradients=1, optimizer=1):
        """GB of weights, gradients and optimizer: how much of the latter two a device keeps."""
        parts = [weights, 2 * trained * gradients, 12 * trained * optimizer]
        return [round(part / 1e9, 1) for part in (*parts, sum(parts))]

    part = 1 / DEVICES
    with_adapters = 2 * (total + adapters)
    sharded_weights = 2 * (total - decoder) + 2 * decoder * part
    expected = [
        row(2 * total, total - sum(sizes[name] for name in sizes if WEIGHTS.is_constant(name))),
        row(2 * total, without_vit),
        row(2 * total, without_vit, optimizer=part),
        row(2 * total, without_vit, gradients=part, optimizer=part),
        row(sharded_weights, without_vit, gradients=part, optimizer=part),
        row(with_adapters, adapters),
        row(with_adapters, adapters + embeddings),
        # What quantized weights take is in docs/quantization.md.
        row(10.3e9 + 2 * adapters, adapters),
        row(7.2e9 + 2 * adapters, adapters),
    ]
    number = r"\| +([\d.]+) "
    rows = re.findall(rf"^\| `(?:full|lora|qlora)`[^|]*{number}{number}{number}{number}\|$", prose(page), re.MULTILINE)
    assert [[float(cell) for cell in row] for row in rows] == expected


def _is_adapted(name):
    return any(name.endswith(f".{target}.weight") for target in ADAPTER_TARGETS)
