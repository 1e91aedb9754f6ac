"""A model ready to answer: which device, which dtype, loading it with its processor, asking it many things at once."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoint import dtypes
from .errors import ConfigurationError
from .quantization.plan import check_options
from .utils.allocator import keep_freed_memory
from .utils.dependencies import require
from .utils.device import resolve_device
from .utils.progress import ProgressBar
from .utils.validation import check_path
from .zoo import DEFAULT_MODEL

if TYPE_CHECKING:
    from PIL import Image

    from .chat.base import Session
    from .media import ImagePolicy
    from .models.qwen_vl.grounding import Box
    from .models.qwen_vl.modeling import QWenLMHeadModel
    from .models.qwen_vl.processing import QwenVLProcessor

DEFAULT_DTYPE = "bfloat16"

CAPTION = "Generate the caption in English with grounding:"
"""The question where an image comes without one: the caption task that the models were trained on."""

BATCH_ROWS = 32
"""Most questions that :func:`answer_all` computes at once."""
BATCH_POSITIONS = 16_384
"""Most positions of their prompts and answers together: 8 GB of keys and values in bfloat16 at the published size."""

# What is not said comes from the model's generation_config.json.
GENERATION_OPTIONS: Mapping[str, tuple[type, str]] = {
    "max_new_tokens": (int, "most tokens of one answer"),
    "min_new_tokens": (int, "so many tokens come before the answer may end"),
    "do_sample": (bool, "draw tokens at random instead of taking the likeliest"),
    "temperature": (float, "sampling: above 1 bolder, below 1 safer"),
    "top_k": (int, "sampling: among the k likeliest tokens; 0 is all"),
    "top_p": (float, "sampling: among the likeliest tokens that add up to this probability"),
    "repetition_penalty": (float, "above 1: fewer repetitions"),
    "stop_strings": (str, "end the answer at this text"),
}
"""What a user of the scripts and of Appflow may say about generation: name -> type and help. ``seed`` comes on top."""


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, its processor, the directory they came from and the seconds that took."""

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
        from .chat.session import ChatSession

        return ChatSession(self.model, self.processor, system=system, policy=policy, trusted_tags=trusted_tags)


def load_model(
    name_or_dir: str | os.PathLike[str] = DEFAULT_MODEL,
    dtype: str | None = None,
    device: str | None = None,
    from_hf_hub: bool = False,
    *,
    quantization: str | None = None,
    vision_quantization: str | None = None,
    kv_cache_dtype: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    exif_transpose: bool | None = None,
    background: Sequence[int] | str | None = None,
) -> LoadedModel:
    """Load a model and its processor. On a terminal a bar on stderr shows how far it is.

    Args:
        name_or_dir: a directory, a known name, or a name in a public store.
        dtype: one of ``checkpoint.dtypes.TARGETS``. ``None`` is bfloat16, or float32 on a CPU; asked for another by
            name, a CPU answers with float32 as well, and says so.
        device: see :func:`resolve_device`; Paddle's current device is set to it.
        from_hf_hub: take the name as one of the Hugging Face hub.
        quantization, vision_quantization: formats of the linear weights, of ``quantization.plan.QUANTIZATIONS`` and
            ``VISION_QUANTIZATIONS``; see ``QWenLMHeadModel.from_pretrained``.
        kv_cache_dtype: of cached keys and values; ``None``: that of the activations.
        adapter: directory of a LoRA adapter for this model, which is put beside its weights. A base model with one
            converses.
        exif_transpose, background: how the model sees photos with an EXIF orientation and transparent images, see
            :class:`QwenVLImageProcessor`; ``None``: as the model's ``preprocessor_config.json`` says.

    Raises:
        AdapterError, ConfigurationError, ModelNotFoundError, CheckpointError, NotEnoughMemoryError,
        MissingDependencyError.
    """
    start = time.perf_counter()
    if dtype is not None:
        dtypes.check_target(dtype)
    check_options(quantization, vision_quantization)
    check_image_options(exif_transpose, background)
    if adapter is not None:
        check_path("adapter", adapter)
    device = resolve_device(device)
    from .checkpoint import hub

    directory = hub.resolve(name_or_dir, store="huggingface") if from_hf_hub else hub.resolve(name_or_dir)
    require("paddlenlp", "running a model")
    from . import ops
    from .models.qwen_vl.modeling import QWenLMHeadModel
    from .models.qwen_vl.processing import QwenVLProcessor

    # A wrong PADDLEMIX_OPS, PADDLEMIX_NUM_THREADS or adapter is told before the weights are read.
    ops.mode()
    ops.default_threads()
    if adapter is not None:
        from .adapters.files import attach_adapter
        from .adapters.stored import read_adapter

        adapter = read_adapter(adapter)
    require("paddle", "running a model").set_device(device)
    if dtype is None and device.startswith("gpu"):
        dtype = DEFAULT_DTYPE
    # before the weights: a missing vocabulary is told at once
    processor = QwenVLProcessor.from_directory(directory, exif_transpose=exif_transpose, background=background)
    with ProgressBar("loading") as advance:
        model = QWenLMHeadModel.from_directory(
            directory,
            dtype=dtype,
            quantization=quantization,
            vision_quantization=vision_quantization,
            progress=advance,
            **({} if kv_cache_dtype is None else {"kv_cache_dtype": kv_cache_dtype}),
        )
    if adapter is not None:
        attach_adapter(model, adapter)
        if processor.chat_format == "raw":  # adapters learn from conversations, also those of base models
            processor.chat_format = model.generation_config.chat_format = "chatml"
    if device == "cpu":
        keep_freed_memory()
    return LoadedModel(Path(directory), model, processor, time.perf_counter() - start)


