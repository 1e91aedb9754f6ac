"""The documents say what is true: their examples run, their options, paths and links exist, both languages agree."""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddlemix.checkpoint import hub, layouts
from paddlemix.models.qwen_vl import grounding
from paddlemix.zoo import DEFAULT_MODEL_DIR

ROOT = Path(__file__).resolve().parents[1]
READMES = ("README.md", "README_cn.md")
_FOLDERS_OF_DOCUMENTS = ("*.md", "docs/*.md", "benchmarks/**/*.md", "external_ops/*.md", "paddlemix/**/*.md")
DOCUMENTS = sorted({str(path.relative_to(ROOT)) for pattern in _FOLDERS_OF_DOCUMENTS for path in ROOT.glob(pattern)})

# Names in backticks that look like paths of the project and are none: what programs write or read elsewhere, and names
# of models.
ELSEWHERE = {
    ".venv", "bad_records.txt", "bus.json", "output/pred.jpg", "~/.paddlemix", "~/.paddlemix/models", "curve.jsonl",
    "qwen/qwen-7b", *hub.KNOWN, *hub.BUNDLED,
}  # fmt: skip

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(r"[\w.~-]+(?:/[\w.-]+)*/?")
_SUFFIXES = tuple(".py .md .json .jsonl .txt .toml .png .jpg .otf .tiktoken .safetensors .in".split())


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str | None = None) -> list[str]:
    """The fenced blocks of a document, in one language or all."""
    return [text for kind, text in _FENCE.findall(read(name)) if language in (None, kind)]


def prose(name: str) -> str:
    return _FENCE.sub("", read(name))


@functools.lru_cache(maxsize=1)
def project_paths() -> frozenset[str]:
    """Every file and folder of the project, relative to its root."""
    paths = set()
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name == ".ci" or not name.startswith((".", "__pycache__"))]
        paths.update(os.path.relpath(os.path.join(folder, name), ROOT) for name in [*folders, *files])
    return frozenset(paths)


@functools.lru_cache(maxsize=1)
def path_endings() -> frozenset[str]:
    """All ways to name a file or folder by the end of its path: a/b/c.py, b/c.py, c.py."""
    parts = (path.split("/") for path in project_paths())
    return frozenset("/".join(names[start:]) for names in parts for start in range(len(names)))


# ---------------------------------------------------------------- two languages


def test_both_readmes_have_the_same_code_blocks():
    assert blocks(READMES[0]) == blocks(READMES[1])


def test_both_readmes_have_the_same_links():
    english, chinese = (sorted(_LINK.findall(read(name))) for name in READMES)
    english.remove(READMES[1])
    chinese.remove(READMES[0])
    assert english == chinese


def test_both_readmes_have_the_same_sections_and_tables():
    english, chinese = (re.findall(r"^(#+|\|)", prose(name), re.MULTILINE) for name in READMES)
    assert english == chinese


# ---------------------------------------------------------------- what is named exists


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    for target in _LINK.findall(prose(name)):
        if target.startswith(("http://", "https://")):
            continue
        assert ((ROOT / name).parent / target.partition("#")[0]).exists(), f"{name}: {target}"


def named_paths(name: str) -> Iterator[str]:
    """Files and folders of the project that a document names in backticks."""
    for code in _CODE.findall(prose(name)):
        is_path = _PATH.fullmatch(code) and ("/" in code or code.endswith(_SUFFIXES) and code not in _SUFFIXES)
        is_rate = code.endswith("/s")
        if is_path and not is_rate and code not in ELSEWHERE and code.split("/")[0] != "runs":
            yield code


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_and_folders_named_in_the_text_exist(name):
    missing = [path for path in named_paths(name) if path.rstrip("/") not in path_endings()]
    assert not missing, f"{name} names what is not there"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_named_in_commands_and_examples_exist(name):
    folders = {path.split("/")[0] for path in project_paths() if (ROOT / path).is_dir()}
    for block in blocks(name):
        for path in re.findall(r"(?<![\w./~-])[\w.-]+(?:/[\w.-]+)+", block):
            if path.split("/")[0] in folders - {"runs"} and path not in ELSEWHERE:
                assert (ROOT / path).exists(), f"{name}: {path}"


