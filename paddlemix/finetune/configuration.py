"""The configuration of a fine-tuning run: one flat dataclass, read from a JSON file and the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any

from ..data.boxes import BOX_FORMATS, BoxOptions
from ..errors import ConfigurationError
from ..models.qwen_vl.image_processing import parse_color
from ..models.registry import DEFAULT_FAMILY
from ..utils.display import did_you_mean, readable_name
from ..utils.files import read_json
from ..zoo import DEFAULT_MODEL
from .field_specs import (
    BOOLEAN,
    STRING,
    STRING_LIST,
    FieldSpec,
    choice,
    config_field,
    integer,
    number,
    parse_number,
    parse_str,
)

FULL, LORA, QLORA = "full", "lora", "qlora"


@dataclass(frozen=True)
class DataSource:
    """A file of conversations.

    Attributes:
        path: of the file.
        weight: how many times an epoch has each of its records, on average where that is not whole.
    """

    path: str
    weight: float = 1.0


def _parse_sources(value: Any) -> tuple[DataSource, ...] | None:
    items = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    sources = [_parse_source(item) for item in items]
    valid = tuple(source for source in sources if source is not None)
    return valid if valid and len(valid) == len(sources) else None


def _parse_source(item: Any) -> DataSource | None:
    if isinstance(item, DataSource):
        item = {"path": item.path, "weight": item.weight}
    if isinstance(item, (str, os.PathLike)):
        item = {"path": os.fspath(item)}
    if not isinstance(item, Mapping) or "path" not in item or set(item) - {"path", "weight"}:
        return None
    path, weight = parse_str(item["path"]), parse_number(item.get("weight", 1.0))
    if path is None or weight is None or weight <= 0:
        return None
    return DataSource(path, weight)


def _parse_color(value: Any) -> tuple[int, int, int] | None:
    try:
        return parse_color(value if isinstance(value, str) else ",".join(map(str, value)))
    except (ConfigurationError, TypeError):
        return None


DATA = FieldSpec(
    'a file, or a list of files and of {"path": file, "weight": number above 0}',
    _parse_sources,
    {"nargs": "+", "metavar": "FILE"},
)
COLOR = FieldSpec("a color such as white or #fff8f0, or three integers 0..255", _parse_color, {"metavar": "COLOR"})


@dataclass(frozen=True)
class FinetuneConfig:
    """All options of a fine-tuning run. Paths are relative to the current directory, those of images to their file.

    The optimizer's defaults are those of the published recipe. Construction validates and normalizes every value:
    lists become tuples, ``data`` and ``eval_data`` hold :class:`DataSource`, and ``freeze`` gets the mode's default.
    The fields' help texts are their documentation: ``--help`` and docs/finetuning.md print them.

    Raises:
        ConfigurationError: a value of the wrong type or range, or options that exclude each other.
    """

    # model and mode
    data: tuple[DataSource, ...] = config_field(DATA, "training conversations, JSON or JSON Lines files")
    output_dir: str = config_field(STRING, "directory of checkpoints, logs and the result")
    model_name_or_path: str = config_field(STRING, "base model: a directory or a name", default=DEFAULT_MODEL)
    mode: str = config_field(
        choice(FULL, LORA, QLORA),
        "train the weights, LoRA adapters, or LoRA adapters on a quantized base model",
        default=LORA,
    )
    quantization: str | None = config_field(
        choice("int4", "int8", "nf4"),
        "weight format of the base model in mode qlora (default: as stored, else int4)",
        default=None,
    )
    dtype: str | None = config_field(
        choice("float32", "bfloat16"),
        "dtype of the model (default: bfloat16 on a GPU, float32 on a CPU)",
        default=None,
    )
    device: str | None = config_field(
        choice("cpu", "gpu"), "training device (default: a GPU if there is one)", default=None
    )
    freeze: tuple[str, ...] | None = config_field(
        STRING_LIST,
        "mode full: frozen parameters, as presets or globs, !GLOB to unfreeze (default: freeze_vit)",
        default=None,
    )
    lora_r: int = config_field(integer(), "LoRA rank r", default=64)
    lora_alpha: float = config_field(number(above_minimum=True), "LoRA scaling factor = alpha / r", default=16.0)
    lora_dropout: float = config_field(
        number(0, 1, below_maximum=True), "dropout probability on the LoRA input", default=0.05
    )
    lora_targets: tuple[str, ...] = config_field(
        STRING_LIST, "linear layers that get an adapter: name suffixes or globs", default=DEFAULT_FAMILY.adapter_targets
    )
    modules_to_save: tuple[str, ...] = config_field(
        STRING_LIST,
        "layers trained in full beside the adapters and saved with them, e.g. embeddings, head",
        default=(),
    )

    # data
    eval_data: tuple[DataSource, ...] | None = config_field(DATA, "evaluation conversations", default=None)
    eval_fraction: float = config_field(
        number(0, 1, below_maximum=True), "fraction of the data used as the eval split", default=0.0
    )
    max_length: int = config_field(integer(2), "maximum sequence length in tokens", default=2048)
    truncation: str = config_field(
        choice("drop_turns", "refuse"),
        "conversations over max_length lose whole turns at the end, or count as bad records",
        default="drop_turns",
    )
    bad_records: str = config_field(
        choice("refuse", "skip"), "stop at bad records before the first step, or skip them", default="refuse"
    )
    image_check: str = config_field(
        choice("decode", "header"),
        "validate images before the first step: decode each, or read its header only (faster)",
        default="decode",
    )
    box_format: str | None = config_field(
        choice(*BOX_FORMATS),
        "coordinate format of the boxes (default: tags in thousandths, ms-swift objects by their bbox_type)",
        default=None,
    )
    clamp_boxes: bool = config_field(
        BOOLEAN, "clamp coordinates of 1000 to 999 and count them, instead of refusing the record", default=False
    )
    exif_transpose: bool | None = config_field(
        BOOLEAN, "apply the EXIF orientation of images (default: the model's preprocessor setting)", default=None
    )
    background: tuple[int, int, int] | None = config_field(
        COLOR, "background color for transparent images (default: drop the alpha channel)", default=None
    )
    max_pixels: int | None = config_field(
        integer(), "maximum pixels per image; larger JPEGs are downscaled (default: 32000000)", default=None
    )
    packing: bool = config_field(
        BOOLEAN, "pack several conversations into one sequence, without attention across them", default=False
    )
    group_by_length: bool = config_field(
        BOOLEAN, "batch conversations of similar length; excludes packing", default=False
    )
    dataloader_num_workers: int = config_field(
        integer(0), "data-loader worker processes; 0 loads in the main process", default=2
    )

    # optimization
    per_device_train_batch_size: int = config_field(integer(), "micro-batch size per device", default=1)
    per_device_eval_batch_size: int = config_field(integer(), "evaluation batch size per device", default=4)
    gradient_accumulation_steps: int = config_field(integer(), "micro-batches per optimizer step", default=1)
    num_train_epochs: float = config_field(
        number(0, 1e9, above_minimum=True), "number of epochs; may be fractional", default=1.0
    )
    max_steps: int = config_field(
        integer(1, -1, maximum=10**12), "number of optimizer steps; overrides num_train_epochs unless -1", default=-1
    )
    learning_rate: float = config_field(number(above_minimum=True), "peak learning rate", default=1e-5)
    lr_scheduler_type: str = config_field(
        choice("cosine", "linear", "constant", "constant_with_warmup"), "learning-rate schedule", default="cosine"
    )
    warmup_ratio: float = config_field(
        number(0, 1, below_maximum=True), "fraction of the steps for learning-rate warmup", default=0.01
    )
    weight_decay: float = config_field(number(), "AdamW weight decay; none on biases and norms", default=0.1)
    adam_beta1: float = config_field(number(0, 1, below_maximum=True), "AdamW beta1", default=0.9)
    adam_beta2: float = config_field(number(0, 1, below_maximum=True), "AdamW beta2", default=0.95)
    adam_epsilon: float = config_field(number(above_minimum=True), "AdamW epsilon", default=1e-8)
    max_grad_norm: float = config_field(number(), "gradient-clipping norm; 0 disables", default=1.0)
    seed: int = config_field(
        integer(0, maximum=2**31 - 1), "random seed of initialization, data order and dropout", default=1234
    )

    # memory and devices
    recompute: bool = config_field(
        BOOLEAN, "activation checkpointing: less memory, one more forward pass", default=False
    )
    loss_chunk_size: int | None = config_field(
        integer(), "positions per chunk of the cross-entropy (default: as many as have 128 MiB of logits)", default=None
    )
    sharding: str | None = config_field(
        choice("stage1"), "ZeRO stage 1: the processes share the optimizer state", default=None
    )
    sharding_parallel_degree: int | None = config_field(
        integer(), "replicas that share one optimizer state (default: all)", default=None
    )
    tensor_parallel_degree: int = config_field(
        integer(), "processes that share one replica of the model, each with its part of the weights", default=1
    )

    # monitoring and checkpoints
    logging_steps: int = config_field(integer(), "optimizer steps between log entries", default=10)
    eval_steps: int | None = config_field(
        integer(), "optimizer steps between evaluations (default: at the end only)", default=None
    )
    eval_on_start: bool = config_field(BOOLEAN, "evaluate before the first step as well", default=False)
    eval_samples: int = config_field(
        integer(0), "eval records to generate answers for; the first ones are drawn", default=32
    )
    save_steps: int = config_field(integer(), "optimizer steps between checkpoints", default=500)
    save_total_limit: int = config_field(integer(), "maximum number of checkpoints kept", default=2)
    resume: bool = config_field(BOOLEAN, "resume from the newest checkpoint in output_dir", default=True)
    visualdl: bool | None = config_field(BOOLEAN, "write VisualDL logs (default: if installed)", default=None)

    def __post_init__(self) -> None:
        """Validate and normalize every field, then the combinations."""
        if self.sharding in ("stage2", "stage3"):
            raise ConfigurationError(
                f"sharding: got {self.sharding!r}, which there is no more; use stage1, where memory is "
                "short with a tensor_parallel_degree"
            )
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None and item.metadata["optional"]:
                continue
            object.__setattr__(self, item.name, spec_of(item).check(item.name, value))
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
        if self.sharding is None and self.sharding_parallel_degree is not None:
            raise ConfigurationError("sharding_parallel_degree: got it without sharding; set sharding to stage1")
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
        """Whether there is an eval split."""
        return self.eval_data is not None or self.eval_fraction > 0

    @property
    def boxes(self) -> BoxOptions:
        """The coordinate format of the boxes in the data."""
        return BoxOptions(self.box_format, self.clamp_boxes)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FinetuneConfig:
        """The configuration with these values.

        Raises:
            ConfigurationError: an unknown key (the message suggests a similar one), a missing one, or an invalid value.
        """
        known = [item.name for item in fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigurationError(f"{readable_name(name)}: unknown option{suggestion(name, known)}")
        for name in ("data", "output_dir"):
            if name not in values:
                raise ConfigurationError(f"{name}: missing; give it in the config file or as --{name}")
        return cls(**values)

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str] | None, overrides: Mapping[str, Any] | None = None
    ) -> FinetuneConfig:
        """The configuration of a JSON file.

        Args:
            path: of the file; None for none.
            overrides: values that replace those of the file.

        Raises:
            ConfigurationError: a file that cannot be read, or as :meth:`from_dict`.
        """
        return cls.from_dict({**({} if path is None else read_config(Path(path))), **(overrides or {})})

    def to_dict(self) -> dict[str, Any]:
        """All options as JSON values; :meth:`from_dict` reads them."""
        return {item.name: _plain(getattr(self, item.name)) for item in fields(self)}

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The defaults, as JSON values, of the options that have one."""
        return {item.name: _plain(item.default) for item in fields(cls) if item.default is not MISSING}


def spec_of(item: Field[Any]) -> FieldSpec:
    """The spec of a field of :class:`FinetuneConfig`."""
    spec: FieldSpec = item.metadata["spec"]
    return spec


def _plain(value: Any) -> Any:
    """An option's value as a JSON value."""
    if isinstance(value, DataSource):
        return {"path": value.path, "weight": value.weight}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def suggestion(name: str, known: Sequence[str]) -> str:
    """Words for a message about an unknown name: the most similar known one, or all of them."""
    return did_you_mean(name, known) or f"; known: {', '.join(known)}"


def read_config(path: Path) -> dict[str, Any]:
    """Read a config file.

    Returns:
        Its JSON object, unchecked.

    Raises:
        ConfigurationError: the file cannot be read, is not a JSON object, or has a key twice.
    """
    content = read_json(path, error=ConfigurationError, unique_names=True)
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: got {type(content).__name__}, expected a JSON object of options")
    return content
