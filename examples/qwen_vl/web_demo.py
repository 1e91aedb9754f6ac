"""A web page to talk with Qwen-VL about images: ``paddlemix serve`` with the options of the original's demo.

    python examples/qwen_vl/web_demo.py --inbrowser
    python examples/qwen_vl/web_demo.py -c qwen-vl/qwen-vl-chat-7b --server-port 8000

It needs the extra `serve`: pip install -e '.[cpu,serve]' in the checkout. Other options are those of `paddlemix serve`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import _checkout  # noqa: F401

from paddlemix.cli.commands import serve
from paddlemix.cli.program import Parser, run
from paddlemix.errors import ConfigurationError
from paddlemix.zoo import DEFAULT_MODEL


def parser() -> argparse.ArgumentParser:
    """The original's options."""
    result = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    result.add_argument(
        "-c", "--checkpoint-path", default=DEFAULT_MODEL, metavar="NAME_OR_DIR", help="the model (default: %(default)s)"
    )
    result.add_argument("--cpu-only", action="store_true", help="run on the CPU, also where there is a GPU")
    result.add_argument("--inbrowser", action="store_true", help="open the page in the browser")
    result.add_argument("--server-port", type=int, default=8000, metavar="N", help="port (default: %(default)s)")
    result.add_argument(
        "--server-name", default="127.0.0.1", metavar="HOST", help="address to listen on (default: %(default)s)"
    )
    result.add_argument("--share", action="store_true", help="refused, with the reason")
    return result


def serve_arguments(arguments: Sequence[str] | None) -> list[str]:
    """The arguments of ``paddlemix serve`` that mean the same.

    Raises:
        ConfigurationError: ``--share``.
    """
    options, others = parser().parse_known_args(arguments)
    if options.share:
        raise ConfigurationError(
            "share: a public link would pass questions and images through the server of somebody else; to be reached "
            "from elsewhere use --server-name 0.0.0.0 with a key in PADDLEMIX_API_KEY, or a tunnel of your own (ssh -L)"
        )
    result = ["--model_name_or_path", options.checkpoint_path, "--host", options.server_name]
    result += ["--port", str(options.server_port)]
    result += ["--device", "cpu"] if options.cpu_only else []
    result += ["--open"] if options.inbrowser else []
    return result + others


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return serve.main(serve_arguments(arguments))


if __name__ == "__main__":
    run(main)
