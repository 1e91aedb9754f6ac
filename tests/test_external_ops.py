"""The build of the operators: what it calls, what it calls again, what it says when something is missing.

The builds here run against a Paddle, an nvcc and mostly a compiler that only pretend; ``make test`` itself begins with
a real build.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXTERNAL_OPS = ROOT / "external_ops"
KNOWN_TO_NVCC_13 = ["75", "80", "86", "87", "88", "89", "90", "100", "103", "110", "120", "121"]

PADDLE = """
    __version__ = "3.9.9"
    def is_compiled_with_cuda(): return {cuda}
    class version:
        def cuda(): return "12.6" if {cuda} else "False"
"""
PADDLE_HELPERS = """
    from types import SimpleNamespace
    def CppExtension(sources):
        return SimpleNamespace(include_dirs=["/paddle/include"], library_dirs=["/paddle/libs"],
                               extra_link_args=["-l:libpaddle.so"], extra_compile_args=["-w"])
"""
NVCC = """\
    #!/bin/sh
    if [ "$1" = --list-gpu-code ]; then printf 'sm_75\\nsm_80\\nsm_90\\nsm_100\\n'; exit; fi
    if [ "$1" = --version ]; then echo 'Cuda compilation tools, release 13.0, V13.0.88'; exit; fi
    if [ "$1" = --dryrun ]; then echo '#$ _HERE_={toolkit}/bin' >&2; exit; fi
    exec {compiler} "$@"
"""
# Writes what was asked for, and the rule of what it was made from, as compilers do.
COMPILER = """\
    #!{python} -S
    import sys
    arguments = sys.argv[1:]
    target = arguments[arguments.index("-o") + 1]
    with open(target, "w") as file:
        file.write("made by " + " ".join(sys.argv))
    if "-MF" in arguments:
        with open(arguments[arguments.index("-MF") + 1], "w") as file:
            file.write(target + ": " + arguments[arguments.index("-c") + 1])
