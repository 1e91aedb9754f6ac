"""One question about images, from the names of things to an answer with drawn boxes.

from paddlemix.predict import predict

reply = predict("框出图中公交车的位置", ["street.jpg"])
print(reply.text, reply.boxes)
reply.save("output")
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .chat.reply import Reply
from .errors import PromptError
from .inference import CAPTION, load_model, with_seed
from .media import load_image
from .models.qwen_vl.messages import check_image_count, check_question
from .options import split_options
from .zoo import DEFAULT_MODEL

if TYPE_CHECKING:
    from .media.loading import ImageSource

Prediction = Reply


def predict(
    prompt: str | None,
    images: Sequence[ImageSource] = (),
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    **options: Any,
) -> Reply:
    """Load a model and ask it one question.

    Images and options are checked before the model is loaded.

    Args:
        prompt: the question; with an image it may be ``None``, which is :data:`.inference.CAPTION`.
        images: paths, http(s) URLs, PIL images …, shown before the question in this order.
        model: a directory, a known name, or a name in a public store.
        **options: fields of :class:`paddlemix.options.ModelOptions`, :class:`paddlemix.options.SessionOptions` and
            :class:`paddlemix.engine.options.GenerationOptions`.

    Returns:
        The answer; ``timings["model"]`` has the seconds that loading the model took.

    Raises:
        PaddleMixError: one of its subclasses.
    """
    if prompt is None and not images:
        raise PromptError("prompt: missing; give a prompt, an image, or both")
    question = CAPTION if prompt is None else prompt
    check_question(question, images, name="prompt")
    check_image_count(images)
    model_options, session_options, generation = split_options(options, model=model)
    policy = session_options.policy
    pil_images = [load_image(source, policy) for source in images]
    loaded = load_model(model_options)
    session = loaded.new_session(session_options.system, policy, session_options.trusted_tags)
    reply = session.ask(question, pil_images, **with_seed(generation))
    return dataclasses.replace(reply, timings={"model": loaded.seconds, **reply.timings})
