"""Appflow: builds the tasks of an application and calls one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..chat.stream import TextStream
from ..errors import ConfigurationError
from ..utils.display import quoted, shorten
from .registry import App, find, known_apps, nearest
from .task import AppTask


class Appflow:
    """An application by its name.

    Args:
        app: name of the application; :meth:`apps` lists them.
        models: a name or directory, or a list with one for each task; by default the bundled model.
        mode: ``None`` or ``"dynamic"``; models are not exported, so ``"static"`` is refused.
        device_id: number of the GPU, -1 for the CPU. Without any GPU the default 0 stands for the CPU.
        from_hf_hub: take ``models`` as names on the Hugging Face hub.
        **options: options of the tasks; ``help()`` lists them, an unknown one is refused.

    Raises:
        ConfigurationError, ModelNotFoundError, CheckpointError, NotEnoughMemoryError.

    Calling it with the inputs of the application as keyword arguments gives a dict of results. With ``stream=True`` it
    gives a :class:`TextStream` instead, whose text comes from the last task. Threads may share one object: their calls
    wait for each other.
    """

    def __init__(
        self,
        app: str,
        models: str | Sequence[str] | None = None,
        mode: str | None = None,
        device_id: int = 0,
        from_hf_hub: bool = False,
        **options: Any,
    ) -> None:
        self.app: App = find(app)
        if mode not in (None, "dynamic"):
            raise ConfigurationError(
                f"mode: got {mode!r}, expected None or 'dynamic'; exported models are not supported"
            )
        if not isinstance(from_hf_hub, bool):
            raise ConfigurationError(f"from_hf_hub: got {from_hf_hub!r}, expected True or False")
        names = _one_model_per_task(self.app, models)
        classes = [spec.load() for spec in self.app.tasks]
        _refuse_unknown("option", options, {name for task in classes for name in task.options}, self.app)
        device = _device(device_id)
        self.chain: list[AppTask] = [
            task(
                name, device=device, from_hf_hub=from_hf_hub, **{k: v for k, v in options.items() if k in task.options}
            )
            for task, name in zip(classes, names)
        ]

    def __call__(self, *, stream: bool = False, **inputs: Any) -> dict[str, Any] | TextStream[dict[str, Any]]:
        """Run all tasks; ``help()`` lists the inputs. Raises what the tasks raise, and for unknown inputs."""
        _refuse_unknown("input", inputs, {name for task in self.chain for name in task.inputs}, self.app)
        *first, last = self.chain
        for task in first:
            inputs = task(inputs)
        return TextStream(last.stream(inputs)) if stream else last(inputs)

    def reset(self) -> None:
        """Forget earlier turns."""
        for task in self.chain:
            task.reset()

    def task_path(self, index: int = 0) -> str:
        """The directory with the model of the first task, or of the task at ``index``."""
        return str(self.chain[index].directory)

    def help(self) -> None:
        """Print what this application takes and gives."""
        print(describe(self.app))

    @staticmethod
    def apps() -> dict[str, list[str]]:
        """The known applications: name -> names of models to choose from (the default one first)."""
        return {name: _models(app) for name, app in sorted(known_apps().items())}

    @staticmethod
    def tasks() -> list[str]:
        """The names of the known applications."""
        return sorted(known_apps())


def describe(app: App) -> str:
    """The help text of an application. Imports its tasks."""
    lines = [f"{app.name}: {app.description}", f"models: {', '.join(_models(app))}, or a directory"]
    for spec in app.tasks:
        task = spec.load()
        for title, table in (("options", task.options), ("inputs", task.inputs), ("results", task.outputs)):
            lines += ["", f"{title} of {task.__name__}:"]
            lines += [f"  {name:<20} {text}" for name, text in table.items()]
    lines += ["", "stream=True in a call gives the text piece by piece; reset() forgets earlier turns."]
    return "\n".join(lines)


def _models(app: App) -> list[str]:
    names = [name for spec in app.tasks for name in (spec.default_model, *spec.models)]
    return list(dict.fromkeys(names))


def _one_model_per_task(app: App, models: str | Sequence[str] | None) -> list[str]:
    if models is None:
        return [spec.default_model for spec in app.tasks]
    names = [models] if isinstance(models, str) or not isinstance(models, Sequence) else list(models)
    if len(names) != len(app.tasks):
        raise ConfigurationError(
            f"models: got {len(names)} ({shorten(str(names), 160)}), expected {len(app.tasks)} for app {app.name!r}; "
            f"known: {', '.join(_models(app))}, or a directory"
        )
    return names


def _refuse_unknown(kind: str, given: dict[str, Any], known: set[str], app: App) -> None:
    for name in given:
        if name not in known:
            raise ConfigurationError(
                f"{kind} {quoted(name)} is unknown to app {app.name!r}{nearest(name, known)}; "
                f"known: {', '.join(sorted(known))}"
            )


def _device(device_id: int) -> str:
    """``cpu`` or ``gpu:N``. Imports Paddle."""
    from ..utils.device import resolve_device

    if not isinstance(device_id, int) or isinstance(device_id, bool) or device_id < -1:
        raise ConfigurationError(f"device_id: got {device_id!r}, expected the number of a GPU, or -1 for the CPU")
    wanted = {-1: "cpu", 0: None}.get(device_id, f"gpu:{device_id}")
    return resolve_device(wanted)
