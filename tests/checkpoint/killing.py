"""Ending a process at one of its changes of the file system, as seen from inside."""

from __future__ import annotations

import builtins
import io
import os
import shutil
from collections.abc import Callable

import pytest


class KilledError(BaseException):
    """The process has ended: nothing that it does from here on has an effect."""


def killing(monkeypatch: pytest.MonkeyPatch, point: int) -> None:
    """Let the process end before its change number ``point`` of the file system, and all that follow it."""
    steps = [0]

    def wrapped(function: Callable, changes: Callable[..., bool] = lambda *a, **k: True) -> Callable:
        def call(*arguments: object, **options: object) -> object:
            if changes(*arguments, **options):
                steps[0] += 1
                if steps[0] >= point:
                    raise KilledError
            return function(*arguments, **options)

        return call

    def writes(path: object, mode: str = "r", *arguments: object, **options: object) -> bool:
        return any(letter in mode for letter in "wax+")

    for name in ("replace", "rename", "unlink", "mkdir", "rmdir"):
        monkeypatch.setattr(os, name, wrapped(getattr(os, name)))
    monkeypatch.setattr(os, "fsync", wrapped(lambda handle: None))
    monkeypatch.setattr(shutil, "rmtree", wrapped(shutil.rmtree))
    opening = wrapped(builtins.open, writes)
    monkeypatch.setattr(builtins, "open", opening)
    monkeypatch.setattr(io, "open", opening)
