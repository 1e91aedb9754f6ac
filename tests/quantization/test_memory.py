from __future__ import annotations

from pathlib import Path

import pytest

from paddlemix.errors import NotEnoughMemoryError
from paddlemix.models.qwen_vl.weights import WEIGHTS
from paddlemix.quantization import memory
from paddlemix.quantization.plan import plan_for
from tests.checkpoint.building import CONFIG
from tests.models.qwen_vl.test_weights import PUBLISHED


def test_weights_that_do_not_fit_are_refused_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 24_000_000_000)
    with pytest.raises(NotEnoughMemoryError, match="float32 weights need 38.6 GB .*, 24.0 GB are available; .*a GPU"):
        memory.check_memory(WEIGHTS, PUBLISHED, "float32")
    memory.check_memory(WEIGHTS, PUBLISHED, "bfloat16")
    memory.check_memory(WEIGHTS, CONFIG, "float32")


def test_advice_for_a_quantized_model_names_its_float_weights() -> None:
    plan = plan_for(None, "int8", None)
    with pytest.raises(NotEnoughMemoryError, match="; quantization= 'int4' .7.2 GB. or 'nf4' .7.2 GB. would fit"):
        memory.check_memory(WEIGHTS, PUBLISHED, "float32", 9_000_000_000, plan)
    with pytest.raises(NotEnoughMemoryError, match="; the model's float weights with quantization= 'int4'"):
        memory.check_memory(WEIGHTS, PUBLISHED, "float32", 9_000_000_000, plan, stored_quantized=True)


def test_cache_and_activations_have_to_fit_too() -> None:
    memory.check_memory(WEIGHTS, PUBLISHED, "bfloat16", 20_000_000_000)
    memory.check_memory(WEIGHTS, PUBLISHED, "bfloat16", 20_000_000_000, working=600_000_000)
    with pytest.raises(NotEnoughMemoryError, match="need 19.3 GB of memory and an answer at least 0.8 GB, 20.0 GB"):
        memory.check_memory(WEIGHTS, PUBLISHED, "bfloat16", 20_000_000_000, working=800_000_000)


def test_unknown_amount_of_memory_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    memory.check_memory(WEIGHTS, PUBLISHED, "float32")


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


def group(folder: Path, version: int, most: object, used: int, inactive: int = 0) -> None:
    """A control group with a limit, as the kernel shows it."""
    folder.mkdir(parents=True, exist_ok=True)
    limit, usage = {1: ("limit_in_bytes", "usage_in_bytes"), 2: ("max", "current")}[version]
    (folder / f"memory.{limit}").write_text(f"{most}\n")
    (folder / f"memory.{usage}").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {inactive}\n")


def process(proc: Path, *lines: str) -> Path:
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("".join(line + "\n" for line in lines))
    (proc / "meminfo").write_text("MemAvailable:    8000000 kB\n")
    return proc


def test_the_process_own_group_counts_wherever_it_is(tmp_path: Path) -> None:
    proc = process(tmp_path / "proc", "0::/user.slice/job_7/step_0")
    mount = tmp_path / "cgroup"
    group(mount / "user.slice" / "job_7" / "step_0", 2, 700_000_000, 100_000_000, 5_000_000)
    assert memory.available_memory(proc, mount) == 605_000_000


@pytest.mark.parametrize("smallest", ["", "user.slice", "user.slice/job_7", "user.slice/job_7/step_0"])
def test_the_smallest_limit_on_the_way_up_counts(tmp_path: Path, smallest: str) -> None:
    proc = process(tmp_path / "proc", "0::/user.slice/job_7/step_0")
    mount = tmp_path / "cgroup"
    for name in ("user.slice", "user.slice/job_7", "user.slice/job_7/step_0", "other"):
        group(mount / name, 2, "max", 1000)
    group(mount / "other", 2, 1, 0)  # another job's
    group(mount / smallest, 2, 900_000, 200_000)
    assert memory.available_memory(proc, mount) == 700_000


def test_groups_of_the_older_version_count_upwards(tmp_path: Path) -> None:
    proc = process(tmp_path / "proc", "9:name=systemd:/x", "4:cpu,memory:/slurm/uid_1/job_7", "0::/x")
    mount = tmp_path / "cgroup"
    group(mount / "memory" / "slurm" / "uid_1" / "job_7", 1, 9223372036854771712, 1000)
    group(mount / "memory" / "slurm" / "uid_1", 1, 500_000, 100_000)
    group(mount / "memory", 1, 9223372036854771712, 1000)
    assert memory.available_memory(proc, mount) == 400_000


def test_both_versions_side_by_side(tmp_path: Path) -> None:
    proc = process(tmp_path / "proc", "4:memory:/a", "0::/b")
    mount = tmp_path / "cgroup"
    group(mount / "memory" / "a", 1, 500_000, 100_000)
    group(mount / "unified" / "b", 2, 300_000, 100_000)
    assert memory.available_memory(proc, mount) == 200_000


@pytest.mark.parametrize("path", ["/docker/abc", "/../../docker/abc", "/docker/abc/inner"])
def test_in_a_container_the_path_may_begin_outside_of_what_is_mounted(tmp_path: Path, path: str) -> None:
    proc = process(tmp_path / "proc", f"0::{path}")
    mount = tmp_path / "cgroup"
    group(mount, 2, 900_000, 200_000)
    group(mount / "inner", 2, 600_000, 200_000)
    assert memory.available_memory(proc, mount) == (400_000 if path.endswith("inner") else 700_000)


@pytest.mark.parametrize("line", ["", "x", "0:", "0::", "::::", "0::/a:b", "4:memory", "\ufffd"])
def test_what_cannot_be_read_limits_nothing(tmp_path: Path, line: str) -> None:
    proc = process(tmp_path / "proc", line)
    group(tmp_path / "cgroup" / "a", 2, "\u00b2", 5)
    assert memory.available_memory(proc, tmp_path / "cgroup") == 8_000_000 * 1024


def test_a_used_up_limit_leaves_nothing(tmp_path: Path) -> None:
    proc = process(tmp_path / "proc", "0::/a")
    group(tmp_path / "cgroup" / "a", 2, 100, 200)
    assert memory.available_memory(proc, tmp_path / "cgroup") == 0


def test_this_machine_has_memory() -> None:
    available = memory.available_memory()
    assert available is None or available > 0
