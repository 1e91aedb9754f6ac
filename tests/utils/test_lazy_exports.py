"""Packages that import their names on first use offer what they list, to programs and to type checkers alike."""

from __future__ import annotations

import ast
import importlib
from importlib.util import resolve_name
from pathlib import Path

import pytest

import paddlemix

ROOT = Path(paddlemix.__file__).parent
PACKAGES = [
    ".".join(file.parent.relative_to(ROOT.parent).parts)
    for file in sorted(ROOT.rglob("__init__.py"))
    if "= lazy_exports(" in file.read_text(encoding="utf-8")
]
NAMES = [
    (package, name)
    for package in PACKAGES
    for name in importlib.import_module(package).__all__
    if name != "__version__"
]


def test_every_lazy_package_is_found():
    assert {"paddlemix", "paddlemix.chat", "paddlemix.finetune", "paddlemix.models.qwen_vl"} <= set(PACKAGES)


@pytest.mark.parametrize("package, name", NAMES)
def test_listed_names_resolve(package, name):
    module = importlib.import_module(package)
    assert getattr(module, name).__name__.endswith(name)
    assert name in dir(module)


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_see_the_same_names(package):
    """``if TYPE_CHECKING:`` imports each name, as itself, from the module that it is loaded from."""
    module = importlib.import_module(package)
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {}
    for statement in block.body:
        source = resolve_name("." * statement.level + (statement.module or ""), package)
        for alias in statement.names:
            assert alias.asname == alias.name
            seen[alias.name] = source
    home = {
        name: source if source.startswith("paddlemix.") else f"{package}.{source}"
        for name, source in module._HOME.items()
    }
    assert seen == home
    assert set(module.__all__) - {"__version__"} == set(home)


@pytest.mark.parametrize("package", PACKAGES)
def test_unknown_names_are_attribute_errors(package):
    with pytest.raises(AttributeError, match="Nonsense"):
        _ = importlib.import_module(package).Nonsense
