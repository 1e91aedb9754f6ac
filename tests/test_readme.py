"""The links, paths, commands and options in the documents exist, and the examples of the READMEs run."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddlemix.checkpoint import hub
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
    "answers.jsonl", "answers-3-of-8.jsonl", "judgments.jsonl", "score.json", "qwen/qwen-7b", *hub.KNOWN, *hub.BUNDLED,
}  # fmt: skip

WITH_ACTIONS = ("evaluate",)
"""Subcommands whose first argument says what is done."""

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


# ---------------------------------------------------------------- what is named exists


def test_links_lead_somewhere():
    broken = []
    for name in DOCUMENTS:
        for target in _LINK.findall(prose(name)):
            is_local = not target.startswith(("http://", "https://"))
            if is_local and not ((ROOT / name).parent / target.partition("#")[0]).exists():
                broken.append(f"{name}: {target}")
    assert not broken


def named_paths(name: str) -> Iterator[str]:
    """Files and folders of the project that a document names in backticks."""
    for code in _CODE.findall(prose(name)):
        is_path = _PATH.fullmatch(code) and ("/" in code or code.endswith(_SUFFIXES) and code not in _SUFFIXES)
        is_rate = code.endswith("/s")
        if is_path and not is_rate and code not in ELSEWHERE and code.split("/")[0] != "runs":
            yield code


def test_files_and_folders_named_in_the_text_exist():
    endings = path_endings()
    missing = [
        f"{name}: {path}"
        for name in DOCUMENTS
        for path in named_paths(name)
        if endings.isdisjoint((path.rstrip("/"), f"{path}.py"))  # a module may be named without its suffix
    ]
    assert not missing


def test_files_named_in_commands_and_examples_exist():
    folders = {path.split("/")[0] for path in project_paths() if (ROOT / path).is_dir()} - {"runs"}
    missing = []
    for name in DOCUMENTS:
        for path in re.findall(r"(?<![\w./~-])[\w.-]+(?:/[\w.-]+)+", "\n".join(blocks(name))):
            if path.split("/")[0] in folders and path not in ELSEWHERE and not (ROOT / path).exists():
                missing.append(f"{name}: {path}")
    assert not missing


# ---------------------------------------------------------------- commands


def commands(name: str) -> list[list[str]]:
    """The shell commands of a document, each as its words; of a pipe the last command."""
    lines = "".join(blocks(name, "bash")).replace("\\\n", " ").splitlines()
    words = (shlex.split(line) for line in lines if line.strip())
    return [line[len(line) - line[::-1].index("|") :] if "|" in line else line for line in words]


def program(command: list[str]) -> tuple[list[str], list[str]] | None:
    """The program of ours that a command runs, as words after ``python``, and its arguments; None for others."""
    if command[0] == "paddlemix":
        end = 3 if command[1] in WITH_ACTIONS else 2
        return ["-m", *command[:end]], command[end:]
    if command[0] != "python":
        return None
    for index, word in enumerate(command):
        if word.endswith(".py"):
            return [word], command[index + 1 :]
        if word == "-m" and command[index + 1].startswith("paddlemix"):
            end = index + (3 if command[index + 1] == "paddlemix" else 2)
            return command[index:end], command[end:]
    return None


def run_here(words: list[str], arguments: list[str]) -> str:
    """What one of our programs prints, run in this process, which has imported Paddle already."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        is_module = words[0] == "-m"
        patch.setattr(sys, "argv", [*words[1 if is_module else 0 :], *arguments])
        # Python puts a script's folder first
        patch.setattr(sys, "path", list(sys.path) if is_module else [str((ROOT / words[0]).parent), *sys.path])
        try:
            if is_module:
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(str(ROOT / words[0]), run_name="__main__")
        except SystemExit as end:
            assert not end.code, f"{shlex.join(words)}: exit status {end.code}"
    return printed.getvalue()


@functools.cache
def options_of(words: tuple[str, ...]) -> frozenset[str]:
    """The options that a program's ``--help`` lists."""
    return frozenset(re.findall(r"--\w[\w-]*", run_here(list(words), ["--help"])))


def test_options_in_commands_exist():
    wrong = []
    for name in DOCUMENTS:
        for command in commands(name):
            words, arguments = program(command) or ([], [])
            used = {word.partition("=")[0] for word in arguments if word.startswith("--")}
            unknown = used - options_of(tuple(words)) if words else ()
            wrong += [f"{name}: {option} in {shlex.join(command)}" for option in unknown]
    assert not wrong


def test_options_named_in_the_readmes_exist():
    programs = {tuple(found[0]) for name in DOCUMENTS for found in map(program, commands(name)) if found}
    known = frozenset().union(*map(options_of, programs))
    for name in READMES:
        named = {option for code in _CODE.findall(prose(name)) for option in re.findall(r"^--\w[\w-]*", code)}
        assert named <= known


def test_make_has_the_targets_and_variables_named():
    makefile = read("Makefile")
    wrong = []
    for name in DOCUMENTS:
        used = [command for command in commands(name) if command[0] == "make"]
        used += [code.split() for code in _CODE.findall(prose(name)) if code.startswith("make ")]
        for word in (word for _, *words in used for word in words):
            variable, is_assignment, _ = word.partition("=")
            pattern = rf"^(?:ifeq \(\$\(origin {variable}\)|{variable}\s*\?=)" if is_assignment else rf"^{word}:"
            if not re.search(pattern, makefile, re.MULTILINE):
                wrong.append(f"{name}: make {word}")
    assert not wrong


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


def test_the_output_in_the_readme_is_what_the_program_prints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = run_here(["examples/qwen_vl/run_predict.py"], [])
    shown = re.search(r"<!-- predict-output -->\n```\w*\n(.*?)```", read(READMES[0]), re.DOTALL)[1]
    (answer,) = re.findall(r"^response: .*$", printed, re.MULTILINE)
    # another processor may round the last digit of a coordinate otherwise
    assert re.sub(r"\d+", "0", answer) in re.sub(r"\d+", "0", shown)
    assert (tmp_path / "output" / "pred.jpg").is_file()


def test_the_card_beside_the_weights_lists_its_files():
    rows = re.findall(r"^\| (`.*?) \|", (DEFAULT_MODEL_DIR / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    listed = {name for row in rows for name in _CODE.findall(row)}
    assert listed == {path.name for path in DEFAULT_MODEL_DIR.iterdir()} - {"README.md"}
