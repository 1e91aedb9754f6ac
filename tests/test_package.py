"""The package as a whole: cheap import, public names, data files, version, settings that must agree with each other."""

from __future__ import annotations

import importlib
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import paddlemix

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "paddlemix"
HEAVY = ["paddle", "paddlenlp", "numpy", "PIL", "tiktoken", "safetensors", "transformers", "matplotlib"]


@pytest.fixture(scope="module")
def packaging() -> dict:
    """The names defined in setup.py, without running its setup()."""
    return runpy.run_path(str(ROOT / "setup.py"), run_name="setup_of_paddlemix")


def loaded_heavy_modules(statement: str) -> list[str]:
    """Which of HEAVY are in sys.modules after ``statement`` in a fresh interpreter."""
    program = f"import sys\n{statement}\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    "statement",
    [
        "import paddlemix",
        "import paddlemix; paddlemix.__version__; dir(paddlemix)",
        "import paddlemix.errors, paddlemix.utils.dependencies",
    ],
)
def test_importing_the_package_loads_nothing_heavy(statement):
    assert loaded_heavy_modules(statement) == []


@pytest.mark.parametrize("name", ["appflow", "chat", "checkpoint", "finetune", "media", "models.qwen_vl", "zoo"])
def test_importing_a_subpackage_does_not_load_paddle(name):
    assert not {"paddle", "paddlenlp"} & set(loaded_heavy_modules(f"import paddlemix.{name}"))


@pytest.mark.parametrize("name", sorted(set(paddlemix.__all__) - {"__version__"}))
def test_public_name_resolves_and_is_kept(name):
    value = getattr(paddlemix, name)
    assert value.__name__ == name
    assert vars(paddlemix)[name] is value


def test_unknown_name_is_an_attribute_error_that_lists_the_public_names():
    with pytest.raises(AttributeError, match="'Nonsense'.*QWenLMHeadModel"):
        _ = paddlemix.Nonsense


def test_dir_lists_the_public_names():
    assert set(paddlemix.__all__) <= set(dir(paddlemix))


def test_version_stands_in_one_place_and_in_the_changelog(packaging):
    assert packaging["read_version"]() == paddlemix.__version__
    newest = re.search(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest.group(1) == paddlemix.__version__


def test_every_data_file_of_the_package_is_packaged(packaging):
    packaged = {path for pattern in packaging["PACKAGE_DATA"] for path in PACKAGE.glob(pattern)}
    data = {path for path in versioned_files() if path.suffix != ".py"}
    assert sorted(data - packaged) == []


def test_the_command_is_a_function_that_exists_and_the_package_is_typed():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    module, function = re.search(r'"paddlemix = ([\w.]+):(\w+)"', setup).groups()
    assert callable(getattr(importlib.import_module(module), function))
    assert (PACKAGE / "py.typed").is_file()


def test_every_folder_with_code_is_a_package(packaging):
    folders = {path.parent for path in versioned_files() if path.suffix == ".py"}
    assert sorted(folder for folder in folders if not (folder / "__init__.py").exists()) == []
    found = packaging["find_packages"](str(ROOT), include=["paddlemix", "paddlemix.*"])
    assert {folder.relative_to(ROOT).as_posix().replace("/", ".") for folder in folders} <= set(found)


def test_constraints_pin_every_direct_requirement(packaging):
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, version = line.split(";")[0].strip().split("==")
            pinned[normalized(name)] = version
    extras = packaging["EXTRAS_REQUIRE"]
    direct = packaging["INSTALL_REQUIRES"] + extras["cpu"] + extras["test"] + extras["dev"]
    names = {normalized(re.match(r"[A-Za-z0-9._-]+", requirement).group()) for requirement in direct}
    assert sorted(names - set(pinned)) == []
    assert pinned["paddlenlp"] == "3.0.0b4"


def test_makefile_names_the_python_range_of_setup(packaging):
    setup_text = (ROOT / "setup.py").read_text(encoding="utf-8")
    low, high = re.search(r'python_requires=">=3\.(\d+),<3\.(\d+)"', setup_text).groups()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"(3, {low}) <= sys.version_info[:2] <= (3, {int(high) - 1})" in makefile


def versioned_files() -> list[Path]:
    """Files of the package that are under version control, or all of them where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", "paddlemix"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode == 0 and listed.stdout:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        paths = [path for path in PACKAGE.rglob("*") if path.suffix != ".pyc"]
    return [path for path in paths if path.is_file()]


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_importing_paddle_after_this_package_shows_no_warning_of_its_own():
    done = subprocess.run(
        [sys.executable, "-c", "import paddlemix\nimport paddle"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "ccache" not in done.stderr and "UserWarning" not in done.stderr
