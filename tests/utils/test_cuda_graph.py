"""The order of things around a capture; capturing itself needs a GPU."""

import paddle
import pytest

from paddlemix.utils import cuda_graph


def test_without_a_gpu_the_work_itself_is_done():
    def work():
        return 5

    assert not cuda_graph.can_capture()
    assert cuda_graph.captured(work, lambda: pytest.fail("prepared")) is work


@pytest.mark.parametrize(
    "device, switch, expected", [("gpu:0", None, True), ("gpu:0", "0", False), ("cpu", None, False)]
)
def test_the_environment_can_turn_graphs_off(monkeypatch, device, switch, expected):
    monkeypatch.setattr(paddle, "get_device", lambda: device)
    monkeypatch.setattr(cuda_graph.graphs, "is_cuda_graph_supported", lambda: True)
    monkeypatch.delenv(cuda_graph.SWITCH, raising=False)
    if switch is not None:
        monkeypatch.setenv(cuda_graph.SWITCH, switch)
    assert cuda_graph.can_capture() is expected


def test_work_is_warmed_up_and_captured_once_and_starts_from_what_was_prepared(monkeypatch):
    events = []

    class Graph:
        def __init__(self, place):
            events.append(str(place))

        def capture_begin(self):
            events.append("begin")

        def capture_end(self):
            events.append("end")

        def replay(self):
            events.append("replay")

    monkeypatch.setattr(cuda_graph, "can_capture", lambda: True)
    monkeypatch.setattr(cuda_graph, "current_place", lambda: "place")
    monkeypatch.setattr(cuda_graph.graphs, "CUDAGraph", Graph)
    monkeypatch.setattr(paddle.device, "synchronize", lambda: events.append("wait"))

    def work():
        events.append("work")
        return len(events)

    replay = cuda_graph.captured(work, lambda: events.append("prepare"))
    assert events == ["prepare", "work", "prepare", "work", "wait", "place", "begin", "work", "end", "prepare"]
    assert replay() == replay() == 8  # where the captured work left its result
    assert events[10:] == ["replay", "replay"]
