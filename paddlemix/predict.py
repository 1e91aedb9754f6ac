"""One question about images, from the names of things to an answer with drawn boxes.

from paddlemix.predict import predict

prediction = predict("框出图中公交车的位置", ["street.jpg"])
print(prediction.text, prediction.boxes)
prediction.save("output")
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import PromptError
from .inference import CAPTION, check_generation_options, check_image_options, load_model, with_seed
from .media import ImagePolicy, load_image
from .media.loading import full_size
from .media.saving import save_image
from .models.qwen_vl.messages import check_image_count, check_question
from .quantization.plan import check_options
from .utils.validation import check_boolean, check_text_or_none
from .zoo import DEFAULT_MODEL

if TYPE_CHECKING:
    from PIL import Image

    from .media.loading import ImageSource
    from .models.qwen_vl.grounding import Box

IMAGE_NAME = "pred.jpg"


@dataclass(frozen=True)
class Prediction:
    """An answer.

    text: as the model wrote it, tags of boxes included.
    boxes: the places it points at, in thousandths of the width and height of the last image.
    image: a copy of that image with the boxes drawn in; None without boxes or image.
    size: (width, height) in which pixels of boxes count, None without an image: that of the image's file, turned
        upright where ``exif_transpose`` says so. ``image`` is smaller where a large JPEG was reduced.
    timings: seconds: ``model`` (loading it), ``load`` (images), ``encode`` (the ViT), ``prefill``, ``decode``, and
        ``total``, which leaves out the model.
    prompt_tokens, new_tokens: ids of the prompt, and ids generated.
    finish_reason: ``"stop"``, or ``"length"`` where ``max_new_tokens`` or the model's window cut the answer off.
    """

    text: str
    boxes: list[Box]
    image: Image.Image | None
    size: tuple[int, int] | None
    timings: dict[str, float]
    prompt_tokens: int
    new_tokens: int
    finish_reason: str

    def save(self, directory: str | os.PathLike[str]) -> Path | None:
        """Write the drawn image as ``pred.jpg`` into ``directory``, replacing an older one; None if there is none."""
        return None if self.image is None else save_image(self.image, Path(directory) / IMAGE_NAME)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the image, ready for JSON."""
        return {
            "text": self.text,
            "boxes": [self._box(box) for box in self.boxes],
            "finish_reason": self.finish_reason,
            "timings": {name: round(seconds, 4) for name, seconds in self.timings.items()},
            "image_size": None if self.size is None else list(self.size),
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
        }

    def _box(self, box: Box) -> dict[str, Any]:
        result = dataclasses.asdict(box)
        if self.size is not None:
            result["pixels"] = list(box.pixels(*self.size))
        return result


def predict(
    prompt: str | None,
    images: Sequence[ImageSource] = (),
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    dtype: str | None = None,
    device: str | None = None,
    quantization: str | None = None,
    vision_quantization: str | None = None,
    kv_cache_dtype: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    system: str | None = None,
    trusted_tags: bool = False,
    seed: int | None = None,
    image_policy: ImagePolicy | None = None,
    exif_transpose: bool | None = None,
    background: Sequence[int] | str | None = None,
    max_pixels: int | None = None,
    **generation: Any,
) -> Prediction:
    """Load a model and ask it one question.

    Args:
        prompt: the question; with an image it may be None, which is :data:`.inference.CAPTION`.
        images: paths, http(s) addresses, PIL images …, shown before the question in this order.
        model, dtype, device, quantization, vision_quantization, kv_cache_dtype, adapter: see
            :func:`paddlemix.inference.load_model`.
        system: system text of chat models.
        trusted_tags: read ``<ref> <box> <quad>`` out of the prompt; otherwise text is only text.
        seed: of the random draws, for models that draw.
        image_policy: what may be read; by default files and public addresses.
        exif_transpose, background: how the model sees photos with an EXIF orientation and transparent images, as in
            :func:`paddlemix.inference.load_model`.
        max_pixels: most pixels of an image, in place of the policy's.
        **generation: entries of :data:`paddlemix.inference.GENERATION_OPTIONS`.

    Images and options are checked before the model is loaded. Raises PaddleMixError and its subclasses.
    """
    if prompt is None and not images:
        raise PromptError("prompt: missing; give a prompt, an image, or both")
    question = CAPTION if prompt is None else prompt
    check_question(question, images, name="prompt")
    check_text_or_none("system", system)
    check_boolean("trusted_tags", trusted_tags)
    generation = check_generation_options({**generation, "seed": seed})
    check_options(quantization, vision_quantization)
    check_image_options(exif_transpose, background)
    policy = image_policy or ImagePolicy.scripts()
    if max_pixels is not None:
        policy = policy.replace(max_pixels=max_pixels)
    check_image_count(images)
    pil_images = [load_image(source, policy) for source in images]
    loaded = load_model(
        model,
        dtype,
        device,
        quantization=quantization,
        vision_quantization=vision_quantization,
        kv_cache_dtype=kv_cache_dtype,
        adapter=adapter,
        exif_transpose=exif_transpose,
        background=background,
    )
    session = loaded.new_session(system, policy, trusted_tags)
    reply = session.ask(question, pil_images, **with_seed(generation))
    return Prediction(
        text=reply.text,
        boxes=reply.boxes,
        image=reply.image(),
        size=None if reply.source_image is None else full_size(reply.source_image),
        timings={"model": loaded.seconds, **reply.timings},
        prompt_tokens=reply.prompt_tokens,
        new_tokens=reply.new_tokens,
        finish_reason=reply.finish_reason,
    )
