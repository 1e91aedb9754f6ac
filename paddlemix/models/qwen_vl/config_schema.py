"""``config.json`` of Qwen-VL: which fields there are, what they may be, and what is said of all others.

Everything here works on plain values and needs no Paddle, so loader, converter and processor agree on what a model's
configuration is before anything is allocated. The upper bounds are far beyond any model; they keep a damaged or
hostile file from asking for more memory than there is.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...checkpoint.dtypes import KV_CACHE_DTYPES
from ...errors import ConfigurationError
from ...quantization.plan import quant_method
from ...utils.display import quoted
from ...utils.files import CONFIG_FILE, read_json_object
from ...utils.schema import FLAG, NULL, TEXT, Field, check_fields, either, integer, list_of, number, one_of, shown

MAX_VOCAB_SIZE = 1 << 22
MAX_HIDDEN_SIZE = 1 << 17
MAX_LAYERS = 1024
MAX_HEADS = 4096
MAX_WINDOW = 1 << 24
MAX_IMAGE_SIZE = 4096
MAX_IMAGE_TOKENS = 1 << 14

LANGUAGE: dict[str, Field] = {
    "vocab_size": Field(integer(1, MAX_VOCAB_SIZE), 151936),
    "hidden_size": Field(integer(1, MAX_HIDDEN_SIZE), 4096),
    "num_hidden_layers": Field(integer(1, MAX_LAYERS), 32),
    "num_attention_heads": Field(integer(1, MAX_HEADS), 32),
    "kv_channels": Field(integer(1, MAX_HIDDEN_SIZE), 128),
    "intermediate_size": Field(integer(1, 16 * MAX_HIDDEN_SIZE), 22016),
    "max_position_embeddings": Field(integer(1, MAX_WINDOW), 8192),
    "seq_length": Field(integer(2, MAX_WINDOW), 2048),  # its logarithm divides
    "rotary_emb_base": Field(number(1, 1e12), 10000),
    "layer_norm_epsilon": Field(number(0, 1), 1e-6),
    "initializer_range": Field(number(0, 100), 0.02),
    "attn_dropout_prob": Field(number(0, 1, below=True), 0.0),
    "emb_dropout_prob": Field(number(0, 1, below=True), 0.0),
    "use_cache": Field(FLAG, True),
    "use_dynamic_ntk": Field(FLAG, True),
    "use_logn_attn": Field(FLAG, True),
    "bf16": Field(FLAG, False),
    "fp16": Field(FLAG, False),
    "fp32": Field(FLAG, False),
    "recompute": Field(FLAG, False),
    "kv_cache_dtype": Field(one_of(None, *KV_CACHE_DTYPES), None),
}
VISUAL: dict[str, Field] = {
    "image_size": Field(integer(1, MAX_IMAGE_SIZE), 448),
    "patch_size": Field(integer(1, MAX_IMAGE_SIZE), 14),
    "width": Field(integer(1, MAX_HIDDEN_SIZE), 1664),
    "layers": Field(integer(1, MAX_LAYERS), 48),
    "heads": Field(integer(1, MAX_HEADS), 16),
    "mlp_ratio": Field(number(0, 256, above=True), 4.9231),
    "output_dim": Field(integer(1, MAX_HIDDEN_SIZE), 4096),
    "image_start_id": Field(integer(0, MAX_VOCAB_SIZE), 151857),
    "n_queries": Field(integer(1, MAX_IMAGE_TOKENS), 256),
    "num_positions": Field(integer(1, 1 << 18), 256),
}

_TOKEN_ID = integer(-1, MAX_VOCAB_SIZE)
# Fields of PaddleNLP's base class that are kept, because they name things or are defaults of generation.
_KEPT: dict[str, Field] = {
    "architectures": Field(either(list_of(TEXT, "names"), NULL), ["QWenLMHeadModel"]),
    "dtype": Field(either(TEXT, NULL)),
    "torch_dtype": Field(either(TEXT, NULL)),
    "tokenizer_class": Field(either(TEXT, NULL)),
    "eos_token_id": Field(either(_TOKEN_ID, list_of(_TOKEN_ID, "ids"), NULL)),
    "pad_token_id": Field(either(_TOKEN_ID, NULL)),
    "bos_token_id": Field(either(_TOKEN_ID, NULL)),
}
# Fields that describe the file or the tools that wrote it, choose a kernel (which `paddlemix.ops` does from the
# device), or are for training by other tools. They change no result here, whatever they say.
_WITHOUT_EFFECT = {
    "auto_map", "model_type", "tokenizer_type", "name_or_path", "transformers_version", "paddlenlp_version",
    "paddlemix_version", "llm_pretrained_model_name_or_path", "return_dict", "use_flash_attn", "use_flash_attention",
    "use_fused_rms_norm", "use_fused_rope", "use_cache_kernel", "softmax_in_fp32", "attn_implementation",
    "gradient_checkpointing", "id2label", "label2id", "num_labels", "tensor_parallel_rank", "tensor_parallel_output",
    "transformers.js_config", "transformers_weights", "torchscript", "use_bfloat16", "tf_legacy_loss",
    "unsloth_version", "peft_version", "swift_version",
}  # fmt: skip
# Fields whose only supported values are given here, and why: the published checkpoints hold the first.
_FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "rotary_pct": ((1.0, None), "queries and keys are rotated whole"),
    "no_bias": ((True, None), "the linear layers of Qwen-VL have no bias"),
    "scale_attn_weights": ((True, None), "attention is always scaled"),
    "onnx_safe": ((None, False), "there is no other form of the model for ONNX"),
    "tie_word_embeddings": ((False, None), "the language-model head of Qwen-VL has weights of its own"),
    "use_cache_quantization": ((False, None), "choose the precision of the cache with kv_cache_dtype"),
}
# Fields of transformers and PaddleNLP for other models or for generation, with the value that does nothing.
_GENERATION: dict[str, Any] = {
    "max_length": 20, "min_length": 0, "max_new_tokens": None, "do_sample": False, "early_stopping": False,
    "num_beams": 1, "num_beam_groups": 1, "diversity_penalty": 0.0, "temperature": 1.0, "top_k": 50, "top_p": 1.0,
    "typical_p": 1.0, "repetition_penalty": 1.0, "length_penalty": 1.0, "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0, "bad_words_ids": None, "num_return_sequences": 1, "output_scores": False,
    "return_dict_in_generate": False, "forced_bos_token_id": None, "forced_eos_token_id": None,
    "remove_invalid_values": False, "exponential_decay_length_penalty": None, "suppress_tokens": None,
    "begin_suppress_tokens": None, "decoder_start_token_id": None,
}  # fmt: skip
_NEUTRAL: dict[str, Any] = {
    "add_cross_attention": False, "chunk_size_feed_forward": 0, "classifier_dropout": None,
    "context_parallel_degree": 1, "cross_attention_hidden_size": None, "finetuning_task": None,
    "fuse_attention_ffn": False, "fuse_attention_qkv": False, "fuse_sequence_parallel_allreduce": False,
    "is_decoder": False, "is_encoder_decoder": False, "layer_types": None, "no_recompute_layers": None,
    "num_choices": None, "offload_recompute_inputs": False, "output_attentions": False, "output_hidden_states": False,
    "pipeline_parallel_degree": 1, "pp_recompute_interval": 1, "prefix": None, "problem_type": None, "pruned_heads": {},
    "recompute_granularity": "full", "recompute_use_reentrant": False, "refined_recompute": "",
    "sep_parallel_degree": 1, "sep_token_id": None, "sequence_parallel": False, "sliding_window": None,
    "task_specific_params": None, "tensor_parallel_degree": 1, "tie_encoder_decoder": False,
    "use_fused_dropout_add": False, "use_fused_linear": False, "use_fused_linear_cross_entropy": False,
    "use_sliding_window": False, "virtual_pp_degree": 1,
}  # fmt: skip
_ROPE = ("rope_scaling", "rope_parameters", "rope_theta")
_SECTIONS = ("visual", "quantization_config")

KNOWN_FIELDS = frozenset(
    {*LANGUAGE, *_KEPT, *_WITHOUT_EFFECT, *_FIXED, *_GENERATION, *_NEUTRAL, *_ROPE, *_SECTIONS}
)  # fmt: skip


def read_config(directory: Path, **overrides: Any) -> dict[str, Any] | None:
    """The checked fields of a directory's ``config.json``, as :func:`check_config` returns them; None without a file.

    Loader and converter read it here. ``overrides`` replace fields of the file.

    Raises:
        CheckpointError: the file cannot be read as a JSON object.
        ConfigurationError: it is of another model, or a field is unknown or has a value that cannot work.
    """
    path = directory / CONFIG_FILE
    fields = read_json_object(path)
    if fields is None:
        return None
    try:
        refuse_other_models(fields)
        return check_config({**fields, **overrides})
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def read_visual(directory: Path) -> dict[str, Any] | None:
    """The checked fields of ``visual`` in a directory's ``config.json``, which a processor needs; None without a file.

    Raises:
        CheckpointError, ConfigurationError: as :func:`read_config`, for the types and ranges of the other fields, too,
            but not for how they fit each other.
    """
    path = directory / CONFIG_FILE
    fields = read_json_object(path)
    if fields is None:
        return None
    try:
        refuse_other_models(fields)
        check_fields(LANGUAGE, fields)
        return check_visual(fields["visual"])
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def check_config(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that the model is made from, with the published values where one is absent.

    ``visual`` is a dict with all of its fields, ``quantization_config`` a dict or None. Fields without effect here are
    left out.

    Raises:
        ConfigurationError: the first field that is unknown or has a value that cannot work.
    """
    _check_names(fields)
    values = check_fields(LANGUAGE, fields)
    values.update(check_fields(_KEPT, fields))
    values["visual"] = check_visual(fields.get("visual"))
    for name, (allowed, why) in _FIXED.items():
        if name in fields and fields[name] not in allowed:
            raise ConfigurationError(f"{name}: only {allowed[0]!r} is supported, got {shown(fields[name])}; {why}")
    for name, neutral in {**_GENERATION, **_NEUTRAL}.items():
        if name in fields:
            _check_switched_off(name, fields[name], neutral)
    for name in _ROPE:
        _check_rope(name, fields.get(name), values["rotary_emb_base"])
    section = fields.get("quantization_config")
    values["quantization_config"] = dict(section or {}) if quant_method(section) else None
    _check_relations(values)
    return values


