import numpy as np
import pytest

from paddlemix.engine.request import SamplingParams
from paddlemix.engine.sampler import RowSampler, largest, likeliest, row_generator
from paddlemix.errors import NumericalError


def logits_of(seed=0, size=50):
    return np.random.default_rng(seed).normal(scale=3, size=size).astype(np.float32)


def chosen(params, logits, prompt=(), **arguments):
    return RowSampler(SamplingParams(**params), prompt, len(logits)).choose(logits, **arguments).token_id


PROBABILITIES = np.array([0.1, 0.4, 0.05, 0.3, 0.15])
LOGITS = np.log(PROBABILITIES).astype(np.float32)


class Uniforms:
    """In place of a random generator: these numbers, one after the other."""

    def __init__(self, values):
        self.values = iter(values)

    def random(self):
        return next(self.values)


def drawn(uniforms, temperature=1.0, **params):
    """The tokens that these uniform numbers draw."""
    sampler = RowSampler(SamplingParams(temperature=temperature, **params), (), 5)
    sampler._generator = Uniforms(uniforms)
    return [sampler.choose(LOGITS).token_id for _ in uniforms]


@pytest.mark.parametrize(
    ("options", "kept", "temperature"),
    [
        ({}, [0, 1, 2, 3, 4], 1.0),
        ({"temperature": 0.5}, [0, 1, 2, 3, 4], 0.5),
        ({"temperature": 2.0}, [0, 1, 2, 3, 4], 2.0),
        ({"top_k": 2}, [1, 3], 1.0),
        ({"top_k": 99}, [0, 1, 2, 3, 4], 1.0),
        ({"top_p": 0.39}, [1], 1.0),
        ({"top_p": 0.41}, [1, 3], 1.0),
        ({"top_p": 0.8}, [1, 3, 4], 1.0),
        ({"top_p": 0.0}, [1], 1.0),
        ({"top_k": 3, "top_p": 0.8}, [1, 3], 1.0),
    ],
)
def test_draws_from_the_wanted_distribution(options, kept, temperature):
    frequencies = np.bincount(drawn((np.arange(1000) + 0.5) / 1000, **options), minlength=5) / 1000
    weights = np.where(np.isin(np.arange(5), kept), PROBABILITIES ** (1 / temperature), 0)
    np.testing.assert_allclose(frequencies, weights / weights.sum(), atol=0.002)


def test_uniform_numbers_at_the_ends_are_valid():
    ends = [0.0, np.nextafter(1.0, 0.0)]
    assert drawn(ends) == [1, 2]  # the likeliest, the least likely
    assert drawn(ends, top_p=0.5) == [1, 3]
    assert drawn(ends, top_k=1) == [1, 1]


def test_a_rows_numbers_depend_on_seed_and_row_alone():
    children = np.random.SeedSequence(5).spawn(3)
    for row, child in enumerate(children):
        assert row_generator(5, row).random() == np.random.default_rng(child).random()
    assert row_generator(5, 0).random() != row_generator(6, 0).random()
    assert row_generator(None, 0).random() != row_generator(None, 0).random()


def test_repetition_counts_the_prompt_and_the_others_count_the_answer():
    logits = np.array([2.0, 1.9, -1.0], np.float32)
    assert chosen({"repetition_penalty": 1.2}, logits, prompt=[0]) == 1
    assert chosen({"presence_penalty": 1.0}, logits, prompt=[0]) == 0
    sampler = RowSampler(SamplingParams(frequency_penalty=0.3), [0], 3)
    assert [sampler.choose(logits).token_id for _ in range(4)] == [0, 1, 0, 1]
    sampler = RowSampler(SamplingParams(presence_penalty=0.3), [], 3)
    assert [sampler.choose(logits).token_id for _ in range(4)] == [0, 1, 0, 0]


def test_biases_and_masks():
    logits = np.array([2.0, 1.9, -1.0], np.float32)
    assert chosen({"logit_bias": {2: 10.0}}, logits) == 2
    assert chosen({"logit_bias": {2: 10.0}}, logits, allowed=np.array([True, True, False])) == 0
    assert chosen({"min_tokens": 1, "stop_token_ids": (0, 7)}, logits) == 1
    np.testing.assert_array_equal(logits, np.array([2.0, 1.9, -1.0], np.float32))


def test_ids_beyond_the_vocabulary_are_never_chosen():
    assert RowSampler(SamplingParams(), [], 2).choose(np.array([0, 1, 9], np.float32)).token_id == 1


def test_min_p_keeps_what_is_likely_enough():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    for min_p, kept in ((0.0, 4), (0.2, 3), (0.5, 2), (1.0, 1)):
        assert len(likeliest(logits, SamplingParams(temperature=1.0, min_p=min_p))[0]) == kept


def test_log_probabilities_are_those_before_the_temperature():
    logits = logits_of()
    token = RowSampler(SamplingParams(logprobs=2, temperature=5.0, seed=1), [], 50).choose(logits)
    expected = logits - np.log(np.exp(logits.astype(np.float64)).sum())
    assert token.logprob == pytest.approx(expected[token.token_id], abs=1e-5)
    assert [i for i, _ in token.top] == np.argsort(-logits)[:2].tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_no_number_is_an_error(value, temperature):
    logits = logits_of()
    logits[3] = value
    with pytest.raises(NumericalError, match="new token 1"):
        chosen({"temperature": temperature, "seed": 1}, logits)


