"""The table of applications. A task is named as ``module:Class`` and imported when an :class:`Appflow` needs it."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import ConfigurationError
from ..utils.display import quoted, shorten
from ..zoo import DEFAULT_MODEL
from .task import AppTask


@dataclass(frozen=True)
class TaskSpec:
    """One step of an application.

    Attributes:
        task: ``package.module:Class``, a subclass of :class:`AppTask`.
        models: names to offer to the user; directories work as well.
        default_model: the name that is used when the user gives none.
    """

    task: str
    models: tuple[str, ...]
    default_model: str

    def load(self) -> type[AppTask]:
        """The task's class. Imports its module."""
        module, _, name = self.task.partition(":")
        task: type[AppTask] = getattr(importlib.import_module(module), name)
        return task


@dataclass(frozen=True)
class App:
    """An application.

    Attributes:
        name: what :class:`Appflow` is asked for.
        description: one line about it.
        tasks: its steps, in the order in which they are called.
    """

    name: str
    description: str
    tasks: tuple[TaskSpec, ...]


_APPS: dict[str, App] = {}


def register(app: App) -> App:
    """Add an application to the table.

    Raises:
        ConfigurationError: its name is taken, it has no task, or a task is not written ``module:Class``.
    """
    if app.name in _APPS:
        raise ConfigurationError(f"app {app.name!r}: this name is registered already; choose another one")
    if not app.tasks:
        raise ConfigurationError(f"app {app.name!r}: got no task, expected at least one")
    for spec in app.tasks:
        module, _, name = spec.task.partition(":")
        if not module or not name:
            raise ConfigurationError(f"app {app.name!r}: got the task {spec.task!r}, expected 'package.module:Class'")
    _APPS[app.name] = app
    return app


def find(name: str) -> App:
    """The application of that name. Raises ConfigurationError, which lists the known ones."""
    if isinstance(name, str) and name in _APPS:
        return _APPS[name]
    got = quoted(name) if isinstance(name, str) else type(name).__name__
    raise ConfigurationError(f"app: got {got}, expected one of {', '.join(sorted(_APPS))}{nearest(name, _APPS)}")


def known_apps() -> dict[str, App]:
    """A copy of the table, by name."""
    return dict(_APPS)


def nearest(name: object, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for a name that is nearly one of ``known``, else an empty string."""
    close = difflib.get_close_matches(shorten(str(name), 80), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


register(
    App(
        name="image2text_generation",
        description="questions about images, answered in text and boxes, over any number of turns",
        tasks=(
            TaskSpec(
                task="paddlemix.appflow.image2text_generation:QwenVLChatTask",
                models=(DEFAULT_MODEL, "qwen-vl/qwen-vl-chat-7b", "qwen-vl/qwen-vl-7b"),
                default_model=DEFAULT_MODEL,
            ),
        ),
    )
)