"""


@pytest.fixture(scope="module")
def build() -> SimpleNamespace:
    """The functions of external_ops/setup.py."""
    return SimpleNamespace(**runpy.run_path(str(EXTERNAL_OPS / "setup.py"), run_name="setup_of_operators"))


def write(path: Path, text: str, **values: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = textwrap.dedent(text)
    path.write_text(text.format(**values) if values else text)
    path.chmod(0o755)
    return path


class Workplace:
    """A copy of external_ops, with a Paddle and compilers that pretend."""

    def __init__(self, folder: Path, cuda: bool = False):
        self.folder, self.source = folder, folder / "external_ops"
        ignored = shutil.ignore_patterns("build", "dist", "*.egg-info", "*.so", "__pycache__")
        shutil.copytree(EXTERNAL_OPS, self.source, ignore=ignored)
        write(folder / "site" / "paddle" / "__init__.py", PADDLE, cuda=cuda)
        write(folder / "site" / "paddle" / "utils" / "__init__.py", "")
        write(folder / "site" / "paddle" / "utils" / "cpp_extension.py", PADDLE_HELPERS)
        compiler = write(folder / "bin" / "compiler", COMPILER, python=sys.executable)
        (folder / "toolkit" / "include").mkdir(parents=True)
        (folder / "toolkit" / "lib64").mkdir()
        write(folder / "bin" / "nvcc", NVCC, compiler=compiler, toolkit=folder / "toolkit")
        self.environment = {"CXX": str(compiler), "CUDA_HOME": str(folder), "MAX_JOBS": "2"}

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        settings = {**os.environ, **self.environment, "PYTHONPATH": str(self.folder / "site"), **environment}
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=self.source, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def build(self, **environment: str) -> subprocess.CompletedProcess:
        return self.run("setup.py", "-q", "build", **environment)

    def library(self) -> Path:
        (path,) = self.source.glob("build/lib*/paddlemix_ops/libpaddlemix_ops.so")
        return path

    def command_of(self, target: str) -> str:
        (path,) = self.source.glob(f"build/temp*/{target}.o")
        return path.read_text()


def last_line(done: subprocess.CompletedProcess) -> str:
    """What a failed build says at its end; it has no trace."""
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    return done.stdout.strip().splitlines()[-1]


# ---------------------------------------------------------------- architectures


def archs(flags: list[str]) -> list[str]:
    return [re.fullmatch(r"-gencode=arch=compute_\w+,code=(\w+)", flag)[1] for flag in flags]


@pytest.mark.parametrize(
    "asked, known, expected",
    [
        (
            None,
            KNOWN_TO_NVCC_13,
            ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "compute_120"],
        ),
        (None, ["60", "70", "75", "80"], ["sm_70", "sm_75", "sm_80", "compute_80"]),
        (None, ["103", "110"], ["sm_103", "compute_103"]),
        ("80;90", KNOWN_TO_NVCC_13, ["sm_80", "sm_90", "compute_90"]),
        ("9.0, 8.0", KNOWN_TO_NVCC_13, ["sm_90", "sm_80", "compute_90"]),
        ("90a", KNOWN_TO_NVCC_13, ["sm_90a", "compute_90"]),
        ("86 100", KNOWN_TO_NVCC_13, ["sm_86", "sm_100", "compute_100"]),
    ],
)
def test_architectures_are_the_wanted_ones_that_nvcc_knows_with_ptx_of_the_newest(
    build, monkeypatch, asked, known, expected
):
    monkeypatch.delenv("PADDLEMIX_CUDA_ARCHS", raising=False)
    if asked:
        monkeypatch.setenv("PADDLEMIX_CUDA_ARCHS", asked)
    assert archs(build.cuda_arch_flags(build.chosen_archs(known))) == expected


@pytest.mark.parametrize("asked", ["70", "80;sm90", ";"])
def test_unknown_architectures_are_refused_with_those_known(build, monkeypatch, asked):
    monkeypatch.setenv("PADDLEMIX_CUDA_ARCHS", asked)
    with pytest.raises(SystemExit, match=r"^PADDLEMIX_CUDA_ARCHS: .* it knows 75, 80, 86") as raised:
        build.chosen_archs(KNOWN_TO_NVCC_13)
    assert "\n" not in str(raised.value)


# ---------------------------------------------------------------- what is called


def test_without_cuda_only_the_c_plus_plus_files_are_compiled(tmp_path):
    place = Workplace(tmp_path)
    assert place.build().returncode == 0
    objects = {path.name for path in place.source.glob("build/temp*/*.o")}
    sources = [*EXTERNAL_OPS.glob("cpu/*.cc"), *EXTERNAL_OPS.glob("paddle/*.cc")]
    assert objects == {f"{path.parent.name}_{path.stem}.o" for path in sources}
    assert "WITH_CUDA" not in place.command_of("paddle_library")
    assert "-I/paddle/include" in place.command_of("paddle_library")
    assert "cudart" not in place.library().read_text()


def test_with_cuda_the_kernels_are_compiled_for_all_architectures_and_linked_with_their_own_runtime(tmp_path):
    place = Workplace(tmp_path, cuda=True)
    done = place.build()
    assert done.returncode == 0, done.stdout
    for source in EXTERNAL_OPS.glob("cuda/*.cu"):
        command = place.command_of(f"cuda_{source.stem}")
        assert archs(re.findall(r"-gencode=\S+", command)) == ["sm_75", "sm_80", "sm_90", "sm_100", "compute_100"]
        assert "-Xcompiler -fPIC" in command
        assert f"-ccbin {place.environment['CXX']}" in command
    binding = place.command_of("paddle_library")
    assert "-DPADDLEMIX_WITH_CUDA" in binding and f"-I{tmp_path}/toolkit/include" in binding
    assert '-DPADDLEMIX_BUILT_WITH="CUDA 13.0 for 75 80 90 100"' in binding
    assert "WITH_CUDA" not in place.command_of("cpu_runtime")
    link = place.library().read_text().split()
    assert "-lcudart_static" in link and "-lcudart" not in link
    assert f"-L{tmp_path}/toolkit/lib64" in link
    assert all(str(path) in link for path in place.source.glob("build/temp*/*.o"))


def test_flags_of_the_compiler_reach_the_host_part_of_cuda_files(tmp_path):
    place = Workplace(tmp_path, cuda=True)
    assert place.build(CXX=f"{place.environment['CXX']} -pipe").returncode == 0
    command = place.command_of("cuda_swiglu")
    assert f"-ccbin {place.environment['CXX']} -Xcompiler=-pipe" in command


def test_a_toolkit_that_is_newer_than_paddles_is_told(tmp_path):
    done = Workplace(tmp_path, cuda=True).build()
    assert "nvcc is of CUDA 13.0, Paddle of CUDA 12.6: a driver that runs Paddle may be too old" in done.stdout


def test_cuda_kernels_are_built_beside_a_cpu_build_of_paddle_where_asked_for(tmp_path):
    place = Workplace(tmp_path)
    done = place.build(PADDLEMIX_WITH_CUDA="1")
    assert done.returncode == 0, done.stdout
    assert "nvcc is of" not in done.stdout
    assert "-DPADDLEMIX_WITH_CUDA" in place.command_of("paddle_library")
    assert "-lcudart_static" in place.library().read_text()


def test_no_cuda_kernels_are_built_where_that_is_asked_for(tmp_path):
    place = Workplace(tmp_path, cuda=True)
    assert place.build(PADDLEMIX_WITH_CUDA="0").returncode == 0
    assert "cudart" not in place.library().read_text()


def test_the_library_names_no_folder_of_the_machine_it_was_built_on(tmp_path):
    place = Workplace(tmp_path)
    place.build()
    (rpath,) = re.findall(r"-rpath,(\S+)", place.library().read_text())
    assert all(folder.startswith("$ORIGIN/") for folder in rpath.split(":"))


def test_sanitizers_reach_compiler_and_linker(tmp_path):
    place = Workplace(tmp_path)
    place.build(PADDLEMIX_SANITIZE="address,undefined")
    for command in (place.command_of("cpu_runtime"), place.command_of("paddle_library"), place.library().read_text()):
        assert "-fsanitize=address,undefined" in command


# ---------------------------------------------------------------- what is called again


def compiled(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stdout
    return re.search(r"(\d+) of \d+ files to compile", done.stdout)[1]


def test_only_what_changed_is_compiled_again(tmp_path):
    place = Workplace(tmp_path)
    assert int(compiled(place.build())) > 1
    assert compiled(place.build()) == "0"
    os.utime(place.source / "cpu" / "runtime.cc")
    assert compiled(place.build()) == "1"
    assert int(compiled(place.build(PADDLEMIX_SANITIZE="address"))) > 1


def test_a_changed_header_counts_for_those_that_include_it(build, tmp_path):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    header, source = (
        write(tmp_path / "a header.h", "int one();"),
        write(tmp_path / "cpu" / "x.cc", '#include "../a header.h"'),
    )
    job = build.compile_job([compiler], source, tmp_path)
    assert not build.is_current(job)
    build.run_job(job)
    assert build.is_current(job)
    os.utime(header)
    assert not build.is_current(job)
    build.run_job(job)
    header.unlink()
    assert not build.is_current(job)


# ---------------------------------------------------------------- what is said


def test_without_paddle_one_line_says_what_to_do(tmp_path):
    place = Workplace(tmp_path)
    write(tmp_path / "site" / "paddle" / "__init__.py", "raise ImportError('not installed')")
    assert "install paddlepaddle or paddlepaddle-gpu first" in last_line(place.build())


def test_without_a_compiler_one_line_says_so(tmp_path):
    place = Workplace(tmp_path)
    assert re.search(r"no-such-compiler cannot be run .*CXX", last_line(place.build(CXX="no-such-compiler")))


def test_a_failing_compiler_stops_the_build_with_what_it_printed(tmp_path):
    place = Workplace(tmp_path)
    failing = write(tmp_path / "bin" / "failing", "#!/bin/sh\necho 'x.cc:7: error: expected bread' >&2\nexit 1\n")
    done = place.build(CXX=str(failing))
    assert "could not be made" in last_line(done)
    assert "x.cc:7: error: expected bread" in done.stdout
    assert not list(place.source.glob("build/lib*/paddlemix_ops/*.so"))


def test_an_unknown_architecture_stops_the_build(tmp_path):
    place = Workplace(tmp_path, cuda=True)
    line = last_line(place.build(PADDLEMIX_CUDA_ARCHS="70"))
    assert line == "PADDLEMIX_CUDA_ARCHS: nvcc does not know 70; it knows 75, 80, 90, 100"


def test_asking_for_cuda_without_a_toolkit_stops_the_build(tmp_path):
    line = last_line(Workplace(tmp_path).build(PADDLEMIX_WITH_CUDA="1", CUDA_HOME=str(tmp_path / "nowhere")))
    assert line.startswith("external_ops: PADDLEMIX_WITH_CUDA=1, but nvcc was not found")
    assert last_line(Workplace(tmp_path / "2").build(PADDLEMIX_WITH_CUDA="yes")).endswith("expected 0 or 1, got 'yes'")


def test_a_wrong_number_of_jobs_is_refused(tmp_path):
    assert last_line(Workplace(tmp_path).build(MAX_JOBS="many")).startswith("MAX_JOBS: expected a number")


def test_a_cuda_paddle_without_nvcc_gets_the_cpu_part_and_is_told(tmp_path):
    place = Workplace(tmp_path, cuda=True)
    done = place.build(CUDA_HOME=str(tmp_path / "nowhere"))
    assert done.returncode == 0
    assert "nvcc was not found; building the CPU part only" in done.stdout
    assert "cudart" not in place.library().read_text()


# ---------------------------------------------------------------- packages


def test_the_wheel_is_for_this_platform_and_holds_the_library(tmp_path):
    place = Workplace(tmp_path)
    done = place.run("-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "--wheel-dir", str(tmp_path), ".")
    assert done.returncode == 0, done.stdout
    (wheel,) = tmp_path.glob("*.whl")
    interpreter = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    assert re.fullmatch(rf"paddlemix_ops-[\d.]+-{interpreter}-{interpreter}-linux_\w+\.whl", wheel.name)
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert files == {"paddlemix_ops/__init__.py", "paddlemix_ops/libpaddlemix_ops.so"}


def test_the_source_package_holds_every_file_that_the_build_reads(tmp_path):
    place = Workplace(tmp_path)
    done = place.run("setup.py", "-q", "sdist", "--formats=gztar")
    assert done.returncode == 0, done.stdout
    (archive,) = place.source.glob("dist/*.tar.gz")
    packed = {name.partition("/")[2] for name in tarfile.open(archive).getnames()}
    folders = ("cpu", "cuda", "paddle", "harness", "python/paddlemix_ops")
    needed = [path for folder in folders for path in place.source.glob(f"{folder}/**/*") if path.is_file()]
    needed += [place.source / name for name in ("setup.py", "pyproject.toml", "README.md")]
    assert {str(path.relative_to(place.source)) for path in needed} <= packed


def test_git_sees_nothing_of_a_build(tmp_path):
    made = ["build/lib/x.o", "dist/x.whl", "python/paddlemix_ops.egg-info/PKG-INFO", "python/paddlemix_ops/x.so"]
    paths = [f"external_ops/{name}" for name in made]
    done = subprocess.run(["git", "check-ignore", "--no-index", *paths], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 128:
        pytest.skip("no git repository")
    assert done.stdout.split() == paths
