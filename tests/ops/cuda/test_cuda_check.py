"""What ``make cuda-check`` reads from the assembler, and what it does without a compiler."""

from __future__ import annotations

from external_ops.harness import cuda_check

REPORT = """
ptxas info    : Compiling entry function '_Z4tameILi1EEvPf' for 'sm_80'
ptxas info    : Function properties for _Z4tameILi1EEvPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 2048 bytes smem, 400 bytes cmem[0]
ptxas info    : Compiling entry function '_Z4wildv' for 'sm_80'
ptxas info    : Function properties for _Z4wildv
    24 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 255 registers, 400 bytes cmem[0]
"""


def test_registers_and_spills_are_read_per_kernel():
    tame, wild = cuda_check.parse_report(REPORT, "one.cu", "80")
    assert (tame.registers, tame.spilled, tame.stack, tame.shared) == (40, 0, 0, 2048)
    assert (wild.registers, wild.spilled, wild.stack, wild.shared) == (255, 28, 24, 0)


def test_a_spill_is_a_failure(monkeypatch, capsys):
    monkeypatch.setattr(cuda_check, "find_nvcc", lambda: "nvcc")
    monkeypatch.setattr("sys.argv", ["cuda_check", "--arch", "80", "one.cu"])
    report = lambda nvcc, nvdisasm, source, arch: cuda_check.Result(  # noqa: E731
        cuda_check.parse_report(REPORT, source.name, arch), ["tame<1>: 16 bytes are stored in parts"]
    )
    monkeypatch.setattr(cuda_check, "check_file", report)
    assert cuda_check.main() == 1
    failures = capsys.readouterr().err
    assert "one.cu, sm_80: a kernel spills registers" in failures
    assert "one.cu, sm_80: tame<1>: 16 bytes are stored in parts" in failures


def test_without_nvcc_it_says_so_and_passes(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["cuda_check"])
    assert cuda_check.main() == 0
    assert capsys.readouterr().out == "nvcc not found: skipped\n"
