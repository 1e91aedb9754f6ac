"""What users of transformers and PaddleNLP write in ``from_pretrained``, and what it means here.

Each argument is mapped, where it has a meaning; passed over, where it changes nothing here; or refused by name with
what to write instead, where passing it over would give another result than the one that was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...checkpoint.dtypes import TARGETS
from ...errors import ConfigurationError
from ...utils.display import NAME_LIMIT, escape_controls, shorten
from .vocabulary import ENDOFTEXT

#: arguments that change nothing here, and why
PASSED_OVER = {
    "trust_remote_code": "the code is paddlemix's own; none is fetched or run",
    "code_revision": "the code is paddlemix's own",
    "attn_implementation": "paddlemix.ops chooses by device; the results are the same",
    "_attn_implementation": "paddlemix.ops chooses by device; the results are the same",
    "use_flash_attention_2": "paddlemix.ops chooses by device; the results are the same",
    "low_cpu_mem_usage": "one tensor at a time is held beside the model, always",
    "use_safetensors": "the format is found out from the files; reading any of them runs no code",
    "weights_only": "reading any file runs no code",
    "convert_from_torch": "the layout is found out from the files",
    "resume_download": "an interrupted download goes on, always",
    "use_fast": "there is one tokenizer and one image processor",
    "legacy": "there is one tokenizer",
    "_fast_init": "parameters are not initialized before they are loaded",
    "_from_auto": "it says where the call came from",
    "_commit_hash": "it says where the call came from",
    "user_agent": "it says where the call came from",
}

_ANEW = "remove the directory of the model in the cache to fetch it anew"
_ONE_DEVICE = "a model lies on one device"
_CONVERTER = "examples/qwen_vl/convert_weights.py reads what can be read"
#: arguments that may only be there with a value that does nothing: those values, and what to do instead
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "load_in_8bit": ((None, False), "write quantization='int8'"),
    "load_in_4bit": ((None, False), "write quantization='nf4' or 'int4'"),
    "force_download": ((None, False), _ANEW),
    "proxies": ((None, {}), "set HTTPS_PROXY in the environment"),
    "mirror": ((None,), "set HF_ENDPOINT in the environment"),
    "subfolder": ((None, ""), "name the directory itself"),
    "variant": ((None, ""), "name a directory that holds these weights alone"),
    "repo_type": ((None, "model"), "only models are looked for"),
    "from_aistudio": ((None, False), "download the model first, and name its directory"),
    "from_tf": ((None, False), _CONVERTER),
    "from_flax": ((None, False), _CONVERTER),
    "gguf_file": ((None,), _CONVERTER),
    "max_memory": ((None,), f"{_ONE_DEVICE}; quantization='int4' makes it smaller"),
    "offload_folder": ((None,), f"{_ONE_DEVICE}; quantization='int4' makes it smaller"),
    "offload_state_dict": ((None, False), f"{_ONE_DEVICE}; quantization='int4' makes it smaller"),
    "offload_buffers": ((None, False), f"{_ONE_DEVICE}; quantization='int4' makes it smaller"),
    "tp_plan": ((None,), _ONE_DEVICE),
    "device_mesh": ((None,), _ONE_DEVICE),
    "state_dict": ((None,), "load the model and call set_state_dict"),
    "output_loading_info": ((None, False), "what does not fit is an error that lists it"),
    "ignore_mismatched_sizes": ((None, False), "what does not fit is an error that lists it"),
    "return_unused_kwargs": ((None, False), "unknown arguments are errors"),
}
_HUB = ("revision", "cache_dir", "token")
_SPECIAL_TOKENS = {"pad_token": ENDOFTEXT, "eos_token": ENDOFTEXT, "bos_token": None, "unk_token": None}
_DTYPES = {"half": "float16", "float": "float32", "fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
_SPREADING = ("balanced", "balanced_low_0", "sequential")


def split_arguments(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take out of ``given`` what concerns no field: (keyword arguments for ``hub.resolve``, what is left).

    Raises:
        ConfigurationError: an argument asks for what cannot be done.
    """
    rest = {name: value for name, value in given.items() if name not in PASSED_OVER}
    for name, (neutral, advice) in _REFUSED.items():
        value = rest.pop(name, None)
        if not any(value is one or (type(value) is type(one) and value == one) for one in neutral):
            raise ConfigurationError(f"{name}={_shown(value)}: is not supported; {advice}")
    options = {name: rest.pop(name) for name in _HUB if name in rest}
    old_token = rest.pop("use_auth_token", None)
    if old_token is not None and options.setdefault("token", old_token) != old_token:
        raise ConfigurationError("use_auth_token: is the old name of token; leave it out")
    for name, option, value in (("local_files_only", "offline", True), ("from_hf_hub", "store", "huggingface")):
        switch = rest.pop(name, None)
        if switch is not None and not isinstance(switch, bool):
            raise ConfigurationError(f"{name}: got {_shown(switch)}, expected True or False")
        if switch:
            options[option] = value
    return options, rest


