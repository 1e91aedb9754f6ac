"""Shares of digits are those of values drawn near the right one."""

import numpy as np
import pytest

from examples.bundled_model.training.coordinates import SPREAD, digit_shares


@pytest.mark.parametrize("value", [0, 3, 98, 101, 451, 500, 999])
def test_padded_digits_one_after_the_other_give_the_bell_curve(value):
    shares = digit_shares(padded=True)[value]
    others = np.arange(1000)
    bell = np.exp(-0.5 * ((others - value) / SPREAD) ** 2)
    bell /= bell.sum()
    digits = [int(digit) for digit in f"{value:03}"]
    assert shares[0, digits[0]] == pytest.approx(bell[others // 100 == digits[0]].sum(), abs=1e-3)
    here = others // 10 == value // 10
    assert shares[2, digits[2]] == pytest.approx(bell[value] / bell[here].sum(), abs=1e-3)
    chain = np.prod([shares[place, digit] for place, digit in enumerate(digits)])
    assert chain == pytest.approx(bell[value], abs=1e-3)


def test_written_digits_have_no_leading_zeros_and_change_length_where_values_do():
    written = digit_shares()
    assert written[98, 0, 9] > written[98, 0, 1] > 0.3 > 0.05 > written[98, 0, 8]
    assert not written[98, 2].any() and not written[3, 1:].any()
    assert written[100, 0, 1] == pytest.approx(0.55, abs=0.02)


def test_shares_of_every_digit_that_is_written_sum_to_one():
    sums = digit_shares().sum(axis=-1)
    for value in range(1000):
        np.testing.assert_allclose(sums[value, : len(str(value))], 1, atol=1e-5)
    np.testing.assert_allclose(digit_shares(padded=True).sum(axis=-1), 1, atol=1e-5)
