"""A model ready to answer: which device, which dtype, loading it with its processor, asking it many things at once."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .chat.reply import Reply, Usage
from .errors import ConfigurationError, PaddleMixError
from .models.qwen_vl import grounding
from .options import GENERATION_OPTIONS, ModelOptions, check_generation_options
from .utils.allocator import keep_freed_memory
from .utils.dependencies import require
from .utils.device import resolve_device
from .utils.progress import ProgressBar
from .zoo import DEFAULT_MODEL

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from .adapters.stored import Adapter
    from .chat.base import Session
    from .chat.session import ChatSession
    from .checkpoint.layouts import WeightTable
    from .engine.options import GenerationOptions
    from .media import ImagePolicy
    from .models.qwen_vl.chat_template import RenderedPrompt
    from .models.qwen_vl.grounding import Box
    from .models.qwen_vl.modeling import QWenLMHeadModel
    from .models.qwen_vl.processing import QwenVLProcessor

__all__ = [
    "Answer", "CAPTION", "GENERATION_OPTIONS", "LoadedModel", "answer_all", "check_generation_options",
    "load_model", "resolve_device", "with_seed",
]  # fmt: skip

Answer = Reply

DEFAULT_DTYPE = "bfloat16"

CAPTION = "Generate the caption in English with grounding:"
"""The question where an image comes without one: the caption task that the models were trained on."""

BATCH_ROWS = 32
"""Most questions that :func:`answer_all` computes at once."""
BATCH_POSITIONS = 16_384
"""Most positions of their prompts and answers together, unless one alone has more: 8 GB of keys and values in bfloat16
at the published size."""


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to answer.

    Attributes:
        directory: where its files are.
        model: in evaluation mode.
        processor: of the same model.
        seconds: how long loading took.
    """

    directory: Path
    model: QWenLMHeadModel
    processor: QwenVLProcessor
    seconds: float

    @property
    def is_base(self) -> bool:
        """Whether this is a base model, which continues a text and knows no conversation."""
        return self.processor.chat_format == "raw"

    def new_session(
        self, system: str | None = None, policy: ImagePolicy | None = None, trusted_tags: bool = False
    ) -> Session:
        """A conversation with the model; with a base model, questions that stand alone.

        Raises:
            ConfigurationError: a system text for a base model.
        """
        if self.is_base:
            refuse_system(system)
            from .chat.single_turn import SingleTurnSession

            return SingleTurnSession(self.model, self.processor, policy=policy, trusted_tags=trusted_tags)
        return self.new_chat(system, policy, trusted_tags)

    def new_chat(
        self, system: str | None = None, policy: ImagePolicy | None = None, trusted_tags: bool = False
    ) -> ChatSession:
        """A conversation with a chat model. Raises ConfigurationError for a base model."""
        from .chat.session import ChatSession

        return ChatSession(self.model, self.processor, system=system, policy=policy, trusted_tags=trusted_tags)


def load_model(
    name_or_dir: str | os.PathLike[str] | ModelOptions = DEFAULT_MODEL,
    dtype: str | None = None,
    device: str | None = None,
    from_hf_hub: bool = False,
    **options: Any,
) -> LoadedModel:
    """Load a model and its processor. On a terminal a bar on stderr shows how far it is.

    Args:
        name_or_dir: a directory, a known name, or a name in a public store; or all options in one object.
        dtype: field of :class:`ModelOptions`.
        device: field of :class:`ModelOptions`.
        from_hf_hub: field of :class:`ModelOptions`.
        **options: its other fields: ``adapter``, ``quantization``, ``vision_quantization``, ``kv_cache_dtype``,
            ``tensor_parallel``, ``exif_transpose``, ``background``.

    Raises:
        AdapterError, ConfigurationError, ModelNotFoundError, CheckpointError, NotEnoughMemoryError,
        MissingDependencyError.
    """
    if not isinstance(name_or_dir, ModelOptions):
        given = {**options, "dtype": dtype, "device": device, "from_hf_hub": from_hf_hub}
        return _load(ModelOptions.of(name_or_dir, given))
    if options or dtype is not None or device is not None or from_hf_hub:
        raise ConfigurationError("name_or_dir: got ModelOptions beside other options; put them all into the object")
    return _load(name_or_dir)


