import subprocess
import sys

import pytest

from paddlemix.processors import MKL_CODE_PATH, let_mkl_use_avx2

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
        "import paddlemix.processors as processors\n"
        "processors.let_mkl_use_avx2 = lambda: print('asked')\n"
        "import sys\n"
        "assert 'paddle' not in sys.modules\n"
        "import paddlemix.ops\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "asked\n"