def check_visual(fields: Any) -> dict[str, Any]:
    """The fields of ``visual``, with the published values where one is absent.

    Raises:
        ConfigurationError: the first field that is unknown or has a value that cannot work.
    """
    if not isinstance(fields, (Mapping, type(None))):
        raise ConfigurationError(f"visual: expected a dict of its fields, got {shown(fields)}")
    unknown = sorted(str(name) for name in fields or {} if name not in VISUAL and not str(name).startswith("_"))
    if unknown:
        raise ConfigurationError(
            f"visual: unknown field(s) {_listed(unknown)}; correct the spelling, or remove them from the configuration"
        )
    values = check_fields(VISUAL, fields or {}, "visual.")
    if int(values["width"] * values["mlp_ratio"]) < 1:
        raise ConfigurationError(f"visual.mlp_ratio: {values['mlp_ratio']:g} of width={values['width']} is less than 1")
    for name in ("n_queries", "num_positions"):
        if round(values[name] ** 0.5) ** 2 != values[name]:
            raise ConfigurationError(f"visual.{name}: expected a square number, got {values[name]}")
    for name, divisor in (("image_size", "patch_size"), ("width", "heads")):
        if values[name] % values[divisor]:
            raise ConfigurationError(
                f"visual.{name}: {values[name]} is not a multiple of visual.{divisor}={values[divisor]}"
            )
    heads = resampler_heads(values["output_dim"])
    if values["output_dim"] % heads:
        raise ConfigurationError(f"visual.output_dim: {values['output_dim']} is not a multiple of its {heads} heads")
    return values


