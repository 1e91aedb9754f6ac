"""Writes the API reference, one HTML page for each module of paddlemix: ``make docs``.

python docs/build_api.py build/api
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path

from pdoc import doc, render

import paddlemix

#: Modules that import an extra's package, which need not be there.
EXTRAS = {"paddlemix.serving.replicas.deployments": "ray", "paddlemix.serving.replicas.router": "ray"}


def module_names() -> list[str]:
    """The modules of the package, without programs, private modules and those whose extra is not installed."""
    found = pkgutil.walk_packages(paddlemix.__path__, "paddlemix.")
    names = [module.name for module in found if not module.name.rpartition(".")[2].startswith("_")]
    missing = {name for name, package in EXTRAS.items() if importlib.util.find_spec(package) is None}
    return ["paddlemix", *(name for name in names if name not in missing)]


def resolve_lazy_names(name: str) -> None:
    """Import what a package exports on first use: pdoc reads only what is there."""
    module = importlib.import_module(name)
    for exported in getattr(module, "__all__", ()):
        getattr(module, exported)


def main(folder: Path) -> None:
    """Write all pages, an index and the index of the search into a folder; a module that cannot be imported raises."""
    render.configure(docformat="google", show_source=False)
    for name in module_names():
        resolve_lazy_names(name)
    modules = {name: doc.Module.from_name(name) for name in module_names()}
    for name, module in modules.items():
        page = folder / f"{name.replace('.', '/')}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(render.html_module(module, modules), encoding="utf-8")
    (folder / "index.html").write_text(render.html_index(modules), encoding="utf-8")
    (folder / "search.js").write_text(render.search_index(modules), encoding="utf-8")
    print(f"{len(modules)} pages: {folder / 'index.html'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
