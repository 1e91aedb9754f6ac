"""Completion scripts for bash, zsh and fish, made from argparse parsers."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class CommandOption:
    """An option of a command.

    Attributes:
        flags: its names, each with its dashes.
        help: the beginning of its help text.
        takes_value: whether a value follows it.
        values: the values it may have; empty where there are others, and a file name is offered.
    """

    flags: tuple[str, ...]
    help: str
    takes_value: bool
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class CommandLine:
    """A subcommand: its name, one line about it, and its options."""

    name: str
    help: str
    options: tuple[CommandOption, ...]


def options_of(parser: argparse.ArgumentParser) -> tuple[CommandOption, ...]:
    """The options of a parser, and the choices of its positional argument as an option without flags.

    Those of a parser's own subcommands are among them, each once.
    """
    found: list[CommandOption] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            inner = [option for part in action.choices.values() for option in options_of(part) if option.flags]
            known = {flag for option in found for flag in option.flags}
            found += {option.flags: option for option in inner if not known.intersection(option.flags)}.values()
        values = tuple(map(str, action.choices or ()))
        if action.metavar == "True|False":
            values = ("True", "False")
        if action.option_strings or values:
            words = (action.help or "").split("; ")[0].split(" (default")[0].replace("%%", "%")
            found.append(CommandOption(tuple(action.option_strings), words, action.nargs != 0, values))
    return tuple(found)


def bash(commands: Sequence[CommandLine]) -> str:
    """The script for bash."""
    cases = [
        f"        {_patterns(command, option)}) words={shlex.quote(' '.join(option.values))} ;;"
        for command, option in _with_values(commands)
    ]
    files = [f"        {_patterns(command, option)}) return ;;" for command, option in _with_files(commands)]
    flags = [f"        {command.name}) words={shlex.quote(' '.join(_flags(command)))} ;;" for command in commands]
    positional = [
        f"        {command.name}) words={shlex.quote(' '.join(option.values))} ;;"
        for command, option in _positional(commands)
    ]
    return f"""# bash completion of paddlemix
_paddlemix() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} command=${{COMP_WORDS[1]}} words=
    COMPREPLY=()
    if [[ $COMP_CWORD == 1 ]]; then
        words={shlex.quote(" ".join(command.name for command in commands))}
    else
        case "$command $previous" in
{_lines([*cases, *files])}
        esac
        if [[ -z $words && $current == -* ]]; then
            case $command in
{_lines(flags)}
            esac
        elif [[ -z $words && $COMP_CWORD == 2 ]]; then
            case $command in
{_lines(positional)}
            esac
        fi
    fi
    [[ -n $words ]] && COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _paddlemix paddlemix
"""


def zsh(commands: Sequence[CommandLine]) -> str:
    """The script for zsh, which may lie in ``fpath`` or be sourced."""
    names = " ".join(_described(command.name, command.help) for command in commands)
    cases = [
        f"    {_patterns(command, option)}) compadd -- {shlex.join(option.values)}; return ;;"
        for command, option in _with_values(commands)
    ]
    files = [f"    {_patterns(command, option)}) _files; return ;;" for command, option in _with_files(commands)]
    flags = [
        f"      {command.name}) found=({' '.join(_described(f, o.help) for o in command.options for f in o.flags)}) ;;"
        for command in commands
    ]
    positional = [
        f"    {command.name}) compadd -- {shlex.join(option.values)} ;;" for command, option in _positional(commands)
    ]
    return f"""#compdef paddlemix
_paddlemix() {{
  local -a found
  if (( CURRENT == 2 )); then
    found=({names})
    _describe command found
    return
  fi
  case "$words[2] $words[CURRENT-1]" in
{_lines([*cases, *files])}
  esac
  if [[ $words[CURRENT] == -* ]]; then
    case $words[2] in
{_lines(flags)}
    esac
    _describe -o option found
    return
  fi
  case $words[2] in
{_lines(positional)}
    *) _files ;;
  esac
}}
if [[ $funcstack[1] == _paddlemix ]]; then _paddlemix "$@"; else compdef _paddlemix paddlemix; fi
"""


def fish(commands: Sequence[CommandLine]) -> str:
    """The script for fish."""
    lines = ["# fish completion of paddlemix"]
    for command in commands:
        start = f"complete -c paddlemix -n __fish_use_subcommand -f -a {command.name}"
        lines.append(f"{start} -d {_fish(command.help)}")
    for command in commands:
        start = f"complete -c paddlemix -n '__fish_seen_subcommand_from {command.name}'"
        for option in command.options:
            words = [f"-a {_fish(' '.join(option.values))}"] if option.values else []
            if not option.flags:
                lines.append(f"{start} -f {words[0]}")
                continue
            names = [f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags]
            value = ["-x" if option.values else "-r"] if option.takes_value else []
            lines.append(" ".join([start, *names, *value, *words, "-d", _fish(option.help)]))
    return "\n".join(lines) + "\n"


SHELLS: dict[str, Callable[[Sequence[CommandLine]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
"""Shell -> what writes its script."""


def _with_values(commands: Iterable[CommandLine]) -> list[tuple[CommandLine, CommandOption]]:
    return [(c, option) for c in commands for option in c.options if option.flags and option.values]


def _with_files(commands: Iterable[CommandLine]) -> list[tuple[CommandLine, CommandOption]]:
    return [
        (c, option)
        for c in commands
        for option in c.options
        if option.flags and option.takes_value and not option.values
    ]


def _positional(commands: Iterable[CommandLine]) -> list[tuple[CommandLine, CommandOption]]:
    return [(c, option) for c in commands for option in c.options if not option.flags]


def _flags(command: CommandLine) -> list[str]:
    return [flag for option in command.options for flag in option.flags]


def _patterns(command: CommandLine, option: CommandOption) -> str:
    """What the command and the word before the cursor may be."""
    return "|".join(shlex.quote(f"{command.name} {flag}") for flag in option.flags)


def _described(name: str, text: str) -> str:
    """``'name:text'``, as zsh's ``_describe`` takes it."""
    return shlex.quote(f"{name}:{text}")


def _fish(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)