def check_image_options(exif_transpose: bool | None, background: Sequence[int] | str | None) -> None:
    """Raises ConfigurationError for what no image processor takes; None is fine."""
    from .models.qwen_vl.image_processing import QwenVLImageProcessor, parse_color

    if isinstance(background, str):
        background = parse_color(background)
    QwenVLImageProcessor(exif_transpose=False if exif_transpose is None else exif_transpose, background=background)


def check_generation_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are set (not None; a seed of -1 is none either), checked early, as loading may take minutes.

    Raises:
        ConfigurationError: an unknown name, or a value of the wrong type or range.
    """
    from .engine.options import check_given

    for name in options:
        if name not in GENERATION_OPTIONS and name != "seed":
            known = ", ".join([*GENERATION_OPTIONS, "seed"])
            raise ConfigurationError(f"{name}: unknown generation option; known: {known}")
    given = {name: value for name, value in options.items() if value is not None and (name, value) != ("seed", -1)}
    check_given(given)
    return given


def with_seed(generation: Mapping[str, Any]) -> dict[str, Any]:
    """The options with a seed: where none is given, one from Paddle's generator, so that ``paddle.seed`` counts."""
    if generation.get("seed") is not None:
        return dict(generation)
    paddle = require("paddle", "running a model")
    return {**generation, "seed": int(paddle.randint(0, 2**31 - 1, [1]))}


@dataclass(frozen=True)
class Answer:
    """text: as the model wrote it; boxes: places in the question's last image; image: a copy of that image with the
    boxes drawn in, None without boxes or image; finish_reason: ``"stop"``, or ``"length"`` where it was cut off."""

    text: str
    boxes: list[Box]
    image: Image.Image | None
    finish_reason: str


def answer_all(
    loaded: LoadedModel,
    questions: Sequence[tuple[str, Sequence[Any]]],
    *,
    system: str | None = None,
    trusted_tags: bool = False,
    policy: ImagePolicy | None = None,
    **generation: Any,
) -> list[Answer]:
    """Answer questions that have nothing to do with each other, in batches of bounded size.

    All texts, and the number and headers of all images, are checked before the first is answered; an image is decoded
    when its batch comes.

    Args:
        questions: (prompt, images) each, images being whatever the image loader takes; chat models see them as the
            first turn of a conversation, base models as a text to continue.
        system: system text of chat models; None is their usual one.
        trusted_tags: read ``<ref> <box> <quad>`` out of the prompts; otherwise text is only text.
        policy: what images may be read from; the processor's where it is None.
        **generation: entries of :data:`GENERATION_OPTIONS`, and ``seed``.

    Raises:
        PromptError: an empty prompt, one longer than the model's window, or too many images in one question.
        ImageError: an image that cannot be read.
        ConfigurationError: a generation option that cannot work, or a system text for a base model.
    """
    from .engine.options import resolve_options
    from .media.loading import check_header
    from .media.sources import is_address

    policy = loaded.processor.policy if policy is None else policy
    if system is not None and loaded.is_base:
        refuse_system(system)
    conversations = [_conversation(prompt, images, system) for prompt, images in questions]
    generation = {**with_seed(generation), "num_return_sequences": 1}
    options = resolve_options(loaded.model.generation_config, None, generation)
    prompts = [loaded.processor.render(messages, trusted_tags=trusted_tags) for messages in conversations]
    for source in (source for _, images in questions for source in images if not is_address(source)):
        check_header(source, policy)
    answers: list[Answer] = []
    for rows in batches([len(prompt.input_ids) + options.max_new_tokens for prompt in prompts]):
        answers += _answer_batch(
            loaded,
            [questions[row] for row in rows],
            system,
            trusted_tags,
            policy,
            {**generation, "seed": generation["seed"] + rows.start},
        )
    return answers


