"""The options of ``generate``: where each comes from, what it may be, and what is refused."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from ..utils.option_fields import option
from ..utils.schema import FLAG, NULL, SOME_TEXT, Kind, check_kind, either, integer, list_of, number, one_of, shown

if TYPE_CHECKING:
    from paddlenlp.generation import GenerationConfig

    from .request import SamplingParams

MAX_TOKEN_ID = (1 << 31) - 1
_GROUP = "generation"
# Below, sampling is choosing the most likely token; dividing by it would overflow.
_GREEDY_TEMPERATURE = 1e-5

_TOKEN_ID = integer(-1, MAX_TOKEN_ID)
KINDS: dict[str, Kind] = {
    "max_new_tokens": integer(1),
    "min_new_tokens": integer(0),
    "do_sample": FLAG,
    "temperature": number(0, 1e6),
    "top_k": integer(-1, MAX_TOKEN_ID),
    "top_p": number(0, 1),
    "repetition_penalty": number(1e-3, 1e3),
    "num_return_sequences": integer(1, 1024),
    "seed": either(integer(-1), NULL),
    "eos_token_id": either(_TOKEN_ID, list_of(_TOKEN_ID, "ids"), NULL),
    "pad_token_id": either(_TOKEN_ID, NULL),
    "stop_token_sequences": list_of(list_of(_TOKEN_ID, "ids", 1), "non-empty lists of ids"),
    "stop_strings": list_of(SOME_TEXT, "non-empty texts"),
    "prefill_chunk_size": integer(0, MAX_TOKEN_ID),
    "prompt_lookup_num_tokens": integer(0, MAX_TOKEN_ID),
}
"""What each option may be."""

DECODE_STRATEGY = one_of("greedy_search", "sampling")
SAMPLING_OPTIONS = ("temperature", "top_k", "top_p")
"""Not looked at in greedy decoding."""

# Fields of a generation config that another value would give a meaning not implemented here, with the values that do
# nothing; those of _UNSUPPORTED_SAMPLING only where tokens are drawn at random.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "num_beams": (1, None),
    "diversity_rate": (0.0, None),
    "no_repeat_ngram_size": (0, None),
    "encoder_no_repeat_ngram_size": (0, None),
    "encoder_repetition_penalty": (1, None),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "forced_decoder_ids": (None, []),
    "force_words_ids": (None, []),
    "constraints": (None, []),
    "bad_words_ids": (None, []),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "sequence_bias": (None, [], {}),
    "exponential_decay_length_penalty": (None,),
    "guidance_scale": (1, None),
    "penalty_alpha": (0, None),
    "dola_layers": (None,),
    "watermarking_config": (None, {}),
    "use_cache": (True, None),
    "use_fast": (False, None),
}
_UNSUPPORTED_SAMPLING: dict[str, tuple[Any, ...]] = {
    "min_p": (0, None),
    "typical_p": (1, None),
    "epsilon_cutoff": (0, None),
    "eta_cutoff": (0, None),
}
# Lengths that count the prompt, what stands for them here, and values that tools write without meaning them.
_LENGTHS = {"max_length": ("max_new_tokens", (0, None, 20)), "min_length": ("min_new_tokens", (0, None))}
NAMES = frozenset({*KINDS, *_UNSUPPORTED, *_UNSUPPORTED_SAMPLING, *_LENGTHS, "decode_strategy"})
"""Fields of a generation config that are looked at; all others change nothing here."""


@dataclass(frozen=True)
class GenerationOptions:
    """How to generate.

    Attributes:
        max_new_tokens: most tokens to generate, cut to what the model's window leaves.
        min_new_tokens: so many tokens come before a stop id may.
        do_sample: draw at random; otherwise take the most likely token.
        temperature, top_k, top_p: of the drawing; ``top_k`` 0 or −1 and ``top_p`` 1 keep all tokens. A temperature of 0
            is greedy decoding. Without drawing, those of a file are not looked at.
        repetition_penalty: divides (multiplies, where negative) the logits of all tokens seen so far, the prompt's
            included; 1 is off.
        num_return_sequences: answers for each prompt.
        seed: of the drawing; the same seed gives the same answers. ``None`` or −1: a new one each time.
        eos_token_id: tokens that end an answer; −1 or ``None``: none.
        pad_token_id: stands behind the end of an answer that is shorter than others.
        stop_token_sequences: runs of tokens that end an answer.
        stop_strings: texts that end an answer; they need ``tokenizer=``.
        prefill_chunk_size: feed the prompt in parts of so many positions, which bounds the memory; 0: in one.
        prompt_lookup_num_tokens: propose up to so many tokens (at most 7), those that followed the latest ones earlier
            in the prompt or answer, and check them at once. The answer stays the same; one that repeats comes sooner.
    """

    max_new_tokens: int = option(20, int, "maximum number of generated tokens", group=_GROUP)
    min_new_tokens: int = option(0, int, "number of tokens before the answer may end", group=_GROUP)
    do_sample: bool = option(False, bool, "sample tokens instead of greedy decoding", group=_GROUP)
    temperature: float = option(1.0, float, "sampling temperature; 0 is greedy decoding", group=_GROUP)
    top_k: int = option(0, int, "sample among the k most likely tokens; 0 disables", group=_GROUP)
    top_p: float = option(1.0, float, "nucleus sampling probability; 1 disables", group=_GROUP)
    repetition_penalty: float = option(
        1.0, float, "divides the logits of tokens that occurred before; 1 disables", group=_GROUP
    )
    stop_strings: tuple[str, ...] = option(
        (), str, "text that ends the answer", group=_GROUP, metavar="TEXT", repeated=True
    )
    seed: int | None = option(
        None, int, "random seed of sampling; -1 draws a new one", group=_GROUP, default="1234", initial=1234
    )
    num_return_sequences: int = 1
    eos_token_id: tuple[int, ...] = ()
    pad_token_id: int | None = None
    stop_token_sequences: tuple[tuple[int, ...], ...] = ()
    prefill_chunk_size: int = 0
    prompt_lookup_num_tokens: int = 0

    def __post_init__(self) -> None:
        for name, kind in KINDS.items():
            if name not in SAMPLING_OPTIONS or self.do_sample is True:
                check_kind(name, getattr(self, name), kind)
        normal: dict[str, Any] = {}
        if self.do_sample and self.temperature < _GREEDY_TEMPERATURE:
            normal["do_sample"] = False
        if not self.do_sample or normal:
            normal.update(temperature=1.0, top_k=0, top_p=1.0)
        elif self.top_k == -1:
            normal["top_k"] = 0
        if self.seed == -1:
            normal["seed"] = None
        for name, value in normal.items():
            object.__setattr__(self, name, value)
        if self.num_return_sequences > 1 and not self.do_sample:
            raise ConfigurationError(
                f"num_return_sequences: {self.num_return_sequences} greedy answers would all be the same; "
                "use do_sample=True and a temperature above 0"
            )

    def sampling_params(self, **changes: Any) -> SamplingParams:
        """The same for a request to the engine; ``changes`` are fields of it."""
        from .prompt_lookup import MAX_PROPOSED  # which loads NumPy; the options alone do without
        from .request import SamplingParams

        params = SamplingParams(
            max_tokens=self.max_new_tokens,
            min_tokens=self.min_new_tokens,
            temperature=self.temperature if self.do_sample else 0.0,
            top_k=self.top_k,
            top_p=self.top_p,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
            stop_token_ids=self.eos_token_id,
            stop_sequences=self.stop_token_sequences,
            stop_strings=self.stop_strings,
            prompt_lookup_num_tokens=min(self.prompt_lookup_num_tokens, MAX_PROPOSED),
        )
        return replace(params, **changes)


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
    values = {name: getattr(config, name) for name in names if getattr(config, name, None) is not None}
    values.setdefault("do_sample", getattr(config, "decode_strategy", None) == "sampling")
    for name in ("eos_token_id", "pad_token_id"):
        values.setdefault(name, getattr(defaults, name, None))
    check_given(given)
    strategy = given.pop("decode_strategy", None)
    if strategy is not None:
        values["do_sample"] = _sampling_of(strategy)
    values.update((name, value) for name, value in given.items() if name in names)
    check_unsupported({**vars(config), **given}, sampling=values["do_sample"] is True, lengths=_lengths(config, given))
    values["eos_token_id"] = _stop_ids(values["eos_token_id"])
    if values["pad_token_id"] is None:
        values["pad_token_id"] = next(iter(values["eos_token_id"]), None)
    values["stop_token_sequences"] = tuple(map(tuple, _checked(values, "stop_token_sequences")))
    strings = values.get("stop_strings")
    values["stop_strings"] = (strings,) if isinstance(strings, str) else tuple(_checked(values, "stop_strings"))
    return GenerationOptions(**values)


def check_given(options: Mapping[str, Any]) -> None:
    """Raise ConfigurationError for a caller's option of a wrong type or range: also of sampling, where none is done."""
    for name, kind in KINDS.items():
        if name in options and not (name == "stop_strings" and SOME_TEXT.accepts(options[name])):
            check_kind(name, options[name], kind)


