"""The options of ``generate``: where each comes from, what it may be, and what is refused."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ...checks import check_integer
from ...errors import ConfigurationError

if TYPE_CHECKING:
    from paddlenlp.generation import GenerationConfig

# Fields of PaddleNLP's GenerationConfig that another value would give a meaning not implemented here.
_UNSUPPORTED = {
    "min_length": (0, None),
    "max_length": (0, None, 20),
    "diversity_rate": (0.0, None),
    "no_repeat_ngram_size": (0, None),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "num_beam_groups": (1, None),
    "use_cache": (True, None),
    "use_fast": (False, None),
}


@dataclass(frozen=True)
class GenerationOptions:
    """How to generate.

    Attributes:
        max_new_tokens: most tokens to generate, cut to what the model's window leaves.
        min_new_tokens: so many tokens come before a stop id may.
        do_sample: draw at random; otherwise take the most likely token.
        temperature, top_k, top_p: of the drawing; ``top_k`` 0 and ``top_p`` 1 keep all tokens.
        repetition_penalty: divides (multiplies, where negative) the logits of all tokens seen so far, the prompt's
            included; 1 is off.
        num_return_sequences: answers for each prompt.
        seed: of the drawing; the same seed gives the same answers. ``None`` or −1: a new one each time.
        eos_token_id: tokens that end an answer; −1 or ``None``: none.
        pad_token_id: stands behind the end of an answer that is shorter than others.
        stop_token_sequences: runs of tokens that end an answer.
        stop_strings: texts that end an answer; they need ``tokenizer=``.
        prefill_chunk_size: feed the prompt in parts of so many positions, which bounds the memory; 0: in one.
    """

    max_new_tokens: int = 20
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    num_return_sequences: int = 1
    seed: int | None = None
    eos_token_id: tuple[int, ...] = ()
    pad_token_id: int | None = None
    stop_token_sequences: tuple[tuple[int, ...], ...] = ()
    stop_strings: tuple[str, ...] = ()
    prefill_chunk_size: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("max_new_tokens", 1),
            ("min_new_tokens", 0),
            ("top_k", 0),
            ("num_return_sequences", 1),
            ("prefill_chunk_size", 0),
        ):
            check_integer(name, getattr(self, name), least)
        if not isinstance(self.do_sample, bool):
            raise ConfigurationError(f"do_sample: expected True or False, got {self.do_sample!r}")
        for name in ("temperature", "repetition_penalty"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                hint = "; for the most likely answer use do_sample=False" if name == "temperature" else ""
                raise ConfigurationError(f"{name}: expected a number greater than 0, got {value!r}{hint}")
        if isinstance(self.top_p, bool) or not isinstance(self.top_p, (int, float)) or not 0 <= self.top_p <= 1:
            raise ConfigurationError(f"top_p: expected a number from 0 to 1, got {self.top_p!r}")
        if self.seed is not None and (not isinstance(self.seed, int) or self.seed < 0):
            raise ConfigurationError(f"seed: expected an integer of at least 0, or None or -1, got {self.seed!r}")
        if self.num_return_sequences > 1 and not self.do_sample:
            raise ConfigurationError(
                f"num_return_sequences: {self.num_return_sequences} greedy answers would all be the same; "
                "use do_sample=True"
            )


def resolve_options(
    defaults: GenerationConfig, generation_config: GenerationConfig | None, given: dict[str, Any]
) -> GenerationOptions:
    """The options from keyword arguments, else from ``generation_config``, else from the model's ``defaults``.

    ``generation_config`` replaces ``defaults`` as a whole, save the stop and padding ids that it leaves open. A keyword
    argument of ``None`` counts as not given.

    Raises:
        ConfigurationError: an unknown option, or a value that cannot work.
    """
    config = defaults if generation_config is None else generation_config
    names = [field.name for field in fields(GenerationOptions)]
    given = {name: value for name, value in given.items() if value is not None}
    _check_names(given, names)
    _check_config(config)
    strategy = given.pop("decode_strategy", None)
    values = {name: getattr(config, name) for name in names if getattr(config, name, None) is not None}
    values.setdefault("do_sample", getattr(config, "decode_strategy", None) == "sampling")
    for name in ("eos_token_id", "pad_token_id"):
        values.setdefault(name, getattr(defaults, name, None))
    if strategy is not None:
        values["do_sample"] = _sampling_of(strategy)
    values.update(given)
    values.pop("num_beams", None)
    values["eos_token_id"] = _stop_ids(values["eos_token_id"])
    if values["pad_token_id"] is None:
        values["pad_token_id"] = next(iter(values["eos_token_id"]), None)
    if values.get("seed") == -1:
        values["seed"] = None
    values["stop_token_sequences"] = _sequences(values.get("stop_token_sequences", ()))
    values["stop_strings"] = _strings(values.get("stop_strings", ()))
    return GenerationOptions(**values)


def _check_names(given: dict[str, Any], names: list[str]) -> None:
    if given.get("num_beams", 1) != 1:
        raise ConfigurationError(f"num_beams: beam search is not supported, got {given['num_beams']!r}; leave it at 1")
    for name in given:
        if name not in names and name not in ("num_beams", "decode_strategy"):
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
            raise ConfigurationError(f"{name}: unknown generation option; {hint}")


def _check_config(config: GenerationConfig) -> None:
    if (getattr(config, "num_beams", 1) or 1) != 1:
        raise ConfigurationError(f"generation_config.num_beams: beam search is not supported, got {config.num_beams}")
    for name, neutral in _UNSUPPORTED.items():
        value = getattr(config, name, None)
        if value not in neutral:
            raise ConfigurationError(
                f"generation_config.{name}: not supported, got {value!r}; remove it"
                + ("; use max_new_tokens or min_new_tokens" if name.endswith("_length") else "")
            )


def _sampling_of(strategy: str) -> bool:
    if strategy not in ("greedy_search", "sampling"):
        raise ConfigurationError(f"decode_strategy: expected 'greedy_search' or 'sampling', got {strategy!r}")
    return strategy == "sampling"


def _stop_ids(value: int | Sequence[int] | None) -> tuple[int, ...]:
    ids = () if value is None else (value,) if isinstance(value, int) else tuple(value)
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise ConfigurationError(f"eos_token_id: expected an id, a list of ids or -1 for none, got {value!r}")
    return tuple(i for i in ids if i >= 0)


def _sequences(value: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    try:
        sequences = tuple(tuple(int(i) for i in sequence) for sequence in value)
    except TypeError:
        sequences = ((),)
    if not all(sequences):
        raise ConfigurationError(f"stop_token_sequences: expected non-empty lists of ids, got {value!r}")
    return sequences


def _strings(value: str | Sequence[str]) -> tuple[str, ...]:
    strings = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, (list, tuple)) else (None,)
    if not all(isinstance(string, str) and string for string in strings):
        raise ConfigurationError(f"stop_strings: expected a text or a list of non-empty texts, got {value!r}")
    return strings
