"""Imports run one way: packages down the table "Layers" of docs/architecture.md, modules in no circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TABLE = re.compile(r"^\| `(?P<layer>[a-z_./]+)` \| (?P<allowed>[^|]*) \|$", re.MULTILINE)

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "paddlemix").rglob("*.py"))
}


def layer_of(module: str, layers: list[str]) -> str:
    """The layer that a module of the package belongs to: the longest path of the table that it lies under."""
    path = module.removeprefix("paddlemix").removeprefix(".").replace(".", "/")
    found = [layer for layer in layers if path == layer or path.startswith(f"{layer}/")]
    assert path == "" or found, f"{module}: stands in no layer of docs/architecture.md"
    return max(found, key=len, default="paddlemix")


def read_table() -> dict[str, list[str]]:
    """Layer -> the layers that it may import, both from the bottom up."""
    section = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("\n## Layers\n")[1]
    section = section.split("\n## ")[0]
    table: dict[str, list[str]] = {}
    for row in TABLE.finditer(section):
        named = re.findall(r"`([^`]+)`", row["allowed"])
        is_rest = row["allowed"].startswith("all above")
        table[row["layer"]] = [layer for layer in table if layer not in named] if is_rest else named
    return table


@cache
def parsed(module: str) -> ast.Module:
    """The syntax tree of a module; not to be changed."""
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imports(module: str) -> Iterator[str]:
    """Modules of this package that one imports: at its top, in functions, for types, and lazily by name."""
    tree = parsed(module)
    yield from _statements(tree, module)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in MODULES:
            yield node.value  # a public name's home, imported on first use


def _statements(tree: ast.Module, module: str) -> Iterator[str]:
    package = module.split(".") if MODULES[module].name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "paddlemix")
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            if origin.split(".")[0] == "paddlemix":
                for alias in node.names:
                    inner = f"{origin}.{alias.name}"
                    yield inner if inner in MODULES else origin


def imported_modules(module: str) -> set[str]:
    """What its import statements name, those of functions and of types too; of a package what importing it imports."""
    tree = parsed(module)
    if MODULES[module].name == "__init__.py":
        body = [node for node in tree.body if not isinstance(node, ast.If)]  # without the types of lazy public names
        tree = ast.Module(body, [])
    return {name for name in _statements(tree, module) if name != module}


def arrows() -> dict[tuple[str, str], list[str]]:
    """(importing layer, imported layer) -> the modules that import."""
    layers, found = list(read_table()), {}
    for module in MODULES:
        source = layer_of(module, layers)
        if module == "paddlemix":  # the public names
            continue
        for imported in imports(module):
            target = layer_of(imported, layers)
            short = module.removeprefix("paddlemix.")
            if target not in (source, "paddlemix"):
                found.setdefault((source, target), []).append(short)
    return found


def test_every_import_runs_down_the_table() -> None:
    table = read_table()
    against = {arrow: sorted(set(by)) for arrow, by in arrows().items() if arrow[1] not in table[arrow[0]]}
    assert against == {}


def test_the_table_has_no_circle() -> None:
    table = read_table()
    order = list(table)
    assert len(order) > 10
    upward = [(layer, other) for layer in order for other in table[layer] if other not in order[: order.index(layer)]]
    assert upward == []


def test_modules_import_each_other_in_no_circle() -> None:
    try:
        order = list(TopologicalSorter({module: imported_modules(module) for module in MODULES}).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))
    assert set(order) == set(MODULES)


#: names of Qwen-VL's weights and layers; only its own package knows them
WEIGHT_NAMES = re.compile(
    r"transformer\.(?:h|llm|visual|wte|ln_f)\b|attn_pool|resblocks|\bc_attn|\bc_proj|in_proj|lm_head\.|\bwte\b|\bmlp\.w[12]\b"
)
NEUTRAL_MODULES = [name for name in MODULES if not name.startswith("paddlemix.models.qwen_vl")]


@cache
def code_without_docstrings(module: str) -> str:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[0].value.value = ""
    return ast.unparse(tree)


def test_only_the_package_of_a_family_names_its_weights() -> None:
    found = {name: sorted(set(WEIGHT_NAMES.findall(code_without_docstrings(name)))) for name in NEUTRAL_MODULES}
    assert {name: names for name, names in found.items() if names} == {}


#: what Paddle and its classes have for themselves
PRIVATE_PADDLE = re.compile(
    r"_C_ops|_share_buffer_to|_is_initialized|_clear_data|_register_backward_hook|_create_accumulators|\._accumulators"
    r"|_master_weights|_current_expected_place|create_or_get_global_tcp_store|paddle\.base|framework\.core|paddle\.pir"
)


def test_one_module_uses_what_paddle_keeps_private() -> None:
    found = {name: sorted(set(PRIVATE_PADDLE.findall(code_without_docstrings(name)))) for name in MODULES}
    assert found.pop("paddlemix.utils.paddle_internals")
    assert {name: used for name, used in found.items() if used} == {}