def split_tokenizer_arguments(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """As :func:`split_arguments`, for a tokenizer, whose special tokens cannot be changed."""
    options, rest = split_arguments(given)
    for name, token in _SPECIAL_TOKENS.items():
        value = rest.pop(name, token)
        if value is not None and str(value) != token:
            advice = f"it is {token!r}; padding is hidden by attention_mask" if token else "there is none"
            raise ConfigurationError(f"{name}: got {_shown(value)}, but {advice}; leave it out")
    return options, rest


def requested_dtype(dtype: Any, torch_dtype: Any) -> str | None:
    """One of ``dtypes.TARGETS``, or None for what the checkpoint or the device says.

    Args:
        dtype: a name, "auto", or a dtype of torch, Paddle or NumPy.
        torch_dtype: the same, as older programs write it.

    Raises:
        ConfigurationError: another dtype, or two of them.
    """
    first, second = (_dtype_name(name, value) for name, value in (("dtype", dtype), ("torch_dtype", torch_dtype)))
    if first is not None and second is not None and first != second:
        raise ConfigurationError(f"torch_dtype: got {second} beside dtype={first}; give one of them")
    return first if first is not None else second


def with_plain_dtypes(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration fields in which dtypes are names, as in a file, and "auto" is left out."""
    named = {name: _dtype_name(name, fields[name]) for name in ("dtype", "torch_dtype") if name in fields}
    rest = {name: value for name, value in fields.items() if name not in named}
    return {**rest, **{name: value for name, value in named.items() if value is not None}}


def requested_device(device_map: Any) -> str | None:
    """The device that ``device_map`` puts the whole model on, as Paddle calls it; None where it leaves the choice.

    Raises:
        ConfigurationError: it spreads the model over devices.
    """
    if isinstance(device_map, Mapping):
        devices = {str(device) for device in device_map.values()}
        if len(devices) != 1:
            raise ConfigurationError(f"device_map={_shown(device_map)}: {_ONE_DEVICE}; write 'cpu' or 'gpu:0'")
        device_map = next(iter(device_map.values()))
    if device_map is None or (isinstance(device_map, str) and device_map == "auto"):
        return None
    name = f"gpu:{device_map}" if type(device_map) is int else _plain(device_map).replace("cuda", "gpu", 1)
    if name in _SPREADING:
        raise ConfigurationError(f"device_map={_shown(device_map)}: {_ONE_DEVICE}; write 'auto', 'cpu' or 'gpu:0'")
    return name


def refuse_quantization_config(value: Any) -> None:
    """Refuse how another library would quantize; None is nothing, a dict is a file's section.

    Raises:
        ConfigurationError: an object of another library.
    """
    if value is not None and not isinstance(value, Mapping):
        raise ConfigurationError(
            f"quantization_config: got {type(value).__name__}; write quantization='nf4', 'int4' or 'int8' to round the "
            "weights while they are loaded; how a checkpoint is quantized already stands in its config.json"
        )


def _dtype_name(argument: str, value: Any) -> str | None:
    name = _plain(value)
    if value is None or name == "auto":
        return None
    name = _DTYPES.get(name, name)
    if name not in TARGETS:
        raise ConfigurationError(f"{argument}: got {_shown(value)}, expected 'auto' or one of {', '.join(TARGETS)}")
    return name


def _plain(value: Any) -> str:
    """The name of a dtype or device of any library: also of ``torch.float16`` and ``Place(gpu:0)``."""
    text = value.__name__ if isinstance(value, type) else str(value)
    place = re.fullmatch(r"Place\((.*)\)", text)
    return place[1] if place else text.rpartition(".")[2]


def _shown(value: Any) -> str:
    return shorten(escape_controls(repr(value)), NAME_LIMIT)
