"""Runs suites and clients that others wrote against a server: ``make conformance``.

    python -m tests.conformance --tools FOLDER [--node FOLDER]

FOLDER has the programs of ``llm-comply``, ``apiwells`` and ``schemathesis``, and a Python with the clients; the second
one OpenAI's package for Node. The model is the bundled one, but where a suite wants a model that uses tools.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paddlemix.engine.thread import EngineThread
from paddlemix.models.qwen_vl.processing import QwenVLProcessor
from paddlemix.zoo import DEFAULT_MODEL, DEFAULT_MODEL_DIR
from tests.conformance.tool_user import ToolUser
from tests.serving.harness import MODEL, running

HERE = Path(__file__).resolve().parent
# Skipped by the suite itself: the model has no reasoning.
SKIPPED = {"chat-reasoning-summary", "reasoning-summary", "anth-thinking-display"}
_FORMATS = {"openai-chat": [], "open-responses": [], "anthropic": ["--auth-header", "x-api-key", "--no-bearer"]}


@contextmanager
def bundled_server() -> Iterator[str]:
    """A server in a process of its own; its address. What it logs beside its requests is shown."""
    command = [sys.executable, "-m", "paddlemix.serving", "--port", "0"]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            lines = iter(process.stdout or ())
            yield next(found[1] for line in lines if (found := re.search(r"on (http://\S+)/v1", line)))
        finally:
            process.terminate()
            process.wait()
            log.seek(0)
            sys.stderr.writelines(line for line in log if not re.search(r" [A-Z]+ '/", line))


@contextmanager
def tool_using_server() -> Iterator[str]:
    """A server whose answers are a script's, which calls tools and uses what they return; its address."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it tells how it was cut off in the end
    processor = QwenVLProcessor.from_directory(DEFAULT_MODEL_DIR)
    with running(processor, thread=EngineThread(lambda: ToolUser(processor.tokenizer))) as server:
        yield server.url


def comply(tools: Path, url: str, form: str) -> list[str]:
    """What llm-comply finds wrong with one protocol."""
    options = ["--format", form, "-u", f"{url}/v1", "-k", "x", "-m", DEFAULT_MODEL, "--json", *_FORMATS[form]]
    done = subprocess.run([tools / "llm-comply", *options], capture_output=True, text=True, check=False)
    results = json.loads(done.stdout)["results"]
    skipped = [item["id"] for item in results if item["id"] in SKIPPED and item["status"] != "passed"]
    wrong = [item for item in results if item["status"] != "passed" and item["id"] not in SKIPPED]
    passed = len(results) - len(wrong) - len(skipped)
    print(f"llm-comply {form}: {passed} of {len(results)} passed, {len(skipped)} skipped {skipped}", flush=True)
    return [f"{form} {item['id']}: {item.get('errors')}" for item in wrong]


def program(name: str, command: list[str | Path], folder: Path | None = None) -> list[str]:
    """What another program says, where it fails; the last line that tells what it did is printed."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as elsewhere:  # some leave files where they run
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder or elsewhere)
    seconds = time.monotonic() - start
    print(f"{name}: {'passed' if done.returncode == 0 else 'failed'}, {seconds:.0f} s{_told(done.stdout)}", flush=True)
    return [] if done.returncode == 0 else [f"{name}:\n{done.stdout[-4000:]}{done.stderr[-3000:]}"]


def _told(output: str) -> str:
    """Of what a program writes that which says how much it did."""
    found = re.search(r"\d+ generated[^\n]*", output)
    counts = [line.strip() for line in output.splitlines() if line.endswith(("compared", "Node"))]
    told = [found[0].strip()] if found else counts
    return f" ({'; '.join(told)})" if told else ""


def doctor(tools: Path, url: str, model: str, depth: str) -> list[str | Path]:
    """The command of apiwells."""
    return [tools / "apiwells", "doctor", "--base-url", f"{url}/v1", "--anonymous", depth, "--model", model]


def main() -> int:
    """Run all suites; the number of those that found something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", type=Path, required=True, help="folder of the suites' programs")
    parser.add_argument("--node", type=Path, help="folder with node_modules")
    parser.add_argument("--examples", type=int, default=20, help="cases of schemathesis for each operation and phase")
    parser.add_argument("--seed", type=int, default=1, help="of schemathesis")
    options = parser.parse_args()
    tools = options.tools.absolute()
    wrong = []
    with bundled_server() as url:
        for form in _FORMATS:
            wrong += comply(tools, url, form)
        python = [tools / "python", "-W", "ignore"]
        wrong += program("published descriptions", [*python, HERE / "published_specs.py", url, DEFAULT_MODEL])
        wrong += program("openai, anthropic, langchain-openai", [*python, HERE / "clients.py", url, DEFAULT_MODEL])
        if options.node is not None:
            wrong += program("openai (npm)", ["node", HERE / "clients.mjs", url, DEFAULT_MODEL], options.node)
        else:
            print("openai (npm): there is no npm here")
        wrong += program("apiwells", doctor(tools, url, DEFAULT_MODEL, "--chat"))
        # not every rule can be said in a schema: the model's name, tools that a choice names, the window
        phases = ["--phases", "examples,coverage,fuzzing", "--exclude-checks", "positive_data_acceptance"]
        fuzz = ["run", f"{url}/openapi.json", *phases, "--seed", str(options.seed), "--max-examples"]
        wrong += program("schemathesis", [tools / "schemathesis", *fuzz, str(options.examples)])
    with tool_using_server() as url:
        wrong += program("apiwells --deep, with a script that uses tools", doctor(tools, url, MODEL, "--deep"))
    for text in wrong:
        print(text, file=sys.stderr)
    return min(len(wrong), 100)


if __name__ == "__main__":
    sys.exit(main())
