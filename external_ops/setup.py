"""Build of the fused operators: one shared library with the CPU kernels, the CUDA kernels where they can be had, and
their Paddle bindings, carried by the small package ``paddlemix_ops``.

    pip install --no-build-isolation ./external_ops

Linux only. The CPU part needs a C++17 compiler and Paddle. The CUDA part is added when Paddle is a CUDA build and nvcc
is there; no GPU is needed. Only what changed is compiled again. Settings, all environment variables:

    PADDLEMIX_WITH_CUDA    1: the CUDA part is a must, also beside a CPU build of Paddle (its headers are the same, and
                           the library then serves either build of that version); 0: no CUDA part
    PADDLEMIX_CUDA_ARCHS   compute capabilities such as "80;90" (default: 70 to 120, as far as nvcc knows them)
    PADDLEMIX_SANITIZE     "address,undefined" and the like: build with these sanitizers
    MAX_JOBS               compilers that run at once (default: the number of processors)
    CXX                    the C++ compiler, nvcc's too (default: g++)
    CUDA_HOME              the CUDA toolkit (default: where nvcc is on PATH, then /usr/local/cuda)
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import which
from typing import NamedTuple

try:
    from setuptools import Extension, setup
    from setuptools.command.build_ext import build_ext
except ImportError:
    sys.exit("external_ops: setuptools is not installed here; pip install setuptools wheel")

ROOT = Path(__file__).resolve().parent
PACKAGE = ROOT / "python" / "paddlemix_ops"
LIBRARY = "libpaddlemix_ops.so"
# What Paddle's own builds are for: V100, T4, A100, RTX 30 and A10, RTX 40 and L4, H100 and H200, B200, RTX 50.
WANTED_ARCHS = ["70", "75", "80", "86", "89", "90", "100", "120"]
# Products and sums are not contracted: the bodies of a kernel then agree bit for bit over instruction sets.
CXX_FLAGS = ["-O3", "-std=c++17", "-fPIC", "-fopenmp", "-ffp-contract=off"]
# Paddle's headers do not compile without warnings; the kernels do, save what GCC says of its own AVX-512 header.
KERNEL_FLAGS = ["-Wall", "-Wextra", "-Wno-maybe-uninitialized", "-Wno-uninitialized"]
BINDING_FLAGS = ["-w", "-O2"]
NVCC_FLAGS = ["-O3", "-std=c++17", "-Xcompiler", "-fPIC"]
# Paddle is imported before the library is loaded, so its libraries are found by their names wherever they are. The
# folders beside this package are for tools that look at the file alone.
RPATH = "-Wl,-rpath,$ORIGIN/../paddle/base:$ORIGIN/../paddle/libs"


class PaddleSettings(NamedTuple):
    """How to build against the Paddle that is installed, and whether CUDA kernels can be."""

    version: str
    nvcc: str | None
    include_dirs: list[str]
    library_dirs: list[str]
    compile_flags: list[str]
    link_flags: list[str]


class Job(NamedTuple):
    """One compiler call and the object file that it makes."""

    command: list[str]
    target: Path


def paddle_settings() -> PaddleSettings:
    if not sys.platform.startswith("linux"):
        sys.exit("external_ops: the operators are built on Linux only; paddlemix works without them, in plain Paddle")
    # The folder paddle/ beside this file would pass for a package of that name where Paddle is not installed.
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != ROOT]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no ccache
            import paddle
            from paddle.utils.cpp_extension import CppExtension
    except ImportError as error:
        sys.exit(
            f"external_ops: Paddle cannot be imported here ({error}); "
            "install paddlepaddle or paddlepaddle-gpu first and build with --no-build-isolation"
        )
    nvcc = wanted_nvcc(paddle.is_compiled_with_cuda())
    # The helpers know Paddle's folders and flags; they want the name of a source, but this build chooses its own. That
    # for CUDA finds its toolkit where nvcc is, which need not be its own folder.
    extension = CppExtension(sources=["unused.cc"])
    headers, libraries = cuda_folders(nvcc) if nvcc else ([], [])
    flags = extension.extra_compile_args or []
    if nvcc:
        compare_cuda(nvcc, getattr(paddle, "version", None))
    return PaddleSettings(
        version=paddle.__version__,
        nvcc=nvcc,
        include_dirs=[*extension.include_dirs, *headers],
        library_dirs=[*extension.library_dirs, *libraries],
        compile_flags=list(flags.get("cxx", [])) if isinstance(flags, dict) else list(flags),
        link_flags=extension.extra_link_args,
    )


# ---------------------------------------------------------------- what is called


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CXX") or "g++")


def sanitizers() -> list[str]:
    names = os.environ.get("PADDLEMIX_SANITIZE")
    # Paddle's type information is in Paddle's libraries, where the check of objects' types does not find it.
    settings = ["-fno-sanitize=vptr", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g"]
    return [f"-fsanitize={names}", *settings] if names else []


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home:
        return which("nvcc", path=os.path.join(home, "bin"))
    return which("nvcc") or which("nvcc", path="/usr/local/cuda/bin")


def wanted_nvcc(paddle_has_cuda: bool) -> str | None:
    """The compiler of the CUDA part; ``None`` where there is to be none."""
    asked = os.environ.get("PADDLEMIX_WITH_CUDA")
    if asked not in (None, "", "0", "1"):
        sys.exit(f"PADDLEMIX_WITH_CUDA: expected 0 or 1, got {asked!r}")
    if asked == "0" or not (asked or paddle_has_cuda):
        return None
    nvcc = find_nvcc()
    if nvcc is None and asked:
        sys.exit("external_ops: PADDLEMIX_WITH_CUDA=1, but nvcc was not found; name the toolkit's folder in CUDA_HOME")
    if nvcc is None:
        print("external_ops: Paddle is a CUDA build but nvcc was not found; building the CPU part only")
    return nvcc


def cuda_folders(nvcc: str) -> tuple[list[str], list[str]]:
    """Folders of CUDA's headers and of its libraries; ``nvcc`` may be a script that calls another one."""
    dry = subprocess.run([nvcc, "--dryrun", "-x", "cu", "-c", os.devnull], capture_output=True, text=True)
    here = re.search(r"^#\$ _HERE_=(.+)$", dry.stdout + dry.stderr, re.M)
    toolkit = Path(here[1] if here else os.path.dirname(os.path.realpath(nvcc))).parent
    headers = [toolkit / "include", toolkit / "include" / "cccl"]
    libraries = [toolkit / "lib64", toolkit / "lib"]
    return [str(path) for path in headers if path.is_dir()], [str(path) for path in libraries if path.is_dir()]


