import pytest
from paddlenlp.generation import GenerationConfig

from paddlemix.engine.options import resolve_options
from paddlemix.errors import ConfigurationError

DEFAULTS = GenerationConfig(
    max_new_tokens=512, do_sample=True, top_k=0, top_p=0.3, eos_token_id=290, pad_token_id=290, chat_format="chatml"
)


def resolve(config=None, **given):
    return resolve_options(DEFAULTS, config, given)


def test_defaults_come_from_the_models_file():
    options = resolve()
    assert (options.max_new_tokens, options.do_sample, options.top_k, options.top_p) == (512, True, 0, 0.3)
    assert (options.eos_token_id, options.pad_token_id) == ((290,), 290)


def test_a_config_replaces_the_models_but_not_its_stop_ids():
    options = resolve(GenerationConfig(max_new_tokens=7))
    assert (options.max_new_tokens, options.do_sample, options.top_p) == (7, False, 1.0)
    assert (options.eos_token_id, options.pad_token_id) == ((290,), 290)


def test_arguments_come_first_and_none_counts_as_not_given():
    config = GenerationConfig(max_new_tokens=7, do_sample=True)
    assert resolve(config, max_new_tokens=3, do_sample=None).max_new_tokens == 3
    assert resolve(config, do_sample=None).do_sample is True


@pytest.mark.parametrize(("strategy", "sampled"), [("sampling", True), ("greedy_search", False)])
def test_paddlenlps_strategy_names_are_understood(strategy, sampled):
    assert resolve(decode_strategy=strategy).do_sample is sampled
    assert resolve(GenerationConfig(decode_strategy=strategy)).do_sample is sampled


@pytest.mark.parametrize(
    ("given", "ids"), [(-1, ()), (5, (5,)), ([5, 6], (5, 6)), ((-1,), ())], ids=["none", "one", "list", "none in list"]
)
def test_stop_ids(given, ids):
    options = resolve(eos_token_id=given)
    assert (options.eos_token_id, options.pad_token_id) == (ids, 290)


def test_minus_one_is_no_seed():
    assert resolve(seed=-1).seed is None
    assert resolve(seed=0).seed == 0


@pytest.mark.parametrize("temperature", [0, 0.0, 1e-9])
def test_temperature_0_is_greedy(temperature):
    options = resolve(temperature=temperature)
    assert (options.do_sample, options.temperature, options.top_p) == (False, 1.0, 1.0)
    assert resolve(GenerationConfig(do_sample=True, temperature=temperature)).do_sample is False


def test_top_k_of_minus_1_keeps_all():
    assert resolve(top_k=-1).top_k == resolve(top_k=0).top_k == 0
    assert resolve(GenerationConfig(do_sample=True, top_k=-1)).top_k == 0


@pytest.mark.parametrize("unused", [{"temperature": -3}, {"temperature": "x"}, {"top_p": 7}, {"top_k": 0.5}])
def test_options_of_sampling_are_not_looked_at_in_greedy_decoding(unused):
    options = resolve(GenerationConfig(**unused))
    assert (options.do_sample, options.temperature, options.top_k, options.top_p) == (False, 1.0, 0, 1.0)
    with pytest.raises(ConfigurationError, match=next(iter(unused))):
        resolve(GenerationConfig(**unused), do_sample=True)


def test_max_length_does_not_count_beside_max_new_tokens():
    assert resolve(max_length=100, max_new_tokens=7).max_new_tokens == 7
    assert resolve(GenerationConfig(max_length=100, max_new_tokens=7)).max_new_tokens == 7
    assert resolve(GenerationConfig(max_length=100), max_new_tokens=7).max_new_tokens == 7
    with pytest.raises(ConfigurationError, match="max_length: counts the prompt, too, got 100; use max_new_tokens"):
        resolve(GenerationConfig(max_length=100))


def test_methods_names_in_a_config_are_no_options():
    config = GenerationConfig()
    for name in ("validate", "update", "to_dict"):
        setattr(config, name, 5)
    assert resolve(config).max_new_tokens == 20


def test_one_stop_string_needs_no_list():
    assert resolve(stop_strings="\n").stop_strings == ("\n",)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"top_kk": 1}, "top_kk: unknown generation option; did you mean top_k"),
        ({"max_length": 1}, "max_length: unknown generation option"),
        ({"num_beams": 4}, "num_beams: beam search is not supported, got 4"),
        ({"decode_strategy": "beam_search"}, "decode_strategy"),
        ({"max_new_tokens": 0}, "max_new_tokens: expected an integer of at least 1, got 0"),
        ({"max_new_tokens": 2.5}, "max_new_tokens"),
        ({"max_new_tokens": True}, "max_new_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 1.5}, "top_p: expected a number from 0 to 1, got 1.5"),
        ({"top_k": -2}, "top_k"),
        ({"repetition_penalty": -1.0}, "repetition_penalty"),
        ({"do_sample": 1}, "do_sample"),
        ({"seed": 1.5}, "seed"),
        ({"seed": -2}, "seed"),
        ({"num_return_sequences": 2, "do_sample": False}, "do_sample=True"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
        ({"stop_token_sequences": [[]]}, "stop_token_sequences"),
        ({"stop_token_sequences": [5]}, "stop_token_sequences"),
        ({"stop_strings": [""]}, "stop_strings"),
        ({"stop_strings": [3]}, "stop_strings"),
        ({"stop_strings": 3}, "stop_strings"),
        ({"eos_token_id": 0.5}, "eos_token_id: expected an integer from -1 to 2147483647 or a list of ids or null"),
        ({"pad_token_id": "x"}, "pad_token_id"),
        ({"stop_token_sequences": "x"}, "stop_token_sequences"),
        ({"stop_token_sequences": [["1"]]}, "stop_token_sequences"),
        ({"prefill_chunk_size": 10**320}, "prefill_chunk_size"),
        ({"num_return_sequences": 10**9}, "num_return_sequences: expected an integer from 1 to 1024"),
        ({"num_return_sequences": 2, "temperature": 0.0}, "a temperature above 0"),
        ({"decode_strategy": ["sampling"]}, "decode_strategy"),
    ],
)
def test_what_cannot_work_is_refused_by_name(given, message):
    with pytest.raises(ConfigurationError, match=message):
        resolve(**given)


@pytest.mark.parametrize(
    "field", [{"num_beams": 2}, {"forced_bos_token_id": 1}, {"max_length": 100}, {"no_repeat_ngram_size": 3}]
)
def test_unsupported_fields_of_a_config_are_refused_by_name(field):
    with pytest.raises(ConfigurationError, match=next(iter(field))):
        resolve(GenerationConfig(**field))