def resampler_heads(output_dim: int) -> int:
    """The resampler's heads are 128 wide, as in the original; a narrower resampler has one head."""
    return max(output_dim // 128, 1)


def _check_names(fields: Mapping[str, Any]) -> None:
    """Names that begin with an underscore are other tools' private notes, and are passed over."""
    unknown = sorted(str(name) for name in fields if name not in KNOWN_FIELDS and not str(name).startswith("_"))
    if not unknown:
        return
    near = difflib.get_close_matches(unknown[0][:64], KNOWN_FIELDS, n=1)
    hint = f"did you mean {near[0]}?" if near else "remove them or correct the spelling"
    raise ConfigurationError(f"unknown configuration field(s) {_listed(unknown)}; {hint}")


def _listed(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(quoted(name) for name in names[:most]) + more


def _check_switched_off(name: str, value: Any, neutral: Any) -> None:
    """Fields for other models may only be there with the value that does nothing."""
    if value is None or value == neutral or (not value and not neutral):
        return
    if name.endswith("_degree") and value in (-1, 0, 1):
        return
    hint = "how to generate stands in generation_config.json" if name in _GENERATION else "remove it"
    raise ConfigurationError(f"{name}: only {neutral!r} is supported, got {shown(value)}; {hint}")


def _check_rope(name: str, value: Any, base: float) -> None:
    """What newer tools write beside ``rotary_emb_base`` may say the same and nothing else."""
    fields = {"rope_theta": value} if name == "rope_theta" else value
    if not fields:
        return
    neutral = {"type": "default", "rope_type": "default", "factor": 1, "rope_theta": base, "partial_rotary_factor": 1}
    if isinstance(fields, Mapping):
        wrong = [part for part, v in fields.items() if v is not None and v != neutral.get(part)]
        if not wrong:
            return
    raise ConfigurationError(
        f"{name}: got {shown(value)}, but positions are rotated as rotary_emb_base={base} says; other rotary "
        "embeddings are not supported"
    )


def _check_relations(values: Mapping[str, Any]) -> None:
    hidden, channels, heads = values["hidden_size"], values["kv_channels"], values["num_attention_heads"]
    visual = values["visual"]
    if channels * heads != hidden:
        raise ConfigurationError(f"kv_channels: {channels} × num_attention_heads={heads} is not hidden_size={hidden}")
    if channels % 2:
        raise ConfigurationError(f"kv_channels: expected an even number for the rotary embedding, got {channels}")
    if values["intermediate_size"] % 2:
        raise ConfigurationError(
            "intermediate_size: expected twice the feed-forward width, got the odd number "
            f"{values['intermediate_size']}"
        )
    if visual["output_dim"] != hidden:
        raise ConfigurationError(f"visual.output_dim: {visual['output_dim']} differs from hidden_size={hidden}")
    if visual["image_start_id"] + 2 >= values["vocab_size"]:
        raise ConfigurationError(
            f"visual.image_start_id: {visual['image_start_id']} and the two ids after it do not fit into "
            f"vocab_size={values['vocab_size']}"
        )
    chosen = [name for name in ("bf16", "fp16", "fp32") if values[name]]
    if len(chosen) > 1:
        raise ConfigurationError(f"{', '.join(chosen)}: at most one of bf16, fp16 and fp32 may be true")


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