def load_follower() -> None:
    """Be one of the processes of a split model that its first process has started."""
    from .tensor_parallel import follower_options

    try:
        load_model(follower_options())
    except PaddleMixError as error:
        sys.exit(f"error: {error}")


def _load(options: ModelOptions) -> LoadedModel:
    start = time.perf_counter()
    is_split = options.tensor_parallel > 1
    if is_split:
        from . import tensor_parallel

        tensor_parallel.keep_quiet()
    device = resolve_device(options.device)
    from .checkpoint import hub
    from .models.registry import family_of

    directory = hub.resolve(options.model, store="huggingface" if options.from_hf_hub else None)
    family = family_of(directory)
    if is_split:  # early, for they need as long as this process for what is imported now
        tensor_parallel.start_group(options, Path(directory), family, device)
    require("paddlenlp", "running a model")
    from . import ops

    # A wrong PADDLEMIX_OPS, PADDLEMIX_NUM_THREADS or adapter is told before the weights are read.
    ops.mode()
    ops.default_threads()
    adapter = _read_adapter(options.adapter, family.weights)
    require("paddle", "running a model").set_device(device)
    dtype = DEFAULT_DTYPE if options.dtype is None and device.startswith("gpu") else options.dtype
    # before the weights: a missing vocabulary is told at once
    processor = family.processor_class.from_directory(
        directory, exif_transpose=options.exif_transpose, background=options.background
    )
    overrides: dict[str, Any] = {} if options.kv_cache_dtype is None else {"kv_cache_dtype": options.kv_cache_dtype}
    if is_split:
        overrides["group"] = tensor_parallel.join_group(options, Path(directory), device)
    with ProgressBar("loading") as advance:
        model = family.model_class.from_directory(
            directory,
            dtype=dtype,
            quantization=options.quantization,
            vision_quantization=options.vision_quantization,
            progress=advance,
            **overrides,
        )
    if adapter is not None:
        _attach(adapter, model, processor)
    if device == "cpu":
        keep_freed_memory()
    if is_split:
        tensor_parallel.lead_or_follow(model)
    return LoadedModel(Path(directory), model, processor, time.perf_counter() - start)


def _read_adapter(folder: str | os.PathLike[str] | None, table: WeightTable) -> Adapter | None:
    if folder is None:
        return None
    from .adapters.stored import read_adapter

    return read_adapter(folder, table)


def _attach(adapter: Adapter, model: QWenLMHeadModel, processor: QwenVLProcessor) -> None:
    from .adapters.files import attach_adapter

    attach_adapter(model, adapter)
    if processor.chat_format == "raw":  # adapters learn from conversations, also those of base models
        processor.chat_format = model.generation_config.chat_format = "chatml"


def with_seed(generation: Mapping[str, Any]) -> dict[str, Any]:
    """The options with a seed: where none is given, one from Paddle's generator, so that ``paddle.seed`` counts."""
    if generation.get("seed") is not None:
        return dict(generation)
    paddle = require("paddle", "running a model")
    return {**generation, "seed": int(paddle.randint(0, 2**31 - 1, [1]))}


def answer_all(
    loaded: LoadedModel,
    questions: Sequence[tuple[str, Sequence[Any]]],
    *,
    system: str | None = None,
    trusted_tags: bool = False,
    policy: ImagePolicy | None = None,
    **generation: Any,
) -> list[Reply]:
    """Answer questions that have nothing to do with each other, a bounded number at once.

    All texts, and the number and headers of all images, are checked before the first is answered; an image is decoded
    when its question's turn comes, and encoded once where several questions in a row are about it.

    Args:
        loaded: the model.
        questions: (prompt, images) each, images being whatever the image loader takes; chat models see them as the
            first turn of a conversation, base models as a text to continue.
        system: system text of chat models; None is their usual one.
        trusted_tags: read ``<ref> <box> <quad>`` out of the prompts; otherwise text is only text.
        policy: what images may be read from; the processor's where it is None.
        **generation: entries of :data:`GENERATION_OPTIONS`.

    Raises:
        PromptError: an empty prompt, one longer than the model's window, or too many images in one question.
        ImageError: an image that cannot be read.
        ConfigurationError: a generation option that cannot work, or a system text for a base model.
    """
    from .engine.options import resolve_options
    from .media.loading import check_header
    from .media.sources import is_url

    policy = loaded.processor.policy if policy is None else policy
    if system is not None and loaded.is_base:
        refuse_system(system)
    conversations = [_conversation(prompt, images, system) for prompt, images in questions]
    generation = {**with_seed(generation), "num_return_sequences": 1}
    options = resolve_options(loaded.model.generation_config, None, generation)
    prompts = [loaded.processor.render(messages, trusted_tags=trusted_tags) for messages in conversations]
    for source in (source for _, images in questions for source in images if not is_url(source)):
        check_header(source, policy)
    return _answers(loaded, [images for _, images in questions], prompts, options, policy)


