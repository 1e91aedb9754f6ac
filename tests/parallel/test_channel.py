"""Commands as bytes, and what becomes of a channel whose processes are out of step."""

import numpy as np
import pytest

from paddlemix.errors import EngineError, PromptError
from paddlemix.parallel import channel as channel_module
from paddlemix.parallel.channel import CommandChannel, decode, encode
from paddlemix.parallel.group import TensorParallelGroup


def test_commands_and_arrays_come_out_as_they_went_in():
    command = {"do": "forward", "rows": [{"start": 3, "factor": 1.0}], "text": "é"}
    arrays = [np.arange(6, dtype=np.int64).reshape(2, 3), np.zeros([0, 4], np.float32), np.float32([[0.5]])]
    told, found = decode(encode(command, arrays))
    assert told == command
    for array, expected in zip(found, arrays):
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)


@pytest.fixture
def channel(monkeypatch):
    """Of a process that is not the first, and so sends no beat."""
    monkeypatch.setattr(channel_module, "_LAST_WORDS_SECONDS", 0.0)
    return CommandChannel(TensorParallelGroup(1, 2))


def test_a_failure_in_the_midst_of_a_command_is_the_last_one(channel):
    with pytest.raises(EngineError, match="not in step any more .RuntimeError."):
        with channel.turn():
            raise RuntimeError("connection reset")
    with pytest.raises(EngineError, match="a process is lost"):
        with channel.turn():
            pass


def test_what_is_wrong_with_a_request_is_wrong_in_all_processes(channel):
    with pytest.raises(PromptError):
        with channel.turn():
            raise PromptError("too long")
    with channel.turn():
        pass


def test_an_interrupt_waits_for_the_end_of_a_command(channel):
    import signal

    done = []
    with pytest.raises(KeyboardInterrupt):
        with channel.turn():
            signal.raise_signal(signal.SIGINT)
            done.append("the pass")
    assert done == ["the pass"]
    with channel.turn():
        pass