def cuda_version(nvcc: str) -> str:
    """Of the toolkit, such as ``12.9``; empty where nvcc does not say."""
    printed = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"release (\d+\.\d+)", printed)
    return found[1] if found else ""


def compare_cuda(nvcc: str, paddle_version: object) -> None:
    """Say so where this toolkit wants a newer driver than Paddle does: within a major version any driver will do."""
    ours, theirs = cuda_version(nvcc), str(getattr(paddle_version, "cuda", lambda: "")())
    if not re.match(r"\d+\.", ours) or not re.match(r"\d+", theirs):
        return  # a CPU build says False
    if int(ours.partition(".")[0]) > int(theirs.partition(".")[0]):
        print(
            f"external_ops: nvcc is of CUDA {ours}, Paddle of CUDA {theirs}: a driver that runs Paddle may be too old "
            f"for these kernels, and plain Paddle is then used instead; a toolkit of CUDA {theirs} or older avoids that"
        )


def known_archs(nvcc: str) -> list[str]:
    """Compute capabilities that this nvcc compiles for, lowest first."""
    listed = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True)
    known = sorted(set(re.findall(r"\bsm_(\d+)\b", listed.stdout)), key=int)
    if not known:
        sys.exit(
            f"external_ops: {nvcc} --list-gpu-code names no architecture; a CUDA toolkit of 11.2 or later is needed"
        )
    return known