def test_a_hook_sees_all_ids_and_changes_the_logits_first():
    seen = []

    def hook(ids, logits):
        seen.append(ids.tolist())
        return logits[::-1]

    sampler = RowSampler(SamplingParams(), [4], 3, hook)
    logits = np.array([2.0, 1.9, -1.0], np.float32)
    assert [sampler.choose(logits).token_id for _ in range(2)] == [2, 2]
    assert seen == [[4], [4, 2]]


def sorted_reference(logits, params):
    """What is kept and how likely each is, by sorting everything, in float64."""
    order = np.argsort(-logits, kind="stable")
    order = order[: params.top_k] if params.top_k else order
    weights = np.exp((logits[order].astype(np.float64) - logits[order[0]]) / params.temperature)
    likely = weights / weights.sum()
    kept = (np.cumsum(likely) - likely < params.top_p) | (params.top_p == 1.0)
    kept &= likely >= params.min_p * likely[0]
    return order[kept], likely[kept] / likely[kept].sum()


RESTRICTED = [
    {"top_p": 0.3}, {"top_p": 0.95}, {"top_k": 40}, {"top_k": 700, "top_p": 0.8}, {"min_p": 0.1},
    {"top_p": 0.7, "min_p": 0.3}, {},
]  # fmt: skip


@pytest.mark.parametrize("spread", [0.3, 3.0, 12.0])
@pytest.mark.parametrize("options", RESTRICTED)
def test_what_is_drawn_without_sorting_has_the_distribution_of_sorting(options, spread):
    generator = np.random.default_rng(1)
    logits = (generator.normal(size=5000) * spread).astype(np.float32)
    logits[generator.integers(0, 5000, 300)] = -np.inf  # as grammars leave them
    params = SamplingParams(temperature=0.7, **options)
    expected, likely = sorted_reference(logits, params)
    tokens, cumulative, whole = likeliest(logits, params)
    np.testing.assert_array_equal(tokens, expected)
    np.testing.assert_allclose(cumulative / whole, np.cumsum(likely), rtol=1e-4)
    sampler, ends = RowSampler(params, (), len(logits)), np.cumsum(likely)
    for uniform in [0.0, *generator.random(30), float(np.nextafter(np.float32(1), np.float32(0)))]:
        index = int(np.flatnonzero(expected == sampler._draw(logits, uniform))[0])
        assert ends[index] - likely[index] - 1e-4 <= uniform <= ends[index] + 1e-4


@pytest.mark.parametrize("options", RESTRICTED)
def test_of_equally_likely_tokens_the_first_are_kept(options):
    tokens, _, _ = likeliest(np.zeros(5000, np.float32), SamplingParams(temperature=0.7, **options))
    expected, _ = sorted_reference(np.zeros(5000, np.float32), SamplingParams(temperature=0.7, **options))
    np.testing.assert_array_equal(tokens, np.arange(len(tokens)))
    assert abs(len(tokens) - len(expected)) <= 1  # rounding decides where the sum is reached


@pytest.mark.parametrize("count", [1, 5, 16, 17, 999, 1000, 2000])
def test_the_largest_are_found_in_order(count):
    values = np.random.default_rng(0).integers(0, 60, 1000).astype(np.float32)
    np.testing.assert_array_equal(largest(values, count), np.argsort(-values, kind="stable")[:count])


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 3}, {"min_p": 0.1}, {"logprobs": 2}, {"repetition_penalty": 1.1}, {"presence_penalty": 0.5},
        {"frequency_penalty": 0.5}, {"logit_bias": {1: 2.0}}, {"min_tokens": 1, "stop_token_ids": (4,)},
    ],
)  # fmt: skip
def test_what_a_device_cannot_choose_is_left_to_the_host(options):
    assert RowSampler(SamplingParams(**options), [1], 50).device_choice(4) is None
    assert RowSampler(SamplingParams(), [1], 50, lambda ids, logits: logits).device_choice(4) is None


def test_random_numbers_are_the_same_whether_device_or_host_uses_them():
    params = SamplingParams(temperature=0.8, top_p=0.9, seed=3, stop_token_ids=(4,))
    generator = row_generator(3, 0)
    expected = [generator.random() for _ in range(6)]
    sampler, alone = RowSampler(params, [1], 50), RowSampler(params, [1], 50)
    choice = sampler.device_choice(4)
    assert (choice.temperature, choice.top_p, choice.stop_ids) == (0.8, 0.9, (4,))
    assert list(choice.uniforms) == expected[:4]
    for _ in range(2):  # a device uses two of them
        token = alone.choose(logits_of()).token_id
        assert sampler.accept(token, -1.0).token_id == token
    assert list(sampler.device_choice(4).uniforms) == expected[2:6]
    assert [sampler.choose(logits_of(i)) for i in range(5)] == [alone.choose(logits_of(i)) for i in range(5)]


def test_a_device_tells_by_the_log_probability_that_logits_were_no_numbers():
    with pytest.raises(NumericalError, match="new token 1"):
        RowSampler(SamplingParams(), [1], 50).accept(3, float("nan"))
    assert RowSampler(SamplingParams(), [1], 50).accept(3, -2.0).logprob == 0.0
    assert RowSampler(SamplingParams(logprobs=0), [1], 50).accept(3, -2.0).logprob == -2.0
