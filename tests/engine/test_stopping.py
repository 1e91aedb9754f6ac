import pytest

from paddlemix.engine.stopping import StopChecker
from paddlemix.models.qwen_vl.tokenization import QWenVLTokenizer
from tests.tiny_vocabulary import write_rank_file


def first_stop(checker, tokens):
    return next((i for i, token in enumerate(tokens) if checker.push(token)), None)


def test_without_conditions_nothing_stops():
    assert first_stop(StopChecker(), range(10)) is None


def test_a_stop_id_stops():
    assert first_stop(StopChecker(stop_ids=[7, 3]), [1, 2, 3, 7]) == 2


@pytest.mark.parametrize(
    ("sequences", "stop"), [([[2, 3]], 2), ([[1, 3]], None), ([[3, 2], [2, 2]], 3), ([[9], [1, 2, 3, 2]], 3)]
)
def test_a_sequence_stops_where_it_is_complete(sequences, stop):
    assert first_stop(StopChecker(sequences=sequences), [1, 2, 3, 2, 2]) == stop


def test_an_overlapping_start_is_not_missed():
    assert first_stop(StopChecker(sequences=[[1, 1, 2]]), [1, 1, 1, 2]) == 3


def test_a_string_stops_however_it_is_split_into_tokens(tmp_path):
    tokenizer = QWenVLTokenizer(write_rank_file(tmp_path / "qwen.tiktoken"))
    tokens = [tokenizer.encode(character)[0] for character in "so the end"]
    assert first_stop(StopChecker(strings=["the"], tokenizer=tokenizer), tokens) == 5
    assert first_stop(StopChecker(strings=["then", "!"], tokenizer=tokenizer), tokens) is None
