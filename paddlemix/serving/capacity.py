"""How many users a machine serves: the roofline of decoding and prefill, and the share of it that is reached.

A decode step reads the weights of the decoder once for all rows, and each row's keys and values; prefill and the image
encoder multiply. While all rows are taken, a question costs ``prefill + answer × step / rows`` seconds of a replica,
from which rate, speed and users follow by Little's law. The formulas are in docs/scale_out.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..checkpoint.dtypes import STORAGE
from ..checkpoint.layouts import WeightTable
from ..errors import ConfigurationError
from ..quantization.plan import plan_for, weight_sizes

MEMORY_SHARE = 0.9
"""Of a device's memory that weights, keys and values may take; the rest is activations and what others need."""


@dataclass(frozen=True)
class Device:
    """What a replica runs on.

    Attributes:
        memory: bytes.
        bandwidth: bytes per second that can be read from it.
        operations: per second, where many positions meet the weights.
        rows: answers that are worth computing at once, beyond which a step takes longer in proportion.
        bandwidth_share, operations_share: of them that the engine reaches.
        is_measured: whether these shares were measured on this device, or are assumed.
    """

    memory: float
    bandwidth: float
    operations: float
    rows: int
    bandwidth_share: float = 0.7
    operations_share: float = 0.4
    is_measured: bool = False


# Data sheets of the makers (dense products of 16-bit floats; the largest memory of that name). On "cpu2" int4 weights
# were measured (benchmarks/results/low_bit_cpu.md): 69 % of the bandwidth in the decode steps of the whole model, and
# 66 % of the 2.1e12 operations per second of a prefill layer in its first question about an image.
DEVICES: Mapping[str, Device] = {
    "h200": Device(141e9, 4.8e12, 989e12, 64),
    "h100": Device(80e9, 3.35e12, 989e12, 64),
    "a100": Device(80e9, 2.04e12, 312e12, 64),
    "l40s": Device(48e9, 0.864e12, 362e12, 64),
    "l4": Device(24e9, 0.3e12, 121e12, 64),
    "a10": Device(24e9, 0.6e12, 125e12, 64),
    "4090": Device(24e9, 1.008e12, 165e12, 64),
    "cpu2": Device(24e9, 38.9e9, 2.1e12, 8, 0.69, 0.66, is_measured=True),
}
"""Known devices; ``cpu2`` is two cores of an Intel Xeon with AMX."""


@dataclass(frozen=True)
class ModelSizes:
    """What a model costs.

    Attributes:
        weights: bytes of all of them.
        step_weights: bytes that a decode step reads: decoder and head.
        position: bytes of keys and values.
        position_operations: of a position of a prompt, in the decoder.
        image_operations: of an image, in its encoder.
        image_positions: of a prompt that an image takes.
    """

    weights: int
    step_weights: int
    position: int
    position_operations: float
    image_operations: float
    image_positions: int


@dataclass(frozen=True)
class Usage:
    """What a user does.

    Attributes:
        prompt: positions of a question that are not cached, images left out.
        images: new ones in a question.
        context: positions that an answer attends to on average.
        answer: tokens of an answer.
        pause: seconds between an answer's end and the user's next question.
        speed: tokens per second that each answer must have at least.
    """

    prompt: int = 64
    images: float = 1.0
    context: int = 1024
    answer: int = 128
    pause: float = 30.0
    speed: float = 5.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 1 if name in ("answer", "context", "prompt") else 0
            if not least <= value < 1e9:
                raise ConfigurationError(f"{name}: got {value}, expected a number from {least} on")


@dataclass(frozen=True)
class Capacity:
    """What a replica does when as many answers run as its rows and its memory allow.

    Attributes:
        free_bytes: of memory, for keys and values.
        rows: answers at once.
        prefill: seconds of a question's prompt and images.
        step: seconds of a decode step.
        first_speed: tokens per second of an answer that has the replica for itself.
        speed: tokens per second of an answer when all rows are taken.
        questions: per second.
        users: that ask, read and ask again.
    """

    free_bytes: float
    rows: int
    prefill: float
    step: float
    first_speed: float
    speed: float
    questions: float
    users: int


