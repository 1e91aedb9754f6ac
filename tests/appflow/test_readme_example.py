"""The Appflow examples of the READMEs, executed from their own text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from paddlemix.zoo import DEFAULT_MODEL_DIR

ROOT = Path(__file__).resolve().parents[2]
READMES = ("README.md", "README_cn.md")


def appflow_examples(name: str) -> list[str]:
    """The Python blocks of a README that call Appflow."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [block for block in blocks if "Appflow(" in block]


@pytest.mark.skipif(
    not any(DEFAULT_MODEL_DIR.glob("model*.safetensors")), reason="the bundled model has no weights yet"
)
@pytest.mark.parametrize("name", READMES)
def test_the_examples_of_the_readme_run_as_printed(name, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    examples = appflow_examples(name)
    assert examples, f"{name} shows no Appflow example"
    for example in examples:
        exec(compile(example, name, "exec"), {"__name__": "__main__"})
    answers = capsys.readouterr().out
    assert "<box>" in answers, "the second turn asks for a place and gets it"
