"""How many processes share a replica, an optimizer's state, or nothing."""

import pytest

from paddlemix.errors import ConfigurationError
from paddlemix.parallel.degrees import STAGE1, Degrees


@pytest.mark.parametrize(
    ("options", "degrees"),
    [
        ((8, None, None), (1, 8, 1)),
        ((8, STAGE1, None), (8, 1, 1)),
        ((8, STAGE1, 2), (2, 4, 1)),
        ((1, STAGE1, None), (1, 1, 1)),
        ((8, STAGE1, 2, 2), (2, 2, 2)),
        ((8, None, None, 4), (1, 2, 4)),
    ],
)
def test_what_sharding_does_not_need_is_data_parallel(options, degrees):
    assert Degrees.of(*options) == Degrees(*degrees)


def test_processes_that_cannot_be_divided_are_refused():
    with pytest.raises(ConfigurationError, match=r"sharding_parallel_degree: got 3 for 8 replica\(s\)"):
        Degrees.of(8, STAGE1, 3)
    with pytest.raises(ConfigurationError, match=r"tensor_parallel_degree: got 3 for 8 process\(es\)"):
        Degrees.of(8, None, None, 3)