def chosen_archs(known: list[str]) -> list[str]:
    """The wanted architectures among ``known``."""
    asked = os.environ.get("PADDLEMIX_CUDA_ARCHS")
    if not asked:
        return [arch for arch in WANTED_ARCHS if arch in known] or known[:1]
    archs = [arch.replace(".", "") for arch in re.split(r"[;,\s]+", asked) if arch]
    unknown = [arch for arch in archs if arch.rstrip("a") not in known]
    if unknown or not archs:
        wrong = ", ".join(unknown) or repr(asked)
        sys.exit(f"PADDLEMIX_CUDA_ARCHS: nvcc does not know {wrong}; it knows {', '.join(known)}")
    return archs


def cuda_arch_flags(archs: list[str]) -> list[str]:
    """``-gencode`` flags for these architectures, with PTX of the newest for later GPUs."""
    newest = max(
        (arch.rstrip("a") for arch in archs), key=int
    )  # code for sm_90a runs on no other GPU, hence its PTX too
    flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    return [*flags, f"-gencode=arch=compute_{newest},code=compute_{newest}"]


def compile_jobs(build: Path, paddle: PaddleSettings) -> list[Job]:
    """One job per source: CUDA kernels first, which take longest, then bindings and CPU kernels."""
    jobs = []
    archs = chosen_archs(known_archs(paddle.nvcc)) if paddle.nvcc else []
    if paddle.nvcc:
        host, *host_flags = compiler()
        start = [paddle.nvcc, "-ccbin", host, *(f"-Xcompiler={flag}" for flag in host_flags)]
        start += [*NVCC_FLAGS, *cuda_arch_flags(archs)]
        jobs += [compile_job(start, source, build) for source in sorted((ROOT / "cuda").glob("*.cu"))]
    start = [*compiler(), *CXX_FLAGS, *sanitizers()]
    defines = [f'-DPADDLEMIX_BUILT_FOR_PADDLE="{paddle.version}"', *paddle.compile_flags]
    if paddle.nvcc:
        built = f"CUDA {cuda_version(paddle.nvcc)} for {' '.join(archs)}"
        defines += ["-DPADDLE_WITH_CUDA", "-DPADDLEMIX_WITH_CUDA", f'-DPADDLEMIX_BUILT_WITH="{built}"']
    binding = [*start, *defines, *BINDING_FLAGS, *(f"-I{folder}" for folder in paddle.include_dirs)]
    jobs += [compile_job(binding, source, build) for source in sorted((ROOT / "paddle").glob("*.cc"))]
    jobs += [compile_job([*start, *KERNEL_FLAGS], source, build) for source in sorted((ROOT / "cpu").glob("*.cc"))]
    return jobs


def compile_job(start: list[str], source: Path, build: Path) -> Job:
    target = build / f"{source.parent.name}_{source.stem}.o"
    dependencies = ["-MMD", "-MF", str(target.with_suffix(".d"))]
    return Job([*start, *dependencies, "-c", str(source), "-o", str(target)], target)


def link_command(objects: list[Path], library: Path, paddle: PaddleSettings) -> list[str]:
    libraries = list(paddle.link_flags)
    if paddle.nvcc:
        # The toolkit's runtime goes into the library, as it does in NVIDIA's own: Paddle may bring that of another
        # version, which must not take its place either.
        libraries += ["-lcudart_static", "-Wl,--exclude-libs,libcudart_static.a", "-ldl", "-lrt", "-lpthread"]
    # Paddle's own OpenMP runtime also serves code compiled by GCC: with one pool of threads, no idle ones of another
    # pool keep a processor busy while ours want it.
    shipped = any((Path(folder) / "libiomp5.so").is_file() for folder in paddle.library_dirs)
    libraries += ["-l:libiomp5.so"] if shipped else ["-fopenmp"]
    folders = [f"-L{folder}" for folder in paddle.library_dirs]
    start = [*compiler(), "-shared", *sanitizers(), *(str(path) for path in objects)]
    return [*start, *folders, RPATH, *libraries, "-o", str(library)]


