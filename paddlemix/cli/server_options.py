"""The options of ``paddlemix serve`` and of what it runs with replicas, and what they make."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from ..options import IMAGES, MODEL, ModelOptions
from ..utils.files import read_text
from ..zoo import DEFAULT_MODEL
from . import common as cli

if TYPE_CHECKING:
    from ..engine.config import EngineConfig
    from ..serving.settings import Limits, ServerSettings

KEY_VARIABLE = "PADDLEMIX_API_KEY"
MIB = 1 << 20


def server_parser(prog: str | None = None, description: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    result = cli.Parser(
        prog=prog,
        usage="%(prog)s [options]",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_server(result.add_argument_group("server"))
    _add_access(result.add_argument_group("access"))
    _add_limits(result.add_argument_group("limits", "Requests beyond them are refused before the model works."))
    engine = result.add_argument_group("engine")
    engine.add_argument("--max_rows", type=cli.positive, default=8, metavar="N", help="answers computed at once (8)")
    engine.add_argument(
        "--chunk_size", type=cli.positive, default=64, metavar="N", help="positions of a prompt computed at once (64)"
    )
    engine.add_argument(
        "--cache_mib", type=cli.positive, default=1024, metavar="N", help="memory for keys and values in MiB (1024)"
    )
    _add_replicas(result.add_argument_group("replicas", "Engines behind one address; docs/scale_out.md."))
    cli.add_options(result, MODEL, IMAGES)
    return result


def _add_server(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine)")
    group.add_argument("--port", type=int, default=8000, metavar="N", help="port (default: %(default)s); 0: a free one")
    group.add_argument("--open", action="store_true", help="open the web page once answers can be had")
    group.add_argument("--served_model_name", metavar="NAME", help="what clients call the model (default: its name)")
    group.add_argument("--drain_seconds", type=float, default=30.0, metavar="S", help="for running answers at the end")
    group.add_argument("--ssl_certfile", metavar="FILE", help="certificate for https")
    group.add_argument("--ssl_keyfile", metavar="FILE", help="its key")


def _add_access(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--api_key_file",
        metavar="FILE",
        help=f"keys, one in a line, one of which a request must have; {KEY_VARIABLE} in the environment is one, too",
    )
    group.add_argument("--allow_no_key", action="store_true", help="be reached from elsewhere without a key")
    group.add_argument("--allowed_host", action="append", default=[], metavar="NAME", help="a name of this server")
    group.add_argument(
        "--allowed_origin", action="append", default=[], metavar="URL", help="of web pages that may call"
    )
    group.add_argument(
        "--allowed_media_domain",
        action="append",
        default=[],
        metavar="HOST",
        help="host from which images given as URLs are fetched; .example.org: its subdomains (default: none)",
    )
    group.add_argument("--trusted_tags", action="store_true", help="read <ref>, <box>, <quad> in users' texts as tags")


def _add_limits(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--max_queue", type=cli.positive, metavar="N", help="requests that wait or run (64)")
    group.add_argument("--max_images", type=cli.positive, metavar="N", help="images of a request (16)")
    group.add_argument("--max_body_mib", type=cli.positive, metavar="N", help="MiB of a request (48)")
    group.add_argument("--request_seconds", type=float, metavar="S", help="from a request to its answer's end (600)")


def _add_replicas(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--replicas", type=cli.positive, metavar="N", help="engines, each with the whole model")
    group.add_argument("--replica_gpus", type=int, metavar="N", help="GPUs of a replica (those that share the model)")
    group.add_argument(
        "--replica_cpus", type=cli.positive, metavar="N", help="processors of a replica (its share; with GPUs 1)"
    )
    group.add_argument("--gateways", type=cli.positive, default=1, metavar="N", help="processes in front of them (1)")
    group.add_argument("--config", metavar="FILE", help="YAML with these options, and several models under `models`")
    group.add_argument(
        "--ray_address", metavar="ADDRESS", help="join this Ray cluster; auto: the one that this machine belongs to"
    )


def model_options(options: argparse.Namespace) -> ModelOptions:
    """The model of a command line. Raises ConfigurationError for values that cannot work."""
    return ModelOptions(**cli.given_options(options, MODEL, IMAGES))


def engine_config(options: argparse.Namespace) -> EngineConfig:
    """The sizes of a command line's engine."""
    from ..engine.config import EngineConfig

    return EngineConfig(options.cache_mib * MIB, max_rows=options.max_rows, chunk_size=options.chunk_size)


def server_settings(options: argparse.Namespace, environment: Mapping[str, str]) -> ServerSettings:
    """The settings of a command line.

    Raises:
        ConfigurationError: a value that cannot work, a file of keys that cannot be read.
    """
    from ..serving.settings import ServerSettings

    if not 0 <= options.port <= 65535:
        raise ConfigurationError(f"port: got {options.port}, expected 0 to 65535")
    if (options.ssl_certfile is None) != (options.ssl_keyfile is None):
        raise ConfigurationError("ssl_certfile, ssl_keyfile: expected both or neither")
    model = DEFAULT_MODEL if options.model is None else options.model
    name = options.served_model_name or (model if model == DEFAULT_MODEL else Path(model).name)
    return ServerSettings(
        model_name=name,
        host=options.host,
        port=options.port,
        api_keys=_keys(options.api_key_file, environment.get(KEY_VARIABLE)),
        allow_no_key=options.allow_no_key,
        allowed_hosts=tuple(host.lower() for host in options.allowed_host),
        allowed_origins=tuple(options.allowed_origin),
        allowed_media_domains=tuple(host.lower() for host in options.allowed_media_domain),
        trusted_tags=options.trusted_tags,
        drain_seconds=options.drain_seconds,
        limits=_limits(options),
    )


def _limits(options: argparse.Namespace) -> Limits:
    from ..serving.settings import Limits

    given: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("max_queue", "max_images", "request_seconds")
        if getattr(options, name) is not None
    }
    if options.max_body_mib is not None:
        given["max_body_bytes"] = options.max_body_mib * MIB
    return dataclasses.replace(Limits(), **given)


def _keys(file: str | None, variable: str | None) -> tuple[str, ...]:
    keys = [variable] if variable else []
    if file is not None:
        lines = (line.strip() for line in read_text(file, error=ConfigurationError).splitlines())
        keys += [line for line in lines if line and not line.startswith("#")]
        if not keys:
            raise ConfigurationError(f"api_key_file: {file} has no key")
    return tuple(dict.fromkeys(keys))
