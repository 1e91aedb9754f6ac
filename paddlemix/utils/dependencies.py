"""Optional packages: imported where a feature needs them, with an error that says what to install."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from types import ModuleType

from ..errors import MissingDependencyError
from .display import one_line

INSTALL = "pip install -e '.[cpu]' in the checkout of paddlemix"
"""How to install what paddlemix needs. It is not on the package index, where other packages go by such a name."""

# How to get a package whose name on the index differs from its import name, or that comes with an extra.
_EVALUATE = "pip install -e '.[evaluate]' in the checkout of paddlemix"
_INSTALL = {
    "paddle": f"{INSTALL}, or the paddlepaddle-gpu 3.x wheel for your CUDA version",
    "paddlenlp": INSTALL,
    "PIL": "pip install pillow",
    **dict.fromkeys(("easy_vqa", "nltk", "openpyxl", "pycocoevalcap", "rapidfuzz"), _EVALUATE),
    "ray": "pip install -e '.[cpu,serve,ray]' in the checkout of paddlemix",
    "dashscope": "pip install -e '.[test]' in the checkout of paddlemix",
}

# What Paddle and PaddleNLP tell their own developers when they are imported.
_DEVELOPERS_WARNINGS = ("No ccache found", "Setuptools is replacing distutils")


def require(package: str, feature: str) -> ModuleType:
    """Import ``package`` (its import name) for ``feature`` (words for the error, e.g. ``"drawing boxes"``).

    Returns the module. Raises :class:`MissingDependencyError` when the package is absent, and also when it is there but
    fails to import because of something it needs itself; the message tells the two apart.
    """
    try:
        return _import(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise _broken(package, feature, error) from error
        raise _absent(package, feature) from error
    except ImportError as error:
        raise _broken(package, feature, error) from error


def require_installed(package: str, feature: str) -> None:
    """Raise as :func:`require` where a package is absent, without importing it."""
    if importlib.util.find_spec(package) is None:
        raise _absent(package, feature)


def import_own(module: str, feature: str) -> ModuleType:
    """Import a module of this project, which may import optional packages, for ``feature``.

    Raises :class:`MissingDependencyError` for a package that is not installed.
    """
    try:
        return _import(module)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "paddlemix"):
            raise
        raise _absent(package, feature) from error


def ignore_import_warnings() -> None:
    """Add warning filters for what Paddle and PaddleNLP tell their own developers."""
    for message in _DEVELOPERS_WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def _import(module: str) -> ModuleType:
    with warnings.catch_warnings():
        ignore_import_warnings()
        return importlib.import_module(module)


def _absent(package: str, feature: str) -> MissingDependencyError:
    install = _INSTALL.get(package, f"pip install {package}")
    return MissingDependencyError(
        f"{feature} needs the package {package!r}, which is not installed; to install: {install}", name=package
    )


def _broken(package: str, feature: str, error: ImportError) -> MissingDependencyError:
    return MissingDependencyError(
        f"{feature} needs the package {package!r}, which is installed but does not import ({one_line(error)}); "
        f"install the versions of constraints.txt: {INSTALL}",
        name=package,
    )