# ---------------------------------------------------------------- calling it


def is_current(job: Job) -> bool:
    """Whether the object file was made by this very command from sources and headers that have not changed since."""
    record = job.target.with_suffix(".command")
    if not record.is_file() or record.read_text() != shlex.join(job.command) or not job.target.is_file():
        return False
    rule = job.target.with_suffix(".d").read_text().replace("\\\n", " ")
    sources = [name.replace("\\ ", " ") for name in re.split(r"(?<!\\)\s+", rule.partition(": ")[2].strip())]
    made = job.target.stat().st_mtime_ns
    return all(os.path.isfile(name) and os.stat(name).st_mtime_ns < made for name in sources)


def run_job(job: Job) -> None:
    record = job.target.with_suffix(".command")
    record.unlink(missing_ok=True)  # an interrupted compiler leaves an object file that counts for nothing
    run(job.command)
    record.write_text(shlex.join(job.command))


def run(command: list[str]) -> None:
    """Run one command; stop the whole build with what it printed if it fails."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    except OSError as error:
        sys.exit(f"external_ops: {command[0]} cannot be run ({error.strerror}); install it or name another in CXX")
    if done.returncode:
        sys.exit(f"{shlex.join(command)}\n{done.stdout}\nexternal_ops: {command[-1]} could not be made (see above)")
    if done.stdout.strip():
        print(done.stdout.strip())


def parallel_jobs() -> int:
    asked = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
    if not asked.isdecimal() or int(asked) < 1:
        sys.exit(f"MAX_JOBS: expected a number of compilers from 1, got {asked!r}")
    return int(asked)


class BuildLibrary(build_ext):
    """Compiles every source by its kind, in parallel, and links one library that is no Python module."""

    def run(self) -> None:
        paddle = paddle_settings()
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        jobs = compile_jobs(build, paddle)
        waiting, at_once = [job for job in jobs if not is_current(job)], parallel_jobs()
        part = "with" if paddle.nvcc else "without"
        print(
            f"external_ops: {len(waiting)} of {len(jobs)} files to compile, {at_once} at once, {part} CUDA", flush=True
        )
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(run_job, waiting))
        folder = PACKAGE if self.inplace else Path(self.build_lib).resolve() / "paddlemix_ops"
        folder.mkdir(parents=True, exist_ok=True)
        run(link_command([job.target for job in jobs], folder / LIBRARY, paddle))

    def get_outputs(self) -> list[str]:
        return [str(Path(self.build_lib) / "paddlemix_ops" / LIBRARY)]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


def read_version() -> str:
    return re.search(r'^__version__ = "([^"]+)"$', (PACKAGE / "__init__.py").read_text(), re.M).group(1)


def check_wheel_can_be_built() -> None:
    found = any(importlib.util.find_spec(name) for name in ("setuptools.command.bdist_wheel", "wheel"))
    if {"bdist_wheel", "dist_info"}.intersection(sys.argv) and not found:  # pip asks for both
        sys.exit("external_ops: pip and this setuptools need the package wheel; pip install wheel, then try again")


if __name__ == "__main__":
    check_wheel_can_be_built()
    os.chdir(ROOT)  # setuptools looks for packages where it stands
    setup(
        name="paddlemix_ops",
        version=read_version() + ("+cuda" if os.environ.get("PADDLEMIX_WITH_CUDA") == "1" else ""),
        description="Fused CPU and CUDA operators of paddlemix",
        license="Apache-2.0",
        python_requires=">=3.9",
        package_dir={"": "python"},
        packages=["paddlemix_ops"],
        # Only its presence counts: it makes the wheel one for this platform.
        ext_modules=[Extension("paddlemix_ops.library", sources=[])],
        cmdclass={"build_ext": BuildLibrary},
        zip_safe=False,
    )
