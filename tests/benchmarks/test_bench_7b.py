import re

import pytest

from benchmarks.bench_7b import parse_arguments
from tests.benchmarks.programs import ONE_LAYER, run, tables


@pytest.mark.slow
def test_two_turns_of_a_conversation_are_timed(real_vocab_file):
    printed = run("bench_7b.py", *ONE_LAYER, "--new-tokens", "4", "--vocabulary", str(real_vocab_file))
    (turns,) = tables(printed)
    assert [row["turn"] for row in turns] == ["1", "2"]
    first, second = turns
    assert first["reused"] == "0" and float(first["encode s"]) > 0
    # The second turn finds the whole first prompt in the cache, image included, and encodes no image.
    assert int(second["reused"]) >= int(first["prompt"]) > 256 and second["encode s"] == "0.00"
    for row in turns:
        assert float(row["first token s"]) >= float(row["prefill s"]) and float(row["tokens/s"]) > 0
        assert re.fullmatch(r"\d+%", row["of plain reads"])
    share = float(re.search(r"first token after ([\d.]+)% of the first turn's", printed)[1])
    assert share > 0
    assert float(re.search(r"Peak memory without their buffer: ([\d.]+) GB", printed)[1]) > 0.1


def test_an_answer_of_one_token_has_no_step_to_time(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--new-tokens", "1", "--vocabulary", "qwen.tiktoken"])
    assert "--new-tokens: got 1, expected at least 2" in capsys.readouterr().err