def test_every_top_level_file_and_folder_is_in_the_table_of_the_readme():
    ignored = {line.strip("/\n") for line in read(".gitignore").splitlines()}
    for name in READMES:
        for path in ROOT.iterdir():
            known = path.name.startswith(".") or path.name in ignored or path.name.endswith(".egg-info")
            if not known and path.name not in READMES and path.name != "CONTRIBUTING.md":
                assert f"`{path.name}`" in read(name) or f"`{path.name}/`" in read(name), f"{name}: {path.name}"


# ---------------------------------------------------------------- commands


def commands(name: str) -> list[list[str]]:
    """The shell commands of a document, each as its words; of a pipe the last command."""
    lines = "".join(blocks(name, "bash")).replace("\\\n", " ").splitlines()
    words = (shlex.split(line) for line in lines if line.strip())
    return [line[len(line) - line[::-1].index("|") :] if "|" in line else line for line in words]


def program(command: list[str]) -> tuple[list[str], list[str]] | None:
    """The program of ours that a command runs, as words after ``python``, and its arguments; None for others."""
    if command[0] != "python":
        return None
    for index, word in enumerate(command):
        if word.endswith(".py"):
            return [word], command[index + 1 :]
        if word == "-m" and command[index + 1].startswith("paddlemix"):
            return command[index : index + 2], command[index + 2 :]
    return None


