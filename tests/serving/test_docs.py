"""The examples of docs/serving.md run as they are printed, against another address."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from paddlemix.models.qwen_vl import grounding
from paddlemix.zoo import DEFAULT_MODEL
from tests.serving.harness import image_part

ROOT = Path(__file__).resolve().parents[2]
PRINTED = "http://127.0.0.1:8000"
BOXES = "<ref>a dog</ref><box>(700,470),(890,660)</box>"


def examples(name: str, language: str) -> list[str]:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", ["serving.md", "serving_cn.md"])
def test_curl(start, name):
    if shutil.which("curl") is None:
        pytest.skip("curl is not here")
    (command,) = (block for block in examples(name, "bash") if block.startswith("curl "))
    with start(model_name=DEFAULT_MODEL) as server:
        words = shlex.split(command.replace("\\\n", " ").replace(PRINTED, server.url))
        done = subprocess.run([*words, "--silent", "--noproxy", "*"], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["choices"][0]["message"]["content"] == "A red bus."


def test_python(start, monkeypatch, capsys):
    pytest.importorskip("openai")
    monkeypatch.chdir(ROOT)
    (example,) = examples("serving.md", "python")
    with start(model_name=DEFAULT_MODEL) as server:
        server.engine.answer = BOXES
        exec(compile(example.replace(PRINTED, server.url), "docs/serving.md", "exec"), {})
        assert len(server.engine.seen[0].images) == 1
    text, boxes = capsys.readouterr().out.splitlines()
    assert text == BOXES and str([list(box.corners) for box in grounding.parse(BOXES)][0]) in boxes


def test_parts_that_are_named(server):
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    (part,) = re.findall(r'\{"type": "box", [^}]*\}', text)
    part = json.loads(re.sub(r"\[x1, y1, x2, y2\]", "[1, 2, 3, 4]", part))
    assert server.chat([image_part(), part, "What is it?"]).status_code == 200


def test_every_path_is_in_the_table_of_endpoints(server):
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    table = text.split("\n## Endpoints\n")[1].split("\n## ")[0]
    paths = {path.partition("/{")[0] for path in server.http.get("/openapi.json").json()["paths"]}
    assert paths | {"/", "/openapi.json"} == set(re.findall(r"`(/[^`]*)`", table))
