"""What a task of an application is: a callable from dict to dict, built once and called often."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from ..errors import ConfigurationError


class AppTask:
    """Base of all tasks.

    A task takes what it needs from the dict it is given and returns a dict with its results added; what it does not
    know passes through to the next task. The three tables below are what a user hands in and gets back, each entry with
    one line about it; :class:`Appflow` refuses other names and shows the tables in ``help()``.
    """

    options: ClassVar[Mapping[str, str]] = {}
    """Keyword arguments of the constructor, beside ``model``, ``device`` and ``from_hf_hub``."""
    inputs: ClassVar[Mapping[str, str]] = {}
    """Keys that a call reads from its dict."""
    outputs: ClassVar[Mapping[str, str]] = {}
    """Keys that a call adds to it."""

    def __init__(self, model: str, *, device: str, from_hf_hub: bool, **options: Any) -> None:
        """Load what the task needs.

        Args:
            model: a directory or a name.
            device: where the model runs, ``cpu`` or ``gpu:0``.
            from_hf_hub: take the name as one of the Hugging Face hub.
            **options: values for some of :attr:`options`.
        """
        raise NotImplementedError

    @property
    def directory(self) -> Path:
        """Where the files of the model lie."""
        raise NotImplementedError

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Run the task once. The given dict is not changed."""
        raise NotImplementedError

    def stream(self, inputs: dict[str, Any]) -> Generator[str, None, dict[str, Any]]:
        """As a call, but yields text while it appears; the generator returns the dict."""
        raise ConfigurationError(f"stream: {type(self).__name__} has no text to stream; call it without stream=True")

    def reset(self) -> None:
        """Forget earlier calls. A task without a memory has nothing to do."""
