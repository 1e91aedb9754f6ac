"""Two replicas under Ray Serve, in a network of their own; ``scenario.py`` is what happens to them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.serving.replicas.scenario import MODEL, ROOT

pytest.importorskip("ray")
SECONDS = 900


@pytest.mark.slow
def test_two_replicas_and_what_can_happen_to_them():
    program = [sys.executable, "-m", "tests.serving.replicas.scenario"]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-8000:]
    seen = json.loads(done.stdout)
    assert seen["ready"] == {"status": "ready", "replicas": {MODEL: 2}} and seen["models"] == [MODEL]
    assert seen["page"] == 200 and seen["wrong_field"] == "temperature"
    assert seen["strangers"] and "answered" not in seen["strangers"].values(), "the token is asked for"

    assert [status for status, _ in seen["bodies"].values()] == [200, 413]

    affinity = seen["affinity"]
    assert affinity["kept"] == affinity["requests"] == 40 and affinity["replicas"] == 2
    assert affinity["least_cached"] >= 64 and affinity["replicas_of_one_header"] == 1
    assert seen["metrics"] == {"replicas": 2, "families_once": True, "running": True}

    pressure = seen["backpressure"]
    assert pressure["answered"] + pressure["refused"] == 40 and pressure["refused"] == pressure["with_retry_after"] > 0
    assert pressure["statuses"] == [429] and pressure["codes"] == ["queue_full"]

    killed = seen["killed"]
    assert killed["replicas_of_failed"] == 1 and killed["error_codes"] == ["replica_lost"] and killed["all_done"]
    assert killed["ended_with_error_event"] == killed["whole_streams"] == 3
    assert set(killed["plain_statuses"]) == set(killed["afterwards"]) == {200} and killed["new_processes"] == 1

    assert seen["redeployed"]["lost"] == 0 and seen["redeployed"]["replicas"] >= 4, seen["redeployed"]
    assert seen["stopped"] == {"stream_whole": True, "refused_meanwhile": "stopping", "status": 0, "left": []}
