"""The options of a model and of a conversation, described once for Python, Appflow, the command line and the documents.

Those of generation are :class:`paddlemix.engine.options.GenerationOptions`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .checkpoint.dtypes import KV_CACHE_DTYPES, TARGETS, check_target
from .engine.options import GenerationOptions, check_given
from .errors import ConfigurationError
from .media.policy import ImagePolicy
from .quantization.plan import QUANTIZATIONS, VISION_QUANTIZATIONS, check_options
from .utils.arguments import positive
from .utils.option_fields import Option, described_options, option
from .utils.validation import check_boolean, check_path, check_text_or_none
from .zoo import DEFAULT_MODEL

MODEL, IMAGES, CONVERSATION, GENERATION = "model", "images", "conversation", "generation"
"""Groups of options."""


@dataclass(frozen=True)
class ModelOptions:
    """Which model is loaded, and how.

    Attributes:
        model: a directory, a known name, or a name in a public store.
        adapter: directory of a LoRA adapter, which is put beside the weights. A base model with one converses.
        dtype: one of ``checkpoint.dtypes.TARGETS``; ``None`` is bfloat16, or float32 on a CPU. A CPU answers another
            dtype that is asked for by name with float32, and says so.
        quantization: format of the linear weights, one of ``quantization.plan.QUANTIZATIONS``; ``None``: as stored.
        vision_quantization: another format for the image encoder, one of ``VISION_QUANTIZATIONS``.
        kv_cache_dtype: dtype of cached keys and values; ``None``: that of the activations.
        tensor_parallel: processes that share the model, each with its part of the weights; the first is this one.
        device: ``cpu``, ``gpu`` or ``gpu:N``, which becomes Paddle's current device; ``None``: the first GPU, else the
            CPU.
        from_hf_hub: take ``model`` as a name on the Hugging Face hub.
        exif_transpose: turn photos upright by their EXIF orientation; ``None``: as the model's
            ``preprocessor_config.json`` says.
        background: color behind transparent images; ``None``: as that file says, else the alpha channel is dropped.

    Raises:
        ConfigurationError: a value that cannot work.
    """

    model: str | os.PathLike[str] = option(
        DEFAULT_MODEL,
        str,
        "a directory, or a name such as qwen-vl/qwen-vl-chat-7b, which is downloaded when it is not there",
        group=MODEL,
        metavar="NAME_OR_DIR",
        flag="model_name_or_path",
        default=f"{DEFAULT_MODEL}, the small model that comes with the project",
    )
    adapter: str | os.PathLike[str] | None = option(
        None, str, "a LoRA adapter for the model, as fine-tuning or peft saves it", group=MODEL, metavar="DIR"
    )
    dtype: str | None = option(
        None,
        str,
        "dtype of the weights on a GPU; a CPU always computes in float32",
        group=MODEL,
        choices=TARGETS,
        default="bfloat16",
    )
    quantization: str | None = option(
        None,
        str,
        "quantize the weights to this format while loading; int4 and nf4 make head and vision int8",
        group=MODEL,
        choices=QUANTIZATIONS,
        default="as stored",
    )
    vision_quantization: str | None = option(
        None,
        str,
        "another format for the image encoder",
        group=MODEL,
        choices=VISION_QUANTIZATIONS,
        default="int8 with int4, nf4 and int8",
    )
    kv_cache_dtype: str | None = option(
        None,
        str,
        "dtype of cached keys and values; on a CPU bfloat16 halves them",
        group=MODEL,
        choices=KV_CACHE_DTYPES,
        default="as the activations",
    )
    tensor_parallel: int = option(
        1,
        positive,
        "processes, on GPUs one for each, that share the model, each with its part of the weights",
        group=MODEL,
        metavar="N",
        default="1",
    )
    device: str | None = option(
        None, str, "where to run", group=MODEL, metavar="cpu|gpu|gpu:N", default="the first GPU, else the CPU"
    )
    from_hf_hub: bool = False
    exif_transpose: bool | None = option(
        None,
        bool,
        "turn photos upright by their EXIF orientation; boxes, pixels and drawn images are then those of the upright "
        "image",
        group=IMAGES,
        default="as the model's preprocessor_config.json says, else False, as the original",
    )
    background: Sequence[int] | str | None = option(
        None,
        str,
        "color that transparent images are laid upon, such as white or #fff8f0",
        group=IMAGES,
        metavar="COLOR",
        default="the alpha channel is dropped, as in the original",
    )

    @classmethod
    def of(cls, model: str | os.PathLike[str], options: Mapping[str, Any]) -> ModelOptions:
        """The options of ``model`` from keyword arguments. Raises ConfigurationError, also for an unknown name."""
        known = [item.name for item in dataclasses.fields(cls) if item.name != "model"]
        for name in options:
            if name not in known:
                raise ConfigurationError(f"{name}: unknown option of a model; known: {', '.join(known)}")
        return cls(model=model, **options)

    def __post_init__(self) -> None:
        if self.dtype is not None:
            check_target(self.dtype)
        check_options(self.quantization, self.vision_quantization)
        _check_image_options(self.exif_transpose, self.background)
        if type(self.tensor_parallel) is not int or self.tensor_parallel < 1:
            raise ConfigurationError(f"tensor_parallel: got {self.tensor_parallel!r}, expected an integer from 1 on")
        if self.adapter is not None:
            check_path("adapter", self.adapter)


@dataclass(frozen=True)
class SessionOptions:
    """What a conversation begins with, and which images it may read.

    Attributes:
        system: system text of chat models; ``None``: their usual one.
        trusted_tags: read ``<ref> <box> <quad>`` out of prompts; otherwise text is only text.
        image_policy: what images may be read from; ``None``: files and public URLs.
        max_pixels: maximum pixels of an image, in place of the policy's.

    Raises:
        ConfigurationError: a value that cannot work.
    """

    system: str | None = option(
        None, str, "system text that chat models get before the conversation", group=CONVERSATION, metavar="TEXT"
    )
    trusted_tags: bool = option(
        False,
        bool,
        "read <ref>, <box> and <quad> in your text as tags",
        group=CONVERSATION,
        default="False, text is only text",
    )
    image_policy: ImagePolicy | None = option(
        None,
        str,
        "a paddlemix.media.ImagePolicy: what may be read",
        group=IMAGES,
        flag="",
        default="files and public URLs",
    )
    max_pixels: int | None = option(
        None,
        positive,
        "maximum pixels of an image in memory; a larger JPEG is read at a half, a quarter or an eighth of its size, "
        "another image is refused",
        group=IMAGES,
        metavar="N",
        default="32000000",
    )

    def __post_init__(self) -> None:
        check_text_or_none("system", self.system)
        check_boolean("trusted_tags", self.trusted_tags)
        if self.image_policy is not None and not isinstance(self.image_policy, ImagePolicy):
            came = type(self.image_policy).__name__
            raise ConfigurationError(f"image_policy: got {came}, expected an ImagePolicy")
        _ = self.policy  # a wrong max_pixels

    @property
    def policy(self) -> ImagePolicy:
        """What images may be read from."""
        policy = ImagePolicy.scripts() if self.image_policy is None else self.image_policy
        return policy if self.max_pixels is None else policy.replace(max_pixels=self.max_pixels)


MODEL_OPTIONS = described_options(ModelOptions)
SESSION_OPTIONS = described_options(SessionOptions)
GENERATION_OPTIONS = described_options(GenerationOptions)
ALL_OPTIONS: Mapping[str, Option] = {**MODEL_OPTIONS, **SESSION_OPTIONS, **GENERATION_OPTIONS}
"""Name -> description of every option that users of the programs and of Appflow have."""


def split_options(options: Mapping[str, Any], **model: Any) -> tuple[ModelOptions, SessionOptions, dict[str, Any]]:
    """Sort keyword arguments into the options of the model, of the conversation, and of generation.

    Args:
        options: entries of :data:`ALL_OPTIONS`.
        **model: further fields of :class:`ModelOptions`.

    Raises:
        ConfigurationError: an unknown name, or a value of the wrong type or range.
    """
    of_model = {name: value for name, value in options.items() if name in MODEL_OPTIONS}
    of_session = {name: value for name, value in options.items() if name in SESSION_OPTIONS}
    rest = {name: value for name, value in options.items() if name not in {*of_model, *of_session}}
    generation = check_generation_options(rest)
    return ModelOptions(**of_model, **model), SessionOptions(**of_session), generation


def check_generation_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are set (not ``None``; a seed of -1 is none either), checked early, as loading may take minutes.

    Raises:
        ConfigurationError: an unknown name, or a value of the wrong type or range.
    """
    for name in options:
        if name not in GENERATION_OPTIONS:
            raise ConfigurationError(f"{name}: unknown generation option; known: {', '.join(GENERATION_OPTIONS)}")
    given = {name: value for name, value in options.items() if value is not None and (name, value) != ("seed", -1)}
    check_given(given)
    return given


def _check_image_options(exif_transpose: bool | None, background: Sequence[int] | str | None) -> None:
    """Raise ConfigurationError for what no image processor takes; ``None`` is fine."""
    if exif_transpose is None and background is None:
        return
    from .models.qwen_vl.image_processing import QwenVLImageProcessor, parse_color

    color = parse_color(background) if isinstance(background, str) else background
    QwenVLImageProcessor(exif_transpose=False if exif_transpose is None else exif_transpose, background=color)
