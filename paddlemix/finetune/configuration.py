"""What a fine-tuning run is told: one flat set of options, from a JSON file and from the command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from ..data.boxes import BOX_FORMATS, BoxOptions
from ..errors import ConfigurationError
from ..models.qwen_vl.image_processing import parse_color
from ..models.registry import DEFAULT_FAMILY
from ..utils.display import did_you_mean, quoted, readable_name
from ..utils.files import read_json
from ..zoo import DEFAULT_MODEL
from .options import FLAG, NAMES, TEXT, Kind, as_number, as_text, choice, integer, number, option

FULL, LORA, QLORA = "full", "lora", "qlora"


@dataclass(frozen=True)
class DataSource:
    """A file of conversations; in an epoch each of its records comes ``weight`` times, on average if not whole."""

    path: str
    weight: float = 1.0


def _sources(value: Any) -> tuple[DataSource, ...] | None:
    items = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    sources = [_source(item) for item in items]
    return tuple(sources) if sources and None not in sources else None


def _source(item: Any) -> DataSource | None:
    if isinstance(item, DataSource):
        item = {"path": item.path, "weight": item.weight}
    if isinstance(item, (str, os.PathLike)):
        item = {"path": os.fspath(item)}
    if not isinstance(item, Mapping) or "path" not in item or set(item) - {"path", "weight"}:
        return None
    path, weight = as_text(item["path"]), as_number(item.get("weight", 1.0))
    if path is None or weight is None or weight <= 0:
        return None
    return DataSource(path, weight)


DATA = Kind(
    'a file, or a list of files and of {"path": file, "weight": number above 0}',
    _sources,
    {"nargs": "+", "metavar": "FILE"},
)


def _color(value: Any) -> tuple[int, int, int] | None:
    try:
        return parse_color(value if isinstance(value, str) else ",".join(map(str, value)))
    except (ConfigurationError, TypeError):
        return None


COLOR = Kind("a color such as white or #fff8f0, or three integers 0..255", _color, {"metavar": "COLOR"})


@dataclass(frozen=True)
class FinetuneConfig:
    """All options of a fine-tuning run. Paths are relative to the current folder, those of images to their file.

    The numbers of the optimizer are those of the published recipe. After construction every value is checked and
    normalized: lists are tuples, ``data`` and ``eval_data`` hold :class:`DataSource`, and ``freeze`` is what the mode
    makes of it.

    Raises:
        ConfigurationError: a value of the wrong kind or range, or options that do not go together.
    """

    # what is trained
    data: tuple[DataSource, ...] = option(DATA, "conversations to learn from, JSON or JSON lines")
    output_dir: str = option(TEXT, "where checkpoints, logs and the result are written")
    model_name_or_path: str = option(TEXT, "the model to start from: a directory or a name", default=DEFAULT_MODEL)
    mode: str = option(
        choice(FULL, LORA, QLORA), "train the weights, adapters, or adapters on a quantized model", default=LORA
    )
    quantization: str | None = option(
        choice("int4", "int8"),
        "format of the frozen weights in mode qlora (default: as stored, else int4)",
        default=None,
    )
    dtype: str | None = option(
        choice("float32", "bfloat16"),
        "number format of the model (default: bfloat16 on a GPU, float32 on a CPU)",
        default=None,
    )
    device: str | None = option(choice("cpu", "gpu"), "where to train (default: the GPU if there is one)", default=None)
    freeze: tuple[str, ...] | None = option(
        NAMES,
        "mode full: parameters that stay as they are, as globs or presets, !GLOB for exceptions (default: freeze_vit)",
        default=None,
    )
    lora_r: int = option(integer(), "rank of the adapters", default=64)
    lora_alpha: float = option(number(above=True), "adapters count alpha / r times", default=16.0)
    lora_dropout: float = option(number(0, 1, below=True), "dropout in front of the adapters", default=0.05)
    lora_targets: tuple[str, ...] = option(NAMES, "layers that get an adapter", default=DEFAULT_FAMILY.adapter_targets)
    modules_to_save: tuple[str, ...] = option(
        NAMES, "layers trained whole beside the adapters: wte, lm_head", default=()
    )

    # data
    eval_data: tuple[DataSource, ...] | None = option(DATA, "conversations to evaluate on", default=None)
    eval_fraction: float = option(number(0, 1, below=True), "part of the data held out for evaluation", default=0.0)
    max_length: int = option(integer(2), "longest conversation, in tokens", default=2048)
    truncation: str = option(
        choice("drop_turns", "refuse"),
        "longer ones lose whole turns at the end, or are bad records",
        default="drop_turns",
    )
    bad_records: str = option(
        choice("refuse", "skip"), "what bad records do: stop the run, or be left out", default="refuse"
    )
    image_check: str = option(
        choice("decode", "header"), "check images before the first step: all of each, or its header", default="decode"
    )
    box_format: str | None = option(
        choice(*BOX_FORMATS),
        "how boxes are written (default: tags hold thousandths, ms-swift's objects say it themselves)",
        default=None,
    )
    clamp_boxes: bool = option(FLAG, "coordinates of 1000 in thousandths become 999 and are counted", default=False)
    exif_transpose: bool | None = option(
        FLAG, "turn images upright by their EXIF orientation (default: as the model's files say)", default=None
    )
    background: tuple[int, int, int] | None = option(
        COLOR, "color that transparent images are laid upon (default: their alpha channel is dropped)", default=None
    )
    max_pixels: int | None = option(
        integer(), "most pixels of an image, larger JPEGs are reduced (default: 32000000)", default=None
    )
    packing: bool = option(FLAG, "several conversations in one row, which do not see each other", default=False)
    group_by_length: bool = option(FLAG, "batches of conversations of similar length, without packing", default=False)
    dataloader_num_workers: int = option(integer(0), "processes that decode images, 0: none", default=2)

    # optimization
    per_device_train_batch_size: int = option(integer(), "rows of one forward pass on one device", default=1)
    per_device_eval_batch_size: int = option(integer(), "the same in evaluation", default=4)
    gradient_accumulation_steps: int = option(integer(), "forward passes of one step", default=1)
    num_train_epochs: float = option(number(0, 1e9, above=True), "passes over the data", default=1.0)
    max_steps: int = option(
        integer(1, -1, most=10**12), "so many steps instead of epochs, -1: epochs count", default=-1
    )
    learning_rate: float = option(number(above=True), "its highest value", default=1e-5)
    lr_scheduler_type: str = option(
        choice("cosine", "linear", "constant", "constant_with_warmup"), "how the learning rate falls", default="cosine"
    )
    warmup_ratio: float = option(number(0, 1, below=True), "part of the steps in which it rises", default=0.01)
    weight_decay: float = option(number(), "of AdamW, not for biases and norms", default=0.1)
    adam_beta1: float = option(number(0, 1, below=True), "of AdamW", default=0.9)
    adam_beta2: float = option(number(0, 1, below=True), "of AdamW", default=0.95)
    adam_epsilon: float = option(number(above=True), "of AdamW", default=1e-8)
    max_grad_norm: float = option(number(), "longer gradients are shortened to this norm, 0: never", default=1.0)
    seed: int = option(integer(0, most=2**31 - 1), "of everything random", default=1234)

    # memory and devices
    recompute: bool = option(FLAG, "compute activations again in the backward pass: less memory", default=False)
    loss_chunk_size: int | None = option(
        integer(), "positions whose logits are in memory at once (default: chosen)", default=None
    )
    sharding: str | None = option(
        choice("stage1", "stage2", "stage3"), "split optimizer, gradients, weights over the devices", default=None
    )

    # watching and saving
    logging_steps: int = option(integer(), "steps between two lines of the log", default=10)
    eval_steps: int | None = option(integer(), "steps between evaluations (default: at the end only)", default=None)
    eval_on_start: bool = option(FLAG, "evaluate before the first step as well", default=False)
    eval_samples: int = option(
        integer(0), "records that are answered in an evaluation; the first ones are drawn", default=32
    )
    save_steps: int = option(integer(), "steps between checkpoints", default=500)
    save_total_limit: int = option(integer(), "checkpoints that are kept", default=2)
    resume: bool = option(FLAG, "go on from the newest checkpoint in output_dir", default=True)
    visualdl: bool | None = option(FLAG, "write VisualDL logs (default: if it is installed)", default=None)

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None and item.metadata["optional"]:
                continue
            object.__setattr__(self, item.name, item.metadata["kind"].check(item.name, value))
        self._check_mode()
        if self.eval_data is not None and self.eval_fraction:
            raise ConfigurationError("eval_fraction: got it beside eval_data; give one of them")
        for name in ("eval_steps", "eval_on_start"):
            if getattr(self, name) and not self.has_evaluation:
                raise ConfigurationError(f"{name}: there is nothing to evaluate on; give eval_data or eval_fraction")
        for source in self.eval_data or ():
            if source.weight != 1:
                raise ConfigurationError(
                    f"eval_data: got weight {source.weight:g} for {source.path}, expected none: each record counts once"
                )
        if self.packing and self.group_by_length:
            raise ConfigurationError("group_by_length: got it beside packing, which fills the rows; give one of them")

    def _check_mode(self) -> None:
        if self.mode == FULL:
            for item in fields(self):
                is_adapter_option = item.name.startswith("lora_") or item.name == "modules_to_save"
                if is_adapter_option and getattr(self, item.name) != item.default:
                    raise ConfigurationError(f"{item.name}: there are no adapters in mode full; use mode lora or qlora")
            if self.freeze is None:
                object.__setattr__(self, "freeze", ("freeze_vit",))
        elif self.freeze:
            raise ConfigurationError(
                f"freeze: everything but adapters and modules_to_save is frozen in mode {self.mode}; leave it out"
            )
        else:
            object.__setattr__(self, "freeze", ())
            if not self.lora_targets and not self.modules_to_save:
                raise ConfigurationError(
                    "lora_targets: got none, and no modules_to_save either; nothing would be trained"
                )
        if self.mode != QLORA and self.quantization is not None:
            raise ConfigurationError(f"quantization: only mode qlora trains on quantized weights, got mode {self.mode}")

    @property
    def has_evaluation(self) -> bool:
        return self.eval_data is not None or self.eval_fraction > 0

    @property
    def boxes(self) -> BoxOptions:
        """How the boxes of the data are written."""
        return BoxOptions(self.box_format, self.clamp_boxes)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FinetuneConfig:
        """Raises ConfigurationError for unknown keys, naming the nearest known one, and as the class does."""
        known = [item.name for item in fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigurationError(f"{readable_name(name)}: unknown option{_suggestion(name, known)}")
        for name in ("data", "output_dir"):
            if name not in values:
                raise ConfigurationError(f"{name}: missing; give it in the config file or as --{name}")
        return cls(**values)

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str] | None, overrides: Mapping[str, Any] | None = None
    ) -> FinetuneConfig:
        """The options of a JSON file (None: no file), those of ``overrides`` in their place."""
        return cls.from_dict({**({} if path is None else read_config(Path(path))), **(overrides or {})})

    def to_dict(self) -> dict[str, Any]:
        """All options as JSON has them; :meth:`from_dict` reads it."""
        return {item.name: _plain(getattr(self, item.name)) for item in fields(self)}

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The options that have a default, with it, as JSON has them."""
        return {item.name: _plain(item.default) for item in fields(cls) if item.default is not MISSING}