@functools.cache
def options_of(words: tuple[str, ...]) -> frozenset[str]:
    """The options that a program's ``--help`` lists."""
    finished = subprocess.run([sys.executable, *words, "--help"], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert finished.returncode == 0, finished.stderr
    return frozenset(re.findall(r"--\w[\w-]*", finished.stdout))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_options_in_commands_exist(name):
    for command in commands(name):
        words, arguments = program(command) or ([], [])
        used = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        if words:
            assert used <= options_of(tuple(words)), f"{name}: {shlex.join(command)}"


@pytest.mark.parametrize("name", READMES)
def test_options_named_in_the_text_exist(name):
    named = {option for code in _CODE.findall(prose(name)) for option in re.findall(r"^--\w[\w-]*", code)}
    programs = {tuple(found[0]) for found in map(program, commands(name)) if found}
    known = frozenset().union(*map(options_of, programs))
    assert named <= known


@pytest.mark.parametrize("name", DOCUMENTS)
def test_make_has_the_targets_and_variables_named(name):
    makefile = read("Makefile")
    used = [command for command in commands(name) if command[0] == "make"]
    used += [code.split() for code in _CODE.findall(prose(name)) if code.startswith("make ")]
    for _, *words in used:
        for word in words:
            variable, is_assignment, _ = word.partition("=")
            pattern = rf"^(?:ifeq \(\$\(origin {variable}\)|{variable}\s*\?=)" if is_assignment else rf"^{word}:"
            assert re.search(pattern, makefile, re.MULTILINE), f"{name}: make {word}"


def test_chat_commands_named_in_the_readme_exist():
    from paddlemix.cli.terminal import COMMANDS

    known = {usage.split()[0] for usage in COMMANDS}
    for name in READMES:
        named = {code.split()[0] for code in _CODE.findall(prose(name)) if code.startswith("/")}
        assert named and named <= known


# ---------------------------------------------------------------- the examples


@pytest.mark.parametrize("number", range(len(blocks(READMES[0], "python"))))
def test_python_examples_run_as_printed(number, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    example = blocks(READMES[0], "python")[number]
    exec(compile(example, f"{READMES[0]}, Python example {number + 1}", "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    assert grounding.parse(printed), "each example asks for a place last, and gets one"


def test_one_example_is_appflows_two_turns():
    (example,) = (block for block in blocks(READMES[0], "python") if "Appflow(" in block)
    assert example.count("task(") == 2 and "image=" in example


def test_the_output_in_the_readme_is_what_the_program_prints(tmp_path):
    script = ROOT / "examples" / "qwen_vl" / "run_predict.py"
    finished = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert finished.returncode == 0, finished.stderr
    shown = re.search(r"<!-- predict-output -->\n```\w*\n(.*?)```", read(READMES[0]), re.DOTALL)[1]
    (answer,) = re.findall(r"^response: .*$", finished.stdout, re.MULTILINE)
    # another processor may round the last digit of a coordinate otherwise
    assert re.sub(r"\d+", "0", answer) in re.sub(r"\d+", "0", shown)
    assert (tmp_path / "output" / "pred.jpg").is_file()


# ---------------------------------------------------------------- the card of the bundled model


def test_the_card_has_the_numbers_of_the_recipe():
    from examples.bundled_model.training.recipe import small_config
    from paddlemix.models.qwen_vl.configuration import QWenVLConfig
    from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer

    tokenizer = QWenVLTokenizer.from_pretrained(DEFAULT_MODEL_DIR)
    configs = (small_config(tokenizer), QWenVLConfig())
    expected = {
        "parameters": [f"{layouts.parameter_count(c):,}" for c in configs],
        "vocabulary (rows of the embedding)": [f"{c.vocab_size:,}" for c in configs],
        "hidden size": [f"{c.hidden_size:,}" for c in configs],
        "decoder layers": [str(c.num_hidden_layers) for c in configs],
        "decoder heads, width of each": [f"{c.num_attention_heads} × {c.kv_channels}" for c in configs],
        "feed-forward width": [f"{c.intermediate_size // 2:,}" for c in configs],
        "rotary base": [f"{c.rotary_emb_base:,}" for c in configs],
        "window": [f"{c.max_position_embeddings:,}" for c in configs],
        "image side, patch side": [f"{c.visual.image_size}, {c.visual.patch_size}" for c in configs],
        "patches": [f"{(c.visual.image_size // c.visual.patch_size) ** 2:,}" for c in configs],
        "ViT layers": [str(c.visual.layers) for c in configs],
        "ViT width, heads": [f"{c.visual.width:,}, {c.visual.heads}" for c in configs],
        "vectors for one image": [str(c.visual.n_queries) for c in configs],
    }
    card = read("docs/bundled_model.md")
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", card, re.MULTILINE)
    table = {name: values for name, *values in rows}
    assert {name: table.get(name) for name in expected} == expected
    assert f"{len(tokenizer.mergeable_ranks):,} ranks" in card
    assert f"{tokenizer.vocab_size:,} ids" in card


def test_the_card_has_the_stages_of_the_recipe():
    from examples.bundled_model.training.recipe import STAGES

    card = read("docs/bundled_model.md")
    for name, stage in STAGES.items():
        row = re.search(rf"^\| `{name}` \| .*? \| (\d+) \| (.*?) \| (.*?) \|$", card, re.MULTILINE)
        conversations, rate, heads = row.groups()
        shown = (int(conversations), float(rate.split(",")[0]), "falling" in rate, float(heads))
        assert shown == (stage.conversations, stage.learning_rate, stage.decay, stage.head_weight)


def test_questions_in_the_card_are_of_the_training_data():
    from examples.bundled_model.scenes.lexicon import KINDS, STYLES, WORDS
    from examples.bundled_model.scenes.phrases import QUESTIONS

    card = read("docs/bundled_model.md")
    wordings = [text for languages in QUESTIONS.values() for texts in languages.values() for text in texts]
    patterns = [re.sub(r"\\\{\w+\\\}", ".+", re.escape(text)) for text in wordings]
    section = card.partition("## What it can be asked")[2].partition("\n## ")[0]
    asked = [code for row in re.findall(r"^\| .*$", section, re.MULTILINE) for code in _CODE.findall(row)]
    assert asked and all(any(re.fullmatch(pattern, text) for pattern in patterns) for text in asked)
    assert f"{len(KINDS)} kinds" in card and f"{len(WORDS)} words" in card and len(STYLES) == 2


def test_the_card_has_the_table_of_scores():
    scores = read("docs/bundled_model.md").partition("## Scores")[2]
    assert re.search(r"^\| refer \|", scores, re.MULTILINE)


def test_the_card_beside_the_weights_lists_its_files():
    rows = re.findall(r"^\| (`.*?) \|", (DEFAULT_MODEL_DIR / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    listed = {name for row in rows for name in _CODE.findall(row)}
    assert listed == {path.name for path in DEFAULT_MODEL_DIR.iterdir()} - {"README.md"}
