"""Serve a model over HTTP, by OpenAI's and Anthropic's protocols.

    %(prog)s --open                           the bundled model on http://127.0.0.1:8000, and its page in a browser
    %(prog)s --model_name_or_path qwen-vl/qwen-vl-chat-7b --quantization int4
    PADDLEMIX_API_KEY=secret %(prog)s --host 0.0.0.0
    %(prog)s --replicas 4                     four of them behind one address; --config FILE: several models, machines

It needs the extra `serve`: pip install -e '.[cpu,serve]' in the checkout. docs/serving.md has examples of requests,
docs/scale_out.md what replicas are; they need the extra `ray`.
On SIGTERM or Ctrl-C running answers are finished before it ends; a second signal ends it at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from ...utils.dependencies import require
from .. import common as cli
from .. import scale_out
from ..server_options import engine_config, model_options, server_parser, server_settings

_PACKAGES = ("fastapi", "uvicorn", "prometheus_client", "llguidance")


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    return server_parser(prog, __doc__)


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command and return its exit status."""
    options = parser(prog).parse_args(arguments)
    for package in _PACKAGES:
        require(package, "serving")
    if options.replicas is not None or options.config is not None:
        return scale_out.serve(options, sys.argv[1:] if arguments is None else arguments, os.environ)
    from ...serving.lifecycle import serve
    from ...serving.loading import EngineLoader, served_model

    settings = server_settings(options, os.environ)
    chosen = model_options(options)
    cli.model_note(options.model)
    loader = EngineLoader(chosen, engine_config(options))
    model = served_model(chosen, loader)
    serve(
        settings,
        model,
        loader.thread(),
        cli.output,
        certfile=options.ssl_certfile,
        keyfile=options.ssl_keyfile,
        open_page=options.open,
    )
    return 0