def check_unsupported(fields: Mapping[str, Any], *, sampling: bool, lengths: Collection[str]) -> None:
    """Raise ConfigurationError for a field of a generation config that asks for what is not implemented.

    sampling: whether tokens are drawn at random. lengths: those of ``max_new_tokens`` and ``min_new_tokens`` that were
    set, beside which ``max_length`` and ``min_length`` do not count, as in transformers.
    """
    for name, neutral in {**_UNSUPPORTED, **(_UNSUPPORTED_SAMPLING if sampling else {})}.items():
        if name in fields and fields[name] not in neutral:
            what = "beam search is not supported" if name == "num_beams" else "not supported"
            hint = f"leave it at {neutral[0]}" if name == "num_beams" else "remove it"
            raise ConfigurationError(f"{name}: {what}, got {shown(fields[name])}; {hint}")
    for name, (instead, neutral) in _LENGTHS.items():
        if name in fields and instead not in lengths and fields[name] not in neutral:
            raise ConfigurationError(f"{name}: counts the prompt, too, got {shown(fields[name])}; use {instead}")


def _lengths(config: GenerationConfig, given: Mapping[str, Any]) -> set[str]:
    """Those of the options for lengths that were set: PaddleNLP's class fills in 20 and 0."""
    unset = {"max_new_tokens": (20, None), "min_new_tokens": (0, None)}
    return {name for name, values in unset.items() if name in given or getattr(config, name, None) not in values}


def _check_names(given: dict[str, Any], names: list[str]) -> None:
    for name in given:
        beside = _LENGTHS[name][0] in given if name in _LENGTHS else False
        if name not in names and name not in ("num_beams", "decode_strategy") and not beside:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
            raise ConfigurationError(f"{name}: unknown generation option; {hint}")


def _sampling_of(strategy: Any) -> bool:
    check_kind("decode_strategy", strategy, DECODE_STRATEGY)
    return strategy == "sampling"


def _stop_ids(value: Any) -> tuple[int, ...]:
    check_kind("eos_token_id", value, KINDS["eos_token_id"])
    ids = () if value is None else (value,) if isinstance(value, int) else tuple(value)
    return tuple(i for i in ids if i >= 0)


def _checked(values: Mapping[str, Any], name: str) -> Collection[Any]:
    """A list among the options, empty where it is absent."""
    value = values.get(name, ())
    check_kind(name, value, KINDS[name])
    return value
