"""Sessions, placement and metrics of replicas: plain functions."""

from __future__ import annotations

import json
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from paddlemix.serving.replicas.expositions import merged
from paddlemix.serving.replicas.placement import numa_nodes, parse_cpu_list, processors
from paddlemix.serving.replicas.sessions import ranked, read_target

FIVE = [f"replica-{i}" for i in range(5)]


def session(fields: object, header: str | None = None, salt: bytes = b"") -> str:
    return read_target(json.dumps(fields).encode(), header, salt).session


def talk(*texts: str) -> list[dict]:
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)]


def test_all_turns_of_a_conversation_are_one_session():
    first = session({"model": "m", "messages": talk("Where is the bus?")})
    assert first and first == session({"messages": talk("Where is the bus?", "There.", "And the dog?"), "stream": True})
    assert first == session({"messages": [{"role": "system", "content": "Be brief."}, *talk("Where is the bus?")]})
    assert first == session({"input": talk("Where is the bus?")}), "in whatever protocol"
    assert first != session({"messages": talk("Where is the dog?")})


def test_images_keys_and_headers_count():
    parts = [{"type": "image_url", "image_url": {"url": "data:1"}}, {"type": "text", "text": "x"}]
    other = [{"type": "image_url", "image_url": {"url": "data:2"}}, {"type": "text", "text": "x"}]
    asked = {"messages": [{"role": "user", "content": parts}]}
    assert session(asked) != session({"messages": [{"role": "user", "content": other}]})
    assert session(asked) != session(asked, salt=b"key of another")
    assert session(asked, "mine") == session({"messages": talk("anything")}, "mine") != session(asked, "yours")
    assert session(asked, "mine", b"a") != session(asked, "mine", b"b")


def test_a_prompt_is_a_session_by_its_beginning():
    long = "x" * 5000
    assert session({"prompt": long}) == session({"prompt": long + " and on"}) != session({"prompt": "y" + long})
    assert session({"prompt": [1, 2, 3]}) != session({"prompt": [1, 2, 4]})
    assert session({"prompt": "x", "images": ["data:1"]}) != session({"prompt": "x", "images": ["data:2"]})


def test_what_has_no_beginning_may_go_anywhere():
    for body in (
        b"",
        b"[1]",
        b"\xff",
        b"{",
        b"[" * 100_000,
        b'{"messages": 1}',
        b'{"messages": [1, {}]}',
        b'{"input": null}',
    ):
        assert read_target(body, None, b"").session == ""
    assert read_target(b'{"model": "m", "messages": []}', None, b"").model == "m"
    assert read_target(b'{"model": 5}', None, b"").model is None


def test_a_session_keeps_its_replica_while_others_come_and_go():
    sessions = [f"session {i}" for i in range(500)]
    first = {name: ranked(name, FIVE)[0] for name in sessions}
    assert {ranked(name, reversed(FIVE))[0] for name in sessions} == set(FIVE)
    assert first == {name: ranked(name, reversed(FIVE))[0] for name in sessions}, "whatever their order"
    without = {name: ranked(name, FIVE[1:])[0] for name in sessions}
    moved = {name for name in sessions if first[name] != without[name]}
    assert moved == {name for name in sessions if first[name] == FIVE[0]}
    assert all(without[name] == ranked(name, FIVE)[1] for name in moved), "to the second choice"
    shares = [list(first.values()).count(name) for name in FIVE]
    assert min(shares) > 70, shares


def test_processors_of_replicas():
    assert parse_cpu_list("0-3,8\n") == [0, 1, 2, 3, 8] and parse_cpu_list("\n") == []
    two_nodes, all_16 = [list(range(8)), list(range(8, 16))], list(range(16))
    assert [processors(i, 8, two_nodes, all_16) for i in range(2)] == two_nodes
    four = [processors(i, 4, two_nodes, all_16) for i in range(4)]
    assert four == [[0, 1, 2, 3], [8, 9, 10, 11], [4, 5, 6, 7], [12, 13, 14, 15]], "neighbors on different nodes"
    assert processors(4, 4, two_nodes, all_16) == all_16, "there is no more room"
    assert processors(0, 16, two_nodes, all_16) == all_16, "no node is that large"
    assert processors(1, 2, two_nodes, [0, 1, 2, 3]) == [2, 3], "only what this process may use"
    assert processors(1, 1, [], [4, 5]) == [5]


def test_nodes_as_the_kernel_lists_them(tmp_path: Path):
    for name, listed in (
        ("node0", "0-1\n"),
        ("node10", "4\n"),
        ("node2", "2-3\n"),
        ("node3", "\n"),
        ("has_cpu", "0\n"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cpulist").write_text(listed)
    assert numa_nodes(tmp_path) == [[0, 1], [2, 3], [4]]
    assert numa_nodes(tmp_path / "nowhere") == []


def test_metrics_of_all_replicas_stand_in_one_text():
    def exposition(steps: int) -> bytes:
        return (
            "# HELP paddlemix:engine_steps_total Steps.\n# TYPE paddlemix:engine_steps_total counter\n"
            f'paddlemix:engine_steps_total{{model_name="m"}} {steps}.0\n'
            "# HELP paddlemix:e2e Seconds.\n# TYPE paddlemix:e2e histogram\n"
            'paddlemix:e2e_bucket{le="1.0",model_name="m"} 1.0\npaddlemix:e2e_bucket{le="+Inf",model_name="m"} 2.0\n'
            'paddlemix:e2e_count{model_name="m"} 2.0\npaddlemix:e2e_sum{model_name="m"} 3.0\n'
        ).encode()

    text = merged({"a": exposition(3), "b": exposition(4)}).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    steps = families["paddlemix:engine_steps"]
    assert {sample.labels["replica"]: sample.value for sample in steps.samples} == {"a": 3.0, "b": 4.0}
    assert steps.type == "counter" and steps.documentation == "Steps." and families["paddlemix:e2e"].type == "histogram"
    assert len(families["paddlemix:e2e"].samples) == 8
    assert text.count("# TYPE paddlemix:engine_steps_total") == 1
    assert merged({}) == b""
