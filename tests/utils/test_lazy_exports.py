"""Packages that import their names on first use offer what they list."""

from __future__ import annotations

import importlib

import pytest

PACKAGES = ("paddlemix", "paddlemix.checkpoint", "paddlemix.models.qwen_vl", "paddlemix.chat")
NAMES = [
    (package, name)
    for package in PACKAGES
    for name in importlib.import_module(package).__all__
    if name != "__version__"
]


@pytest.mark.parametrize("package, name", NAMES)
def test_listed_names_resolve(package, name):
    module = importlib.import_module(package)
    assert getattr(module, name).__name__.endswith(name)
    assert name in dir(module)


@pytest.mark.parametrize("package", PACKAGES)
def test_unknown_names_are_attribute_errors(package):
    with pytest.raises(AttributeError, match="Nonsense"):
        _ = importlib.import_module(package).Nonsense
