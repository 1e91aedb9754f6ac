"""examples/qwen_vl/web_demo.py: the options of the original's demo as those of ``paddlemix serve``."""

from __future__ import annotations

import argparse

import pytest

from paddlemix.cli.commands.serve import parser
from paddlemix.zoo import DEFAULT_MODEL
from tests.examples.conftest import EXAMPLES


@pytest.fixture
def served(monkeypatch):
    """``served("--server-port 9")``: what ``paddlemix serve`` is told."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from web_demo import serve_arguments

    def options(line: str) -> argparse.Namespace:
        return parser().parse_args(serve_arguments(line.split()))

    return options


def test_the_options_of_the_original_mean_the_same(served):
    options = served("-c a/model --cpu-only --inbrowser --server-port 9 --server-name ::1 --max_rows 2")
    assert (options.model, options.device, options.open) == ("a/model", "cpu", True)
    assert (options.port, options.host, options.max_rows) == (9, "::1", 2)


def test_without_options_it_is_this_machine_alone(served):
    options = served("")
    assert (options.model, options.host, options.port) == (DEFAULT_MODEL, "127.0.0.1", 8000)
    assert options.device is None and not options.open


def test_a_public_link_is_refused_with_the_reason(run_example):
    done = run_example("web_demo.py", "--share")
    assert done.returncode == 1 and done.stderr.startswith("error: share: a public link would pass questions")
    assert "PADDLEMIX_API_KEY" in done.stderr and "Traceback" not in done.stderr
