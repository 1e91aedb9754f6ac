"""``paddlemix serve`` with replicas: its options, from the command line and a file, as what is deployed.

``application`` is what Ray's own tools import: ``import_path: paddlemix.cli.scale_out:application`` with the same names
under ``args``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import ConfigurationError
from ..utils.dependencies import require, require_installed
from ..utils.display import shorten
from ..utils.files import read_text
from . import common as cli
from .server_options import engine_config, model_options, server_parser, server_settings

if TYPE_CHECKING:
    from ray.serve import Application

    from ..serving.replicas.options import Plan

MODELS = "models"
_OF_THE_PROGRAM = ("config", "help", "open")
_FEATURE = "serving with replicas"


def serve(options: argparse.Namespace, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Serve with replicas until a signal comes; the exit status.

    Args:
        options: of the command line.
        arguments: it, as it was typed; what it says counts more than what the file says for all models.
        environment: where an API key may stand.
    """
    require_installed("ray", _FEATURE)

    def read() -> Plan:
        fields = {} if options.config is None else read_config(options.config)
        return plan(fields, arguments, environment)

    check_model_files(read())
    from ..serving.replicas.lifecycle import serve_replicas

    if options.config is None:
        cli.model_note(options.model)
    serve_replicas(read, cli.output, options.open)
    return 0


def application(args: dict[str, Any]) -> Application:
    """The application for Ray Serve's own tools: ``args`` are the options of ``paddlemix serve`` by name.

    Raises:
        ConfigurationError: one that is not known, or cannot work.
    """
    from ..serving.replicas import deployments

    what = plan(args, (), os.environ)
    return deployments.application(what.models, what.gateways)


def read_config(path: str) -> dict[str, Any]:
    """The options in a file of YAML.

    Raises:
        ConfigurationError: it cannot be read, or has something else.
    """
    yaml = require("yaml", "reading a file of options")
    try:
        fields = yaml.safe_load(read_text(path, error=ConfigurationError))
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigurationError(f"config: {path} is not YAML: {shorten(' '.join(str(error).split()), 200)}") from error
    if not isinstance(fields, dict):
        raise ConfigurationError(f"config: {path} has a {type(fields).__name__}, expected options by their names")
    return fields


def plan(fields: Mapping[str, Any], arguments: Sequence[str], environment: Mapping[str, str]) -> Plan:
    """What a file's options and a command line deploy.

    Args:
        fields: options by name; under ``models`` a list of those of each model, which count before all others.
        arguments: the command line, which counts before what ``fields`` say for all models.
        environment: where an API key may stand.

    Raises:
        ConfigurationError: an option that is not known, or cannot work.
    """
    from ..serving.replicas.options import ModelDeployment, Plan, check_models

    shared = arguments_of({name: value for name, value in fields.items() if name != MODELS})
    entries = fields.get(MODELS, [{}])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigurationError("models: expected a list with the options of each model")
    parsed = [_parse([*shared, *arguments, *arguments_of(entry)]) for entry in entries]
    models = tuple(
        ModelDeployment(
            server_settings(options, environment),
            model_options(options),
            engine_config(options),
            options.replicas or 1,
            options.replica_gpus,
            options.replica_cpus,
        )
        for options in parsed
    )
    check_models(models)
    first = parsed[0]
    return Plan(models, first.gateways, first.ray_address, first.ssl_certfile, first.ssl_keyfile)


def check_model_files(what: Plan) -> None:
    """Say what is wrong with the files of a model before processes are started for it.

    Raises:
        CheckpointError, ConfigurationError, ModelNotFoundError.
    """
    from ..serving.loading import EngineLoader, served_model

    if what.cluster is None:  # otherwise they are on other machines
        for model in what.models:
            served_model(model.options, EngineLoader(model.options, model.engine))


def arguments_of(fields: Mapping[str, Any]) -> list[str]:
    """Options by name as a command line has them.

    Raises:
        ConfigurationError: a name that is none, a value that no command line can have.
    """
    known = {action.dest if not action.option_strings else action.option_strings[-1].lstrip("-"): action
             for action in server_parser("paddlemix serve")._actions}  # fmt: skip
    result = []
    for name, value in fields.items():
        action = known.get(name)
        if action is None or name in _OF_THE_PROGRAM:
            raise ConfigurationError(f"{shorten(str(name), 60)}: no option that a file may have (see --help)")
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, (dict, list)):
                raise ConfigurationError(f"{name}: got a {type(each).__name__}, expected a value")
            if action.nargs == 0 and not isinstance(each, bool):
                raise ConfigurationError(f"{name}: got {each!r}, expected true or false")
            if action.nargs == 0:
                result += [f"--{name}"] * each
            elif each is not None:
                result.append(f"--{name}={str(each).lower() if isinstance(each, bool) else each}")
    return result


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    options = server_parser("paddlemix serve")

    def refuse(message: str) -> NoReturn:
        raise ConfigurationError(message)

    options.error = refuse  # type: ignore[method-assign]  # a wrong value may stand in a file: no usage, no exit
    return options.parse_args(arguments)
