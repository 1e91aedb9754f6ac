"""Runs suites that others wrote against a server with the bundled model: ``make conformance``.

    python -m tests.serving.conformance --tools FOLDER

FOLDER has the programs of ``llm-comply``, ``apiwells`` and ``schemathesis``, and a Python with ``langchain-openai``.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paddlemix.zoo import DEFAULT_MODEL

# Skipped by the suite itself: the model has no reasoning.
EXPECTED = {"chat-reasoning-summary", "reasoning-summary", "anth-thinking-display"}
_FORMATS = {"openai-chat": [], "open-responses": [], "anthropic": ["--auth-header", "x-api-key", "--no-bearer"]}
_LANGCHAIN = """
import sys
from langchain_openai import ChatOpenAI
model = ChatOpenAI(model=sys.argv[2], base_url=sys.argv[1] + "/v1", api_key="x")
assert model.invoke("Hi").content
assert "".join(chunk.content for chunk in model.stream("Hi"))
"""


@contextmanager
def bundled_server() -> Iterator[str]:
    """A server in a process of its own; its address."""
    command = [sys.executable, "-m", "paddlemix.serving", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = iter(process.stdout or ())
            yield next(found[1] for line in lines if (found := re.search(r"on (http://\S+)/v1", line)))
        finally:
            process.terminate()


def comply(tools: Path, url: str, form: str) -> list[str]:
    """What llm-comply finds wrong with one protocol."""
    options = ["--format", form, "-u", f"{url}/v1", "-k", "x", "-m", DEFAULT_MODEL, "--json", *_FORMATS[form]]
    done = subprocess.run([tools / "llm-comply", *options], capture_output=True, text=True, check=False)
    results = json.loads(done.stdout)["results"]
    wrong = [item for item in results if item["status"] != "passed" and item["id"] not in EXPECTED]
    print(f"llm-comply {form}: {sum(item['status'] == 'passed' for item in results)} of {len(results)}")
    return [f"{form} {item['id']}: {item.get('errors')}" for item in wrong]


def program(name: str, command: list[str | Path]) -> list[str]:
    """What another program says, where it fails."""
    with tempfile.TemporaryDirectory() as folder:  # some leave files where they run
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    print(f"{name}: {'passed' if done.returncode == 0 else 'failed'}")
    return [] if done.returncode == 0 else [f"{name}:\n{done.stdout[-4000:]}{done.stderr[-1000:]}"]


def main() -> int:
    """Run all suites; the number of those that found something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", type=Path, required=True, help="folder of the suites' programs")
    parser.add_argument("--examples", type=int, default=20, help="cases of schemathesis for each operation and phase")
    options = parser.parse_args()
    options.tools = options.tools.absolute()
    wrong = []
    with bundled_server() as url:
        for form in _FORMATS:
            wrong += comply(options.tools, url, form)
        wrong += program("langchain-openai", [options.tools / "python", "-c", _LANGCHAIN, url, DEFAULT_MODEL])
        doctor = ["doctor", "--base-url", f"{url}/v1", "--anonymous", "--chat", "--model", DEFAULT_MODEL]
        wrong += program("apiwells", [options.tools / "apiwells", *doctor])
        # not every rule can be said in a schema: the model's name, tools that a choice names, the window
        phases = ["--phases", "examples,coverage,fuzzing", "--exclude-checks", "positive_data_acceptance"]
        fuzz = ["run", f"{url}/openapi.json", *phases, "--max-examples"]
        wrong += program("schemathesis", [options.tools / "schemathesis", *fuzz, str(options.examples)])
    for text in wrong:
        print(text, file=sys.stderr)
    return min(len(wrong), 100)


if __name__ == "__main__":
    sys.exit(main())