def _plain(value: Any) -> Any:
    """A value of an option as JSON has it."""
    if isinstance(value, DataSource):
        return {"path": value.path, "weight": value.weight}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _suggestion(name: str, known: Sequence[str]) -> str:
    return did_you_mean(name, known) or f"; known: {', '.join(known)}"


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object in a config file. Raises ConfigurationError, also for a key that stands there twice."""
    content = read_json(path, error=ConfigurationError, unique_names=True)
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: got {type(content).__name__}, expected a JSON object of options")
    return content


def add_options(parser: argparse.ArgumentParser) -> None:
    """``--name`` for every option of :class:`FinetuneConfig`; those that may be absent also take ``none``."""
    group = parser.add_argument_group("options, in place of those in the config file")
    for item in fields(FinetuneConfig):
        keywords = dict(item.metadata["kind"].argument)
        if item.metadata["optional"] and keywords.get("nargs") in (None, "?"):
            keywords["type"] = _or_none(keywords.get("type", str))
        text = item.metadata["help"].replace("%", "%%")
        if item.default is not MISSING and item.default is not None:
            shown = " ".join(item.default) if isinstance(item.default, tuple) else item.default
            text += f" (default: {shown if shown != '' else 'none'})"
        group.add_argument(f"--{item.name}", default=argparse.SUPPRESS, help=text, **keywords)


def given_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that :func:`add_options` found on the command line, for :meth:`FinetuneConfig.from_file`."""
    found = {item.name: getattr(arguments, item.name, MISSING) for item in fields(FinetuneConfig)}
    optional = {item.name for item in fields(FinetuneConfig) if item.metadata["optional"]}
    return {
        name: None if name in optional and value == ["none"] else value
        for name, value in found.items()
        if value is not MISSING
    }


def unknown_argument(argument: str) -> str:
    """What to say of a word that a parser with :func:`add_options` does not know; it names the nearest option."""
    if not argument.startswith("--"):
        return f"{quoted(argument)}: unexpected on the command line; options begin with --"
    name = argument[2:].partition("=")[0]
    return f"--{readable_name(name)}: unknown option{_suggestion(name, [item.name for item in fields(FinetuneConfig)])}"


def _or_none(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        return None if text.lower() == "none" else convert(text)

    read.__name__ = convert.__name__  # what argparse calls the type in its messages
    return read
