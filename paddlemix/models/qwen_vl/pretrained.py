"""Loading and saving of whole models: which dtype, from where, and what is written beside the weights."""

from __future__ import annotations

import copy
import logging
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import paddle
from paddlenlp.generation import GenerationConfig

from ...checkpoint import dtypes
from ...checkpoint.shards import Partition, unaligned
from ...errors import AdapterError, ConfigurationError
from ...parallel.group import SINGLE, TensorParallelGroup
from ...quantization.plan import QuantizationPlan, check_options
from ...utils.device import free_gpu_memory, resolve_device
from ...utils.files import CONFIG_FILE, GENERATION_CONFIG_FILE
from ...utils.progress import Counter, Progress
from .configuration import QWenVLConfig
from .generation_file import published_options, read_generation_config
from .kv_cache import answer_bytes, cache_dtype
from .pretrained_arguments import refuse_quantization_config, requested_device, requested_dtype, split_arguments
from .weights import WEIGHTS

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)


def choose_dtype(requested: str | None, config: QWenVLConfig) -> str:
    """The dtype that the model runs in on the current device.

    Without a request the configuration decides (``bf16``, ``fp16``, ``fp32``), and without that the device: bfloat16
    where the GPU has it, else float16; float32 on a CPU. A request that the device cannot meet is answered by the
    nearest that it can, and one line says so.

    Raises:
        ConfigurationError: ``requested`` is not one of ``dtypes.TARGETS``.
    """
    if requested is None:
        flags = {"bfloat16": config.bf16, "float16": config.fp16, "float32": config.fp32}
        requested = next((name for name, chosen in flags.items() if chosen), None)
        explicit = False
    else:
        explicit = True
    if requested is not None:
        dtypes.check_target(requested)
    if not paddle.get_device().startswith("gpu"):
        if explicit and requested != "float32":
            logger.warning("dtype %s needs a GPU; on the CPU the model runs in float32.", requested)
        return "float32"
    if requested in (None, "bfloat16") and not paddle.amp.is_bfloat16_supported():
        if requested is not None:
            logger.warning("this GPU has no bfloat16; the model runs in float16.")
        return "float16"
    return requested or "bfloat16"


def load_generation_config(directory: Path, config: QWenVLConfig) -> GenerationConfig:
    """How a directory's model generates; where it does not say, as the published Qwen-VL-Chat, and one line says so.

    Raises:
        CheckpointError, ConfigurationError: ``generation_config.json`` cannot be read, or has values that cannot work.
    """
    fields = read_generation_config(directory, config.vocab_size)
    if fields is None:
        fields = published_options(config.visual.image_start_id)
        logger.warning(
            "%s: has no %s; answers are generated with the values of Qwen-VL-Chat (at most %d new tokens, sampling "
            "with top_p %g).",
            directory, GENERATION_CONFIG_FILE, fields["max_new_tokens"], fields["top_p"],
        )  # fmt: skip
    # Its constructor would check combinations that a call may still change, and announce itself on the terminal.
    generation_config = GenerationConfig()
    for name, value in fields.items():
        setattr(generation_config, name, value)
    if "do_sample" in fields:
        generation_config.decode_strategy = "sampling" if fields["do_sample"] else "greedy_search"
    return generation_config


def _gpu_memory() -> int | None:
    """Bytes that are free on the current GPU; None where the model runs on the CPU."""
    return free_gpu_memory() if paddle.get_device().startswith("gpu") else None


def _partition(config: QWenVLConfig, plan: QuantizationPlan | None, group: TensorParallelGroup) -> Partition | None:
    """How the weights are divided among the processes of ``group``; None for a single one.

    Raises:
        ConfigurationError: more processes than attention heads.
    """
    if group.size == 1:
        return None
    if group.size > config.num_attention_heads:
        raise ConfigurationError(
            f"tensor_parallel: got {group.size} processes for {config.num_attention_heads} attention heads, expected "
            "at most one for each"
        )
    from ...quantization.cuts import finest_alignment, tile_alignment  # imports Paddle

    alignments = (unaligned, None) if plan is None else (tile_alignment(plan), finest_alignment(plan))
    return Partition(WEIGHTS, config, group.rank, group.size, *alignments)


