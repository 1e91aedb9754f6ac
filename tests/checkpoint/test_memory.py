from __future__ import annotations

from pathlib import Path

import pytest

from paddlemix.checkpoint import memory
from paddlemix.errors import NotEnoughMemoryError
from paddlemix.quantization.plan import plan_for
from tests.checkpoint.building import CONFIG
from tests.checkpoint.test_layouts import PUBLISHED


def test_weights_that_do_not_fit_are_refused_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 24_000_000_000)
    with pytest.raises(NotEnoughMemoryError, match="float32 weights need 38.6 GB .*, 24.0 GB are available; .*a GPU"):
        memory.check_memory(PUBLISHED, "float32")
    memory.check_memory(PUBLISHED, "bfloat16")
    memory.check_memory(CONFIG, "float32")


def test_advice_for_a_quantised_model_names_its_float_weights() -> None:
    plan = plan_for(None, "int8", None)
    with pytest.raises(NotEnoughMemoryError, match="; quantization= 'int4' .7.2 GB. would fit"):
        memory.check_memory(PUBLISHED, "float32", 9_000_000_000, plan)
    with pytest.raises(NotEnoughMemoryError, match="; the model's float weights with quantization= 'int4'"):
        memory.check_memory(PUBLISHED, "float32", 9_000_000_000, plan, stored_quantized=True)


def test_unknown_amount_of_memory_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    memory.check_memory(PUBLISHED, "float32")


def test_smaller_of_machine_and_control_group_counts(tmp_path: Path) -> None:
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    assert memory.available_memory(proc, cgroup) is None
    proc.mkdir()
    cgroup.mkdir()
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    assert memory.available_memory(proc, cgroup) == 8000 * 1024
    (cgroup / "memory.max").write_text("max\n")
    (cgroup / "memory.current").write_text("500000\n")
    assert memory.available_memory(proc, cgroup) == 8000 * 1024
    (cgroup / "memory.max").write_text("1000000\n")
    (cgroup / "memory.stat").write_text("anon 1\ninactive_file 100000\n")
    assert memory.available_memory(proc, cgroup) == 600_000


def test_older_control_groups_count_too(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("1000\n")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("400\n")
    assert memory.available_memory(tmp_path / "none", tmp_path) == 600


def test_this_machine_has_memory() -> None:
    available = memory.available_memory()
    assert available is None or available > 0