def batches(lengths: Sequence[int]) -> Iterator[range]:
    """Which rows of so many positions are computed together: at most :data:`BATCH_ROWS` of them, and padded to the
    longest at most :data:`BATCH_POSITIONS` positions, unless one row alone has more."""
    start, longest = 0, 0
    for row, length in enumerate(lengths):
        longest = max(longest, length)
        count = row + 1 - start
        if count > 1 and (count > BATCH_ROWS or count * longest > BATCH_POSITIONS):
            yield range(start, row)
            start, longest = row, length
    if start < len(lengths):
        yield range(start, len(lengths))


def _answer_batch(
    loaded: LoadedModel,
    questions: Sequence[tuple[str, Sequence[Any]]],
    system: str | None,
    trusted_tags: bool,
    policy: ImagePolicy,
    generation: Mapping[str, Any],
) -> list[Answer]:
    from .engine.detokenizer import answer_text
    from .engine.options import resolve_options
    from .engine.stopping import answer_end_ids
    from .media import fetch
    from .media.sources import is_address
    from .models.qwen_vl.generation import generate_rows

    # fetched once, for an answer with boxes loads its image again: so few images are in memory at a time
    fetched = [
        (prompt, [fetch(source, policy) if is_address(source) else source for source in images])
        for prompt, images in questions
    ]
    conversations = [_conversation(prompt, images, system) for prompt, images in fetched]
    inputs = loaded.processor(conversations, trusted_tags=trusted_tags, return_tensors="pd", policy=policy)
    model, tokenizer = loaded.model, loaded.processor.tokenizer
    options = resolve_options(model.generation_config, None, generation)
    end_ids = answer_end_ids(options.eos_token_id, tokenizer)
    rows = generate_rows(model, **inputs, tokenizer=tokenizer, eos_token_id=end_ids, **generation)
    texts = [answer_text(tokenizer, row, end_ids, options.stop_strings) for row in rows.tokens.tolist()]
    return [
        _answer(loaded, text, images, policy, reason)
        for text, reason, (_, images) in zip(texts, rows.finish_reasons, fetched)
    ]


def cut_off_words(new_tokens: int) -> str:
    """What to tell a person about an answer that ended with ``"length"`` after so many tokens."""
    return (
        f"the answer was cut off after {new_tokens} tokens; --max_new_tokens N allows more, "
        "as far as the model's window goes"
    )


def refuse_system(system: str | None) -> None:
    """Raises ConfigurationError for a system text, which base models do not take."""
    if system is not None:
        raise ConfigurationError("system: this is a base model, which takes no system text; leave it out")


def _conversation(prompt: str, images: Sequence[Any], system: str | None) -> list[dict[str, Any]]:
    from .models.qwen_vl.messages import check_question, user_message

    check_question(prompt, images, name="prompt")
    before = [] if system is None else [{"role": "system", "content": system}]
    return [*before, user_message(prompt, images)]


def _answer(loaded: LoadedModel, text: str, images: Sequence[Any], policy: ImagePolicy, finish_reason: str) -> Answer:
    from .models.qwen_vl import grounding

    boxes = grounding.parse(text)
    drawn = None
    if boxes and images:
        drawn = grounding.draw(loaded.processor.image_processor.load(images[-1], policy), boxes)
    return Answer(text, boxes, drawn, finish_reason)
