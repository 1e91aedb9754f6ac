"""The command ``paddlemix``: its subcommands, its cheap help, and shell completion."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from paddlemix.cli import shell_completion
from paddlemix.cli.commands import COMMANDS
from paddlemix.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


def python(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_help_lists_the_commands_and_imports_little():
    program = (
        "import sys, time; from paddlemix.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        "heavy = [name for name in ('paddle', 'paddlenlp', 'numpy', 'PIL') if name in sys.modules]\n"
        "print(heavy, time.process_time())"
    )
    *shown, last = python(program).splitlines()
    for command in COMMANDS:
        assert any(re.match(rf"  {command.name} +{re.escape(command.help)}$", line) for line in shown)
    heavy, seconds = last.rsplit(" ", 1)
    assert heavy == "[]"
    assert float(seconds) < 0.3


def test_help_of_every_command_and_completion_import_neither_paddle_nor_paddlenlp():
    program = (
        "import contextlib, io, json, sys; from paddlemix.cli.main import main, COMMANDS\n"
        "shown = {}\n"
        "for name in [c.name for c in COMMANDS]:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):\n"
        "        main([name, '--help'])\n"
        "    shown[name] = text.getvalue()\n"
        "for shell in ('bash', 'zsh', 'fish'):\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as text: assert main(['completion', shell]) == 0\n"
        "    shown[shell] = text.getvalue()\n"
        "print(json.dumps([shown, [name for name in ('paddle', 'paddlenlp') if name in sys.modules]]))"
    )
    shown, heavy = json.loads(python(program))
    assert heavy == []
    for command in COMMANDS:
        assert shown[command.name].startswith(f"usage: paddlemix {command.name} ")
        assert "%(prog)s" not in shown[command.name] and ".py --" not in shown[command.name]
    for shell in ("bash", "zsh", "fish"):
        assert "max_new_tokens" in shown[shell] and "convert-lora" in shown[shell]


def test_an_unknown_command_names_the_known_ones(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["predcit"])
    assert exit_.value.code == 2
    assert "invalid choice: 'predcit'" in capsys.readouterr().err


def test_without_a_command_the_help_is_printed_and_the_status_is_that_of_wrong_options(capsys):
    assert main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "usage: paddlemix COMMAND" in printed.err


def test_a_command_gets_its_arguments(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["convert", "--dtype", "int3", "in", "out"])
    assert exit_.value.code == 2
    assert "--dtype: invalid choice: 'int3'" in capsys.readouterr().err


@pytest.fixture
def commands() -> list[shell_completion.CommandLine]:
    from paddlemix.cli.commands import merge

    options = shell_completion.options_of(merge.parser("merge"))
    shells = shell_completion.CommandOption((), "the shell", True, ("bash", "fish", "zsh"))
    return [
        shell_completion.CommandLine("merge", "merge an adapter's weights", options),
        shell_completion.CommandLine("completion", "print a script", (shells,)),
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["me"], {"merge"}),
        ([""], {"merge", "completion"}),
        (["merge", "--dt"], {"--dtype"}),
        (["merge", "--dtype", "b"], {"bfloat16"}),
        (["merge", "--adapter", "x"], set()),  # the shell offers files
        (["completion", "f"], {"fish"}),
    ],
)
def test_bash_completes_commands_options_and_values(commands, tmp_path, words, expected):
    script = tmp_path / "completion.bash"
    script.write_text(shell_completion.bash(commands), encoding="utf-8")
    line = " ".join(f"'{word}'" for word in ["paddlemix", *words])
    done = subprocess.run(
        ["bash", "-c", f'source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _paddlemix; '
         'printf "%s\\n" "${COMPREPLY[@]}"'],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert set(done.stdout.split()) == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_scripts_of_other_shells_parse(commands, tmp_path, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "completion"
    script.write_text(shell_completion.SHELLS[shell](commands), encoding="utf-8")
    assert subprocess.run([shell, "-n", script], capture_output=True, text=True).stderr == ""


def test_texts_are_quoted_for_each_shell(commands):
    assert "'merge:merge an adapter'\"'\"'s weights'" in shell_completion.zsh(commands)
    assert r"-d 'merge an adapter\'s weights'" in shell_completion.fish(commands)


def test_converting_and_early_errors_import_neither_paddle_nor_paddlenlp(tmp_path):
    program = (
        "import sys; from paddlemix.cli.main import main; from paddlemix.errors import PaddleMixError\n"
        "from paddlemix.zoo import DEFAULT_MODEL_DIR\n"
        f"assert main(['convert', str(DEFAULT_MODEL_DIR), {str(tmp_path / 'out')!r}, '--to', 'hf']) == 0\n"
        "for words in (['--top_p', '7'], ['--input_image', 'missing.png'],\n"
        "              ['--device', 'cpu', '--model_name_or_path', 'no-such-model', '--prompt', 'x']):\n"
        "    try: main(['predict', *words])\n"
        "    except PaddleMixError: pass\n"
        "    else: raise AssertionError(words)\n"
        "print([name for name in ('paddle', 'paddlenlp') if name in sys.modules])"
    )
    assert python(program).splitlines()[-1] == "[]"
