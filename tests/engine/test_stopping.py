import pytest

from paddlemix.engine.stopping import StopSequences


def first_stop(sequences, tokens):
    watching = StopSequences(sequences)
    return next((i for i, token in enumerate(tokens) if watching.push(token)), None)


@pytest.mark.parametrize(
    ("sequences", "stop"),
    [([], None), ([[2, 3]], 2), ([[1, 3]], None), ([[3, 2], [2, 2]], 3), ([[9], [1, 2, 3, 2]], 3)],
)
def test_a_sequence_stops_where_it_is_complete(sequences, stop):
    assert first_stop(sequences, [1, 2, 3, 2, 2]) == stop


def test_an_overlapping_start_is_not_missed():
    assert first_stop([[1, 1, 2]], [1, 1, 1, 2]) == 3
