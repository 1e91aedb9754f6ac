"""Which model a ``config.json`` is of, where it is none of Qwen-VL (version 1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...errors import ConfigurationError
from ...utils.display import quoted
from ...utils.schema import shown

# model_type of the published files, and what others have written for the same model
_OWN_TYPES = ("", "qwen", "qwen_vl", "qwen-vl", "qwenvl")
# Names by what model_type or a class of architectures begins with, in lower case and without - and _; longer ones
# first where one begins with another.
_OTHERS = tuple(
    (re.compile(start), name)
    for start, name in (
        (r"textmonkey", "TextMonkey"),
        (r"monkey", "Monkey"),
        (r"qwen3omni", "Qwen3-Omni"),
        (r"qwen3vl", "Qwen3-VL"),
        (r"qwen3", "Qwen3, a language model without vision"),
        (r"qwen2\.?5vl", "Qwen2.5-VL"),
        (r"qwen2\.?5omni", "Qwen2.5-Omni"),
        (r"qwen2audio", "Qwen2-Audio"),
        (r"qwen2vl", "Qwen2-VL"),
        (r"qwen2", "Qwen2, a language model without vision"),
        (r"qwenaudio", "Qwen-Audio"),
        (r"llavanextvideo", "LLaVA-NeXT-Video"),
        (r"llavanext", "LLaVA-NeXT"),
        (r"llavaonevision", "LLaVA-OneVision"),
        (r"llava", "LLaVA"),
        (r"videollava", "Video-LLaVA"),
        (r"internlmxcomposer", "InternLM-XComposer"),
        (r"internvl", "InternVL"),
        (r"internlm", "InternLM"),
        (r"minicpmv", "MiniCPM-V"),
        (r"minicpmo", "MiniCPM-o"),
        (r"cogvlm|cogagent|chatglm", "GLM (CogVLM, CogAgent, ChatGLM)"),
        (r"glm4", "GLM-4"),
        (r"deepseekvl|multimodality", "DeepSeek-VL or Janus"),
        (r"deepseek", "DeepSeek"),
        (r"mplugowl", "mPLUG-Owl"),
        (r"idefics", "Idefics"),
        (r"paligemma", "PaliGemma"),
        (r"gemma", "Gemma"),
        (r"instructblip", "InstructBLIP"),
        (r"blip2", "BLIP-2"),
        (r"florence2", "Florence-2"),
        (r"phi3v|phi4", "Phi-Vision"),
        (r"mllama", "Llama 3.2 Vision"),
        (r"llama", "Llama"),
        (r"pixtral", "Pixtral"),
        (r"mistral|mixtral", "Mistral"),
        (r"kosmos2", "Kosmos-2"),
        (r"molmo", "Molmo"),
        (r"ovis", "Ovis"),
        (r"clip", "CLIP"),
    )
)
_OURS = "this project runs Qwen-VL (version 1), such as Qwen/Qwen-VL-Chat"


def refuse_other_models(fields: Mapping[str, Any]) -> None:
    """Raise ConfigurationError, naming it where it is known, for the configuration of another model."""
    model_type, classes = fields.get("model_type"), fields.get("architectures")
    if not isinstance(model_type, (str, type(None))):
        raise ConfigurationError(f"model_type: expected a text, got {shown(model_type)}")
    named = [model_type or "", *(classes if isinstance(classes, list) else [])]
    # The class says more than the type: some models kept the type of the one that they were made from.
    for text in reversed([text for text in named if isinstance(text, str)]):
        plain = re.sub(r"[-_ ]", "", text[:100].lower())
        found = next((name for start, name in _OTHERS if start.match(plain)), None)
        if found is not None:
            raise ConfigurationError(f"is the configuration of {found} ({quoted(text)}); {_OURS}")
    if model_type is not None and model_type.lower() not in _OWN_TYPES:
        raise ConfigurationError(f"model_type: is the configuration of a {quoted(model_type)} model; {_OURS}")
    if "audio" in fields and "visual" not in fields:
        raise ConfigurationError(f"is the configuration of Qwen-Audio (it has a field 'audio'); {_OURS}")
    if "vision_config" in fields or "text_config" in fields:
        raise ConfigurationError(
            f"is the configuration of another model (it has vision_config or text_config; Qwen-VL has visual); {_OURS}"
        )
    if fields.get("visual") is None:
        raise ConfigurationError(f"is the configuration of text-only Qwen (it has no field 'visual'); {_OURS}")