def _chosen_config(directory: Path, config: QWenVLConfig | None, overrides: dict[str, Any]) -> QWenVLConfig:
    """The directory's configuration with other fields, or a copy of the one that was given."""
    if config is None:
        return QWenVLConfig.from_directory(directory, **overrides)
    if not isinstance(config, QWenVLConfig) or overrides:
        what = f"together with {sorted(overrides)}" if overrides else type(config).__name__
        raise ConfigurationError(f"config: got {what}; expected a QWenVLConfig, or fields to change by their names")
    return copy.deepcopy(config)


class QWenVLCheckpointMixin:
    """``from_pretrained`` and ``save_pretrained`` over :mod:`paddlemix.checkpoint`."""

    if TYPE_CHECKING:  # what the model has of its other bases
        config: QWenVLConfig
        partition: Partition | None
        group: TensorParallelGroup
        generation_config: GenerationConfig

        def __init__(self, config: QWenVLConfig) -> None:
            """Create the layers."""

        def eval(self) -> None:
            """Leave training mode."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        dtype: str | None = None,
        *,
        quantization: str | None = None,
        vision_quantization: str | None = None,
        torch_dtype: Any = None,
        device_map: Any = None,
        progress: Progress = None,
        **arguments: Any,
    ) -> Self:
        """Load a model from a directory or by name, in evaluation mode.

        The layout is found out from the files: the published PyTorch shards, safetensors, GPTQ (Qwen-VL-Chat-Int4),
        PaddleMIX's ``.pdparams``, or what ``save_pretrained`` wrote. One tensor at a time is held beside the model.

        Args:
            pretrained_model_name_or_path: a directory, a known name, or a name in a public store.
            dtype: ``float32``, ``bfloat16``, ``float16``, or "auto"; see :func:`choose_dtype`.
            torch_dtype: the same, as older programs write it.
            quantization: ``int8``, ``int4``, ``nf4`` or ``bf16``: linear weights are rounded to this format while they
                are loaded, and computed with as they are. With ``int4`` and ``nf4`` the head and the vision part are
                int8. By default as the checkpoint has them. Embeddings become 16 bits wide.
            vision_quantization: ``int8`` or ``bf16`` for the ViT and the resampler, with ``quantization`` or a GPTQ
                checkpoint.
            device_map: one device for the whole model, which becomes Paddle's current one; by default, and with "auto",
                that is where it is put.
            progress: called with (bytes read, bytes in all).
            **arguments: ``revision``, ``cache_dir``, ``token`` and ``local_files_only`` of the hub; configuration
                fields to change, such as ``use_dynamic_ntk=False``, or ``config``, all of them; and what else users of
                transformers write, see :mod:`.pretrained_arguments`.

        Raises:
            ModelNotFoundError, CheckpointError, ConfigurationError, NotEnoughMemoryError.
        """
        from ...checkpoint import hub

        options, overrides = split_arguments(arguments)
        refuse_quantization_config(overrides.get("quantization_config"))
        dtype = requested_dtype(dtype, torch_dtype)
        device = requested_device(device_map)
        device = None if device is None else resolve_device(device, "device_map")
        check_options(quantization, vision_quantization)
        directory = hub.resolve(pretrained_model_name_or_path, **options)
        if device is not None:
            paddle.set_device(device)
        return cls.from_directory(
            directory,
            dtype,
            quantization=quantization,
            vision_quantization=vision_quantization,
            progress=progress,
            **overrides,
        )

    @classmethod
    def from_directory(
        cls,
        directory: Path,
        dtype: str | None = None,
        *,
        quantization: str | None = None,
        vision_quantization: str | None = None,
        config: QWenVLConfig | None = None,
        progress: Progress = None,
        group: TensorParallelGroup = SINGLE,
        **overrides: Any,
    ) -> Self:
        """As :meth:`from_pretrained`, where the directory is known and nothing has to be looked for.

        With a ``group`` of several processes each reads and holds its part of the weights.

        Raises:
            CheckpointError, ConfigurationError, NotEnoughMemoryError.
        """
        from ...checkpoint import load_into
        from ...checkpoint.loading import check_config
        from ...checkpoint.readers import open_checkpoint
        from ...quantization.choice import plan_of
        from ...quantization.memory import check_memory
        from .tensor_parallel import split_model

        check_options(quantization, vision_quantization)
        config = _chosen_config(directory, config, overrides)
        dtype = choose_dtype(dtype, config)
        config.dtype = dtype
        kept = cache_dtype(config, dtype)  # what cannot be is told before the weights are read
        generation_config = load_generation_config(directory, config)
        checkpoint = open_checkpoint(directory, WEIGHTS)
        check_config(checkpoint, config)
        plan = plan_of(checkpoint, config.quantization, quantization, vision_quantization)
        config.quantization = None if plan is None else plan.to_config()
        partition = _partition(config, plan, group)
        shards = {} if partition is None else partition.shards
        check_memory(
            WEIGHTS, config, dtype, _gpu_memory(), plan, shards,
            stored_quantized=checkpoint.packed, working=answer_bytes(config, dtype, kept),
        )  # fmt: skip
        previous = paddle.get_default_dtype()
        paddle.set_default_dtype(cast(Any, dtype))
        try:
            with paddle.LazyGuard():
                model = cls(config)
                if partition is not None:
                    split_model(cast(Any, model), partition, group)
        finally:
            paddle.set_default_dtype(previous)
        counter = Counter(checkpoint.nbytes(), progress)
        if plan is None:
            load_into(model, checkpoint, dtype, counter=counter, shards=shards)
        else:
            from ...quantization.loading import load_quantized

            load_quantized(cast(paddle.nn.Layer, model), checkpoint, plan, dtype, counter=counter, shards=shards)
        counter.finish()
        model.generation_config = generation_config
        model.eval()
        return model

    def save_pretrained(self, save_directory: str | os.PathLike, *, overwrite: bool = False, **options: Any) -> None:
        """Write weights (sharded safetensors), ``config.json`` and ``generation_config.json`` into a directory.

        Quantized weights are written as they are, and loading them again maps the files instead of reading them. The
        tokenizer is no part of the model: ``processor.save_pretrained`` writes it beside them.

        Args:
            save_directory: where to write; made if absent.
            overwrite: replace a model that an earlier run wrote there. A directory that holds anything else but a
                processor's files is refused in any case.
            **options: ``dtype`` to convert float weights to, ``max_shard_bytes``.

        Raises:
            AdapterError: the model has an adapter beside its weights.
            ConfigurationError: a ``dtype`` for a quantized model.
            TargetError: the directory holds something else.
            CheckpointError: it cannot be written; the directory is then as it was.
        """
        from ...checkpoint import save_model

        if self.group.size > 1:
            raise ConfigurationError(
                "model: is split among processes; load it in one to save it, or convert its directory"
            )
        save_model(self, save_directory, overwrite=overwrite, side_files=self._side_files(), **options)

    def write_pretrained(self, directory: Path) -> None:
        """As :meth:`save_pretrained`, into a directory that is the caller's own, whatever it holds.

        All processes of a split float model call this; the first one writes.
        """
        from ...checkpoint.loading import write_model
        from .tensor_parallel import join

        if self.partition is None:
            write_model(self, directory, side_files=self._side_files())
            return
        state, partition = cast(Any, self).state_dict(), self.partition
        joins = {
            name: (partition.shards[name].whole, partial(join, self.group, state[name], partition.of_all(name)))
            for name in state
            if name in partition.shards
        }
        if self.group.rank == 0:
            write_model(self, directory, side_files=self._side_files(), joins=joins)
        else:
            for _, bring in joins.values():
                bring()

    def _side_files(self) -> dict[str, bytes]:
        if getattr(self, "attached_adapter", None) is not None:
            raise AdapterError(
                "model: has an adapter, which no model directory holds; use save_adapter, or merge first"
            )
        return {
            CONFIG_FILE: self.config.to_json_string(saving_file=True).encode("utf-8"),
            GENERATION_CONFIG_FILE: self.generation_config.to_json_string().encode("utf-8"),
        }
