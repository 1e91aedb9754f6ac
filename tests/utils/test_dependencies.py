from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from paddlemix.errors import MissingDependencyError
from paddlemix.utils.dependencies import import_own, require

ROOT = Path(__file__).resolve().parents[2]


def test_a_present_package_is_returned():
    assert require("json", "this test") is json


def test_an_absent_package_says_which_feature_and_what_to_install():
    with pytest.raises(MissingDependencyError, match="drawing needs .*'no_such_package'.*pip install no_such"):
        require("no_such_package", "drawing")


def test_the_error_is_an_import_error_that_names_the_package():
    with pytest.raises(ImportError) as caught:
        require("no_such_package", "drawing")
    assert caught.value.name == "no_such_package"


@pytest.mark.parametrize("body", ["import what_it_needs_itself", "from json import nothing_like_that"])
def test_a_package_that_is_there_but_does_not_import_is_told_apart(tmp_path, monkeypatch, body):
    (tmp_path / "broken_package.py").write_text(body, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingDependencyError, match="installed but does not import .*constraints.txt"):
        require("broken_package", "drawing")


def test_names_that_differ_on_the_index_are_translated(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependencyError, match="pip install pillow"):
        require("PIL", "reading images")


def test_a_public_name_whose_package_is_absent_says_what_to_install():
    program = "import sys; sys.modules.update(paddle=None, paddlenlp=None); from paddlemix import QWenLMHeadModel"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert re.search(r"QWenLMHeadModel needs the package 'paddle.*pip install", done.stderr.splitlines()[-1])


def test_a_missing_module_of_our_own_is_not_taken_for_a_package():
    with pytest.raises(ModuleNotFoundError, match="paddlemix.nothing"):
        import_own("paddlemix.nothing", "this test")


def test_imports_keep_the_developers_warnings_of_others_to_themselves(tmp_path, monkeypatch, recwarn):
    body = "import warnings; warnings.warn('No ccache found. Install it'); warnings.warn('mind this')"
    (tmp_path / "talkative_package.py").write_text(body, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    require("talkative_package", "this test")
    assert [str(warning.message) for warning in recwarn] == ["mind this"]
