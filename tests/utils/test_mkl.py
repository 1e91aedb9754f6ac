import subprocess
import sys

import pytest

from paddlemix.utils.mkl import MKL_CODE_PATH, OPENMP_AT_FORK, let_mkl_use_avx2, let_openmp_survive_fork

EPYC = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu sse2 avx avx2 fma\n\nprocessor\t: 1\n"


@pytest.fixture
def cpuinfo(tmp_path):
    def write(text):
        path = tmp_path / "cpuinfo"
        path.write_text(text)
        return path

    return write


def test_amd_processors_with_avx2_get_its_code(cpuinfo):
    environment = {}
    assert let_mkl_use_avx2(cpuinfo(EPYC), environment)
    assert environment == {MKL_CODE_PATH: "5"}


@pytest.mark.parametrize(
    "text", [EPYC.replace("AuthenticAMD", "GenuineIntel"), EPYC.replace(" avx2", ""), "Processor : ARMv8\n", ""]
)
def test_other_processors_are_left_alone(cpuinfo, text):
    environment = {}
    assert not let_mkl_use_avx2(cpuinfo(text), environment)
    assert not environment


def test_a_system_without_cpuinfo_is_left_alone(tmp_path):
    assert not let_mkl_use_avx2(tmp_path / "absent", {})


def test_a_value_of_the_users_stays(cpuinfo):
    environment = {MKL_CODE_PATH: "4"}
    assert not let_mkl_use_avx2(cpuinfo(EPYC), environment)
    assert environment == {MKL_CODE_PATH: "4"}


def test_the_operators_set_it_before_paddle_multiplies():
    code = (
        "import paddlemix.utils.mkl as processors\n"
        "processors.let_mkl_use_avx2 = lambda: print('asked')\n"
        "import sys\n"
        "assert 'paddle' not in sys.modules\n"
        "import paddlemix.ops\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "asked\n"


# ---------------------------------------------------------------- forked children


@pytest.mark.parametrize("now", [{}, {OPENMP_AT_FORK: "FALSE"}])
def test_openmp_is_told_to_survive_forks_whatever_a_library_wrote(now):
    environment = dict(now)
    assert let_openmp_survive_fork(environment, given={}, started=False)
    assert environment == {OPENMP_AT_FORK: "true"}


@pytest.mark.parametrize(
    "value, survives", [("FALSE", False), ("0", False), ("off", False), ("TRUE", True), ("1", True)]
)
def test_what_the_user_says_of_forks_stays(value, survives):
    environment = {OPENMP_AT_FORK: value}
    assert let_openmp_survive_fork(environment, given=dict(environment), started=False) is survives
    assert environment == {OPENMP_AT_FORK: value}


@pytest.mark.parametrize("now, survives", [({}, True), ({OPENMP_AT_FORK: "FALSE"}, False)])
def test_a_runtime_that_has_started_keeps_its_settings(now, survives):
    environment = dict(now)
    assert let_openmp_survive_fork(environment, given={}, started=True) is survives
    assert environment == now


def test_a_runtime_that_has_started_is_recognized():
    code = (
        "from paddlemix.utils.mkl import _openmp_has_started as started\n"
        "import paddle\n"
        "before = started()\n"
        "matrix = paddle.ones([64, 64])\n"
        "paddle.matmul(matrix, matrix).numpy()\n"
        "print(before, started())\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"
