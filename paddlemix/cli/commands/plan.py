"""Estimate how many users a number of GPUs serves, or how many GPUs a number of users needs.

    %(prog)s --gpus 4 --gpu h100                       users of four, with the published model in bfloat16
    %(prog)s --users 200 --gpu l4 --quantization int8  GPUs for them
    %(prog)s --gpus 1 --gpu cpu2 --quantization int4   a replica on two cores

It computes from the roofline: bytes that a step reads, operations of a prompt. docs/scale_out.md has the formulas, and
what of it was measured. Neither Paddle nor a GPU is needed.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...checkpoint.dtypes import KV_CACHE_DTYPES
from ...errors import ConfigurationError
from ...quantization.plan import QUANTIZATIONS, VISION_QUANTIZATIONS
from .. import common as cli

if TYPE_CHECKING:
    from ...serving.capacity import Capacity, Device, ModelSizes, Usage

GB = 1e9


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    result = cli.Parser(
        prog=prog, usage="%(prog)s [options]", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked = result.add_argument_group("what is asked")
    asked.add_argument("--gpus", type=cli.positive, metavar="N", help="GPUs that there are (1)")
    asked.add_argument("--users", type=cli.positive, metavar="N", help="users that are to be served")
    asked.add_argument("--json", action="store_true", help="print the numbers as JSON")
    device = result.add_argument_group("device")
    device.add_argument("--gpu", default="h100", metavar="NAME", help="one that is known (h100); see the document")
    device.add_argument("--memory", type=float, metavar="GB", help="of a GPU that is not known")
    device.add_argument("--bandwidth", type=float, metavar="GB/S", help="of its memory")
    device.add_argument("--tflops", type=float, metavar="N", help="of its dense 16-bit products")
    device.add_argument("--bandwidth_share", type=float, metavar="X", help="of the bandwidth that is reached (0.7)")
    device.add_argument("--tflops_share", type=float, metavar="X", help="of the products that are reached (0.4)")
    device.add_argument("--max_rows", type=cli.positive, metavar="N", help="answers of a replica at once (64; CPU: 8)")
    model = result.add_argument_group("model")
    model.add_argument("--model_name_or_path", metavar="DIR", help="a model's folder (default: the published sizes)")
    model.add_argument("--quantization", choices=QUANTIZATIONS, help="format of the weights (bfloat16)")
    model.add_argument("--vision_quantization", choices=VISION_QUANTIZATIONS, help="another one for the image encoder")
    model.add_argument("--kv_cache_dtype", choices=KV_CACHE_DTYPES, default="bfloat16", help="of keys and values")
    model.add_argument("--tensor_parallel", type=cli.positive, default=1, metavar="N", help="GPUs of a replica (1)")
    user = result.add_argument_group("a user")
    user.add_argument("--prompt", type=int, metavar="N", help="tokens of a question that are not cached (64)")
    user.add_argument("--images", type=float, metavar="X", help="new images in a question (1)")
    user.add_argument("--context", type=int, metavar="N", help="positions that an answer attends to (1024)")
    user.add_argument("--answer", type=int, metavar="N", help="tokens of an answer (128)")
    user.add_argument("--pause", type=float, metavar="S", help="seconds from an answer to the next question (30)")
    user.add_argument("--speed", type=float, metavar="X", help="tokens per second that everyone gets at least (5)")
    return result


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command and return its exit status."""
    options = parser(prog).parse_args(arguments)
    from ...serving.capacity import Usage, capacity

    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(Usage)}
    usage = Usage(**{name: value for name, value in given.items() if value is not None})
    device = chosen_device(options)
    model = chosen_model(options)
    replica = capacity(model, device, usage, options.tensor_parallel, options.max_rows)
    gpus = _gpus(options, replica)
    if options.json:
        cli.output_json(
            {
                **dataclasses.asdict(replica),
                "gpus": gpus,
                "all_users": replica.users * (gpus // options.tensor_parallel),
            }
        )
        return 0
    for line in told(options, usage, device, model, replica, gpus):
        cli.output(line)
    return 0


def _gpus(options: argparse.Namespace, replica: Capacity) -> int:
    """GPUs for the users that are asked for, or those that there are.

    Raises:
        ConfigurationError: fewer GPUs than one replica has.
    """
    if options.gpus is None and options.users is not None:
        return options.tensor_parallel * math.ceil(options.users / replica.users)
    gpus = options.gpus or options.tensor_parallel
    if gpus < options.tensor_parallel:
        raise ConfigurationError(f"gpus: got {gpus}, expected at least the {options.tensor_parallel} of a replica")
    return gpus


def chosen_device(options: argparse.Namespace) -> Device:
    """The device of a command line.

    Raises:
        ConfigurationError: it is not known, and not described.
    """
    from ...serving.capacity import DEVICES, Device

    described = (options.memory, options.bandwidth, options.tflops)
    if any(value is not None for value in described):
        if any(value is None or value <= 0 for value in described):
            raise ConfigurationError("memory, bandwidth, tflops: expected all three, above 0")
        device = Device(options.memory * GB, options.bandwidth * GB, options.tflops * 1e12, 64)
    else:
        known = DEVICES.get(options.gpu.lower())
        if known is None:
            raise ConfigurationError(
                f"gpu: got {options.gpu!r}, expected one of {', '.join(DEVICES)}, or memory, bandwidth and tflops"
            )
        device = known
    shares = {"bandwidth_share": options.bandwidth_share, "operations_share": options.tflops_share}
    for name, value in shares.items():
        if value is not None and not 0 < value <= 1:
            raise ConfigurationError(f"{name}: got {value:g}, expected a number above 0, up to 1")
    return dataclasses.replace(device, **{name: value for name, value in shares.items() if value is not None})


def chosen_model(options: argparse.Namespace) -> ModelSizes:
    """The model of a command line.

    Raises:
        CheckpointError, ConfigurationError: its folder has no configuration, or one that cannot work.
    """
    from ...models.qwen_vl.config_schema import LANGUAGE, VISUAL, read_config
    from ...models.qwen_vl.weights import WEIGHTS
    from ...serving.capacity import model_sizes

    config: dict[str, Any] | None
    if options.model_name_or_path is None:
        config = {name: field.default for name, field in LANGUAGE.items()}
        config["visual"] = {name: field.default for name, field in VISUAL.items()}
    else:
        config = read_config(Path(options.model_name_or_path))
        if config is None:
            raise ConfigurationError(f"model_name_or_path: {options.model_name_or_path} has no config.json")
    return model_sizes(WEIGHTS, config, options.quantization, options.vision_quantization, options.kv_cache_dtype)


def told(
    options: argparse.Namespace, usage: Usage, device: Device, model: ModelSizes, replica: Capacity, gpus: int
) -> list[str]:
    """The estimate as lines for a person."""
    count = gpus // options.tensor_parallel
    users = count * replica.users
    basis = "measured on such a machine" if device.is_measured else "assumed; nothing has been measured on this GPU"
    lines = [
        f"weights: {model.weights / GB:.1f} GB, of which a step reads {model.step_weights / GB:.1f}",
        f"keys and values: {model.position >> 10} KiB a position, room for {replica.free_bytes / model.position:,.0f}",
        f"a replica: {replica.rows} answers at once, {replica.questions:.2f} questions a second",
        f"an answer: {replica.speed:.1f} tokens a second with all rows taken, {replica.first_speed:.1f} alone; "
        f"{1000 * replica.prefill:.0f} ms for its prompt, {1000 * replica.step:.1f} ms a step",
        f"users: {users} with {count} replica{'s' * (count > 1)} on {gpus} GPU{'s' * (gpus > 1)}, who ask "
        f"{usage.pause:g} s after an answer of {usage.answer} tokens",
        f"shares of the limits: {device.bandwidth_share:.0%} of the bandwidth, {device.operations_share:.0%} of the "
        f"operations ({basis})",
    ]
    cache_mib = math.ceil(replica.rows * (usage.context + usage.answer) * model.position / (1 << 20))
    lines.append(f"paddlemix serve --replicas {count} --max_rows {replica.rows} --cache_mib {cache_mib}")
    if options.users is not None and options.gpus is not None:
        outcome = "are served" if users >= options.users else "need more GPUs"
        lines.append(f"the {options.users} users that were asked for {outcome}")
    return lines
