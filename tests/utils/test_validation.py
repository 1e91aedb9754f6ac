from __future__ import annotations

import pytest

from paddlemix.errors import ConfigurationError
from paddlemix.utils.validation import check_integer


@pytest.mark.parametrize(("value", "least"), [(1, 1), (0, 0), (-3, -3), (10**30, 1)])
def test_integers_from_the_least_on_are_accepted(value: int, least: int) -> None:
    assert check_integer("n", value, least) is None


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "1", None])
def test_anything_else_is_refused_by_name(value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^n: expected an integer of at least 1, got "):
        check_integer("n", value)
