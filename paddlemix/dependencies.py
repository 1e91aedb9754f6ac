"""Optional packages: imported where a feature needs them, with an error that says what to install."""

from __future__ import annotations

import importlib
from types import ModuleType

from paddlemix.errors import MissingDependencyError

# How to get a package whose name on the index differs from its import name, or that comes with an extra.
_INSTALL = {
    "paddle": "pip install 'paddlemix[cpu]', or the paddlepaddle-gpu 3.x wheel for your CUDA version",
    "paddlenlp": "pip install paddlenlp==3.0.0b4 with the pins of constraints.txt",
    "PIL": "pip install pillow",
    "dashscope": "pip install 'paddlemix[test]'",
}


def require(package: str, feature: str) -> ModuleType:
    """Import ``package`` (its import name) for ``feature`` (words for the error, e.g. ``"drawing boxes"``).

    Returns the module. Raises :class:`MissingDependencyError` when the package is absent, and also when it is there but
    fails to import because of something it needs itself; the message tells the two apart.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise _broken(package, feature, error) from error
        install = _INSTALL.get(package, f"pip install {package}")
        raise MissingDependencyError(
            f"{feature} needs the package {package!r}, which is not installed; to install: {install}", name=package
        ) from error
    except ImportError as error:
        raise _broken(package, feature, error) from error


def _broken(package: str, feature: str, error: ImportError) -> MissingDependencyError:
    reason = " ".join(str(error).split())
    return MissingDependencyError(
        f"{feature} needs the package {package!r}, which is installed but does not import ({reason}); "
        "install the versions of constraints.txt: pip install -c constraints.txt -e '.[cpu]'",
        name=package,
    )
