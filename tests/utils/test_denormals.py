"""Denormal numbers are flushed only where it was asked for."""

import subprocess
import sys

import pytest

from paddlemix.utils import denormals

PROGRAM = """
import sys
import numpy as np
from paddlemix.utils.denormals import flush_denormals

smallest_normal = np.full(64, 1.1754944e-38, np.float32)
if sys.argv[1] == "flush" and not flush_denormals():
    print("unsupported")
else:
    print(bool((smallest_normal * np.float32(0.25) * np.float32(4) == 0).all()))
"""


@pytest.mark.parametrize(("mode", "becomes_zero"), [("keep", "False"), ("flush", "True")])
def test_a_quarter_of_the_smallest_normal_number(mode, becomes_zero):
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    said = done.stdout.strip().splitlines()[-1]
    if said == "unsupported":
        pytest.skip("no x86 processor or no C compiler")
    assert said == becomes_zero


def test_a_compiler_that_fails_is_no_error_and_says_nothing(monkeypatch, capfd):
    monkeypatch.setattr(denormals, "_SOURCE", "no C")
    assert not denormals.flush_denormals()
    assert capfd.readouterr() == ("", "")


def test_a_temporary_folder_that_libraries_cannot_be_loaded_from_is_no_error(monkeypatch):
    def refuse(path):
        raise OSError(f"{path}: failed to map segment from shared object")

    monkeypatch.setattr(denormals.ctypes, "CDLL", refuse)
    assert not denormals.flush_denormals()