def model_sizes(
    table: WeightTable,
    config: Mapping[str, Any],
    quantization: str | None = None,
    vision_quantization: str | None = None,
    kv_cache_dtype: str = "bfloat16",
    dtype: str = "bfloat16",
) -> ModelSizes:
    """The sizes of a model.

    Args:
        table: weights of its family.
        config: checked fields of its ``config.json``.
        quantization, vision_quantization, kv_cache_dtype, dtype: as ``ModelOptions`` has them.

    Raises:
        ConfigurationError: values that cannot work.
    """
    formats = plan_for(None, quantization, vision_quantization)
    sizes = weight_sizes(table, config, dtype, formats)
    counts = weight_sizes(table, config, "float32")
    parts = {name: _part(table, name) for name in sizes}
    visual = config["visual"]
    patches = (visual["image_size"] // visual["patch_size"]) ** 2
    of_decoder = sum(count for name, count in counts.items() if parts[name] == "blocks") / STORAGE["float32"].itemsize
    of_encoder = sum(count for name, count in counts.items() if parts[name] == "visual") / STORAGE["float32"].itemsize
    attention = 4 * patches**2 * visual["width"] * visual["layers"]
    heads = config["num_attention_heads"] * config["kv_channels"]
    return ModelSizes(
        weights=sum(sizes.values()),
        step_weights=sum(size for name, size in sizes.items() if parts[name] in ("blocks", "head")),
        position=2 * config["num_hidden_layers"] * heads * STORAGE[kv_cache_dtype].itemsize,
        position_operations=2.0 * of_decoder,
        image_operations=2.0 * patches * of_encoder + attention,
        image_positions=visual["n_queries"] + 2,
    )


def _part(table: WeightTable, name: str) -> str | None:
    found = table.find_rule(name)
    return None if found is None else found[0].part


def capacity(
    model: ModelSizes, device: Device, usage: Usage, devices: int = 1, max_rows: int | None = None
) -> Capacity:
    """What a replica serves.

    Args:
        model: its sizes.
        device: that it runs on.
        usage: what each user does.
        devices: that share a replica; their memory, bandwidth and operations add up.
        max_rows: answers at once; ``None``: as the device does best.

    Raises:
        ConfigurationError: the model does not fit, or no answer is fast enough.
    """
    memory = device.memory * devices * MEMORY_SHARE - model.weights
    row_bytes = (usage.context + usage.answer) * model.position
    if memory < row_bytes:
        needed = (model.weights + row_bytes) / MEMORY_SHARE / devices
        raise ConfigurationError(
            f"the model with one answer needs {needed / 1e9:.1f} GB of each device, which has "
            f"{device.memory / 1e9:.0f}; use low-bit weights, or more devices for each replica"
        )
    bandwidth = device.bandwidth * device.bandwidth_share * devices
    operations = device.operations * device.operations_share * devices
    positions = usage.prompt + usage.images * model.image_positions
    work = positions * model.position_operations + usage.images * model.image_operations
    prefill = max(work / operations, model.step_weights / bandwidth)

    def step(rows: int) -> float:
        return (model.step_weights + rows * usage.context * model.position) / bandwidth

    def speed(rows: int) -> float:
        # all rows wait while the prompts of the others are computed, one for each answer that ends
        return usage.answer / (rows * prefill + usage.answer * step(rows))

    most = min(int(memory // row_bytes), max_rows or device.rows)
    rows = next((rows for rows in range(most, 0, -1) if speed(rows) >= usage.speed), 0)
    if rows == 0:
        raise ConfigurationError(
            f"one answer alone has {speed(1):.1f} tokens per second, fewer than the {usage.speed:g} that are wanted; "
            "use low-bit weights, a faster device, or more of them for each replica"
        )
    questions = 1 / (prefill + usage.answer * step(rows) / rows)
    users = int(rows + questions * usage.pause)
    return Capacity(memory, rows, prefill, step(rows), 1 / step(1), speed(rows), questions, users)
