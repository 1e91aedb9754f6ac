"""Package names that are imported on first use (PEP 562), so that importing a package costs nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Callable

from .dependencies import import_own


def lazy_exports(package: str, home: Mapping[str, str]) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` for the ``__init__`` of ``package``.

    Args:
        package: its ``__name__``.
        home: public name -> the module below the package that defines it, such as ``"models.qwen_vl.modeling"``, or
            a module of this project by its whole name.
    """

    def get(name: str) -> object:
        if name not in home:
            known = ", ".join(sorted(home))
            raise AttributeError(f"module {package!r} has no attribute {name!r}; public names: {known}")
        module = home[name] if home[name].startswith("paddlemix.") else f"{package}.{home[name]}"
        value = getattr(import_own(module, f"{package}.{name}"), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted(set(vars(sys.modules[package])) | set(home))

    return get, names