def _answers(
    loaded: LoadedModel,
    images: Sequence[Sequence[Any]],
    prompts: Sequence[RenderedPrompt],
    options: GenerationOptions,
    policy: ImagePolicy,
) -> list[Reply]:
    """One engine for all: an answer that ends makes room for the next question."""
    import paddle

    from .engine.local import answer_requests
    from .engine.request import Decoding, FinishReason, ImageInput, Request
    from .engine.stopping import answer_end_ids
    from .media import fetch
    from .media.sources import is_url
    from .models.qwen_vl.image_placeholders import PlaceholderFormat
    from .models.qwen_vl.image_processing import source_key
    from .models.qwen_vl.runner import local_engine

    model, processor = loaded.model, loaded.processor
    end_ids = answer_end_ids(options.eos_token_id, processor.tokenizer)
    placeholder = PlaceholderFormat.of(model.config.visual)
    fetched: dict[str, list[Any]] = {}

    def pixels(source: Any) -> np.ndarray:
        prepared: np.ndarray = processor.image_processor([source], policy)[0]
        return prepared

    def requests() -> Iterator[Request]:
        for row, (sources, prompt) in enumerate(zip(images, prompts)):
            # once, for an answer with boxes loads its image again
            fetched[str(row)] = [fetch(source, policy) if is_url(source) else source for source in sources]
            inputs = [
                ImageInput(0, source_key(source), prepare=partial(pixels, found))
                for source, found in zip(sources, fetched[str(row)])
            ]
            yield Request(
                str(row),
                tuple(prompt.input_ids),
                placeholder.place(prompt.input_ids, inputs),
                options.sampling_params(seed_index=row, stop_token_ids=end_ids),
                decoding=Decoding(errors=None),
                prefill_chunk_size=options.prefill_chunk_size or None,
            )

    longest = max((len(prompt.input_ids) for prompt in prompts), default=0) + options.max_new_tokens
    engine = local_engine(
        model, processor.tokenizer, feature_images=BATCH_ROWS, positions=max(BATCH_POSITIONS, longest)
    )
    replies: dict[int, Reply] = {}
    for name, answer in answer_requests(engine, requests(), BATCH_ROWS, paddle.no_grad):
        row, text = int(name), answer.text.strip()
        boxes = grounding.parse(text)
        usage = Usage(len(prompts[row].input_ids), len(answer.tokens), answer.cached_tokens)
        image = _source_image(loaded, fetched.pop(name), policy, boxes)
        replies[row] = Reply(text, boxes, answer.finish_reason or FinishReason.LENGTH.value, usage, source_image=image)
    return [replies[row] for row in range(len(prompts))]


def refuse_system(system: str | None) -> None:
    """Raise ConfigurationError for a system text, which base models do not take."""
    if system is not None:
        raise ConfigurationError("system: this is a base model, which takes no system text; leave it out")


def _conversation(prompt: str, images: Sequence[Any], system: str | None) -> list[dict[str, Any]]:
    from .models.qwen_vl.messages import check_question, user_message

    check_question(prompt, images, name="prompt")
    before = [] if system is None else [{"role": "system", "content": system}]
    return [*before, user_message(prompt, images)]


def _source_image(
    loaded: LoadedModel, images: Sequence[Any], policy: ImagePolicy, boxes: Sequence[Box]
) -> Image.Image | None:
    """The last image again, where there are boxes to be drawn into it."""
    return loaded.processor.image_processor.load(images[-1], policy) if boxes and images else None
