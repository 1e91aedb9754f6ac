"""Build of the fused operators: one shared library with the CPU kernels, the CUDA kernels where they can be had, and
their Paddle bindings, carried by the small package ``paddlemix_ops``.

    pip install --no-build-isolation ./external_ops

The CPU part needs a C++17 compiler and Paddle. The CUDA part is added when Paddle is a CUDA build and nvcc is there; no
GPU is needed. Settings, all environment variables:

    PADDLEMIX_CUDA_ARCHS   compute capabilities such as "80;90" (default: 70 to 90, as far as nvcc knows them)
    PADDLEMIX_SANITIZE     "address,undefined" and the like: build with these sanitizers
    MAX_JOBS               compilers that run at once (default: the number of processors)
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
LIBRARY = "libpaddlemix_ops.so"
WANTED_ARCHS = ["70", "75", "80", "86", "89", "90"]
# Products and sums are not contracted: the bodies of a kernel then agree bit for bit over instruction sets.
CXX_FLAGS = ["-O3", "-std=c++17", "-fPIC", "-fopenmp", "-ffp-contract=off"]
# Paddle's helpers, which know its include folders and libraries, want a name; the build below chooses its own sources.
SOURCES = ["bindings.cc"]
# Paddle's headers do not compile without warnings; the kernels do, save what GCC says of its own AVX-512 header.
KERNEL_FLAGS = ["-Wall", "-Wextra", "-Wno-maybe-uninitialized", "-Wno-uninitialized"]
BINDING_FLAGS = ["-w", "-O2"]


def paddle_build_settings() -> tuple[Extension, bool]:
    """Paddle's include folders, libraries and flags, and whether CUDA kernels can be built against it."""
    try:
        warnings.filterwarnings("ignore", message="No ccache found")
        import paddle
        from paddle.utils.cpp_extension import CppExtension, CUDAExtension
    except ImportError as error:
        sys.exit(
            "external_ops: Paddle cannot be imported here "
            f"({error}); install paddlepaddle or paddlepaddle-gpu first and build with --no-build-isolation"
        )
    if not paddle.is_compiled_with_cuda():
        return CppExtension(sources=SOURCES), False
    if find_nvcc() is None:
        print(
            "external_ops: Paddle is a CUDA build but nvcc was not found; building the CPU part only", file=sys.stderr
        )
        return CppExtension(sources=SOURCES), False
    return CUDAExtension(sources=SOURCES), True


def find_nvcc() -> str | None:
    from shutil import which

    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    return which("nvcc", path=os.path.join(home, "bin")) if home else which("nvcc")


def cuda_arch_flags(nvcc: str) -> list[str]:
    """``-gencode`` flags for the wanted architectures that nvcc knows, with PTX of the newest for later GPUs."""
    known = set(
        re.findall(r"sm_(\d+)", subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True).stdout)
    )
    asked = os.environ.get("PADDLEMIX_CUDA_ARCHS")
    if asked:
        archs = [arch.replace(".", "") for arch in re.split(r"[;,\s]+", asked) if arch]
        unknown = [arch for arch in archs if arch.rstrip("a") not in known]
        if unknown or not archs:
            sys.exit(
                f"PADDLEMIX_CUDA_ARCHS: {nvcc} does not know {unknown or asked!r}; it knows {sorted(known, key=int)}"
            )
    else:
        archs = [arch for arch in WANTED_ARCHS if arch in known]
    flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    return [*flags, f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}"]


class BuildLibrary(build_ext):
    """Compiles every source by its kind, in parallel, and links one library that is no Python module."""

    def run(self) -> None:
        settings, with_cuda = paddle_build_settings()
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        commands = [self.cpu_command(source, build) for source in sorted((ROOT / "cpu").glob("*.cc"))]
        commands.append(self.bindings_command(build, settings, with_cuda))
        if with_cuda:
            commands += [self.cuda_command(source, build) for source in sorted((ROOT / "cuda").glob("*.cu"))]
        jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
        print(f"external_ops: {len(commands)} files, {jobs} at once, {'with' if with_cuda else 'without'} CUDA")
        # The bindings take longest: first.
        with ThreadPoolExecutor(jobs) as pool:
            objects = list(pool.map(run_compiler, reversed(commands)))
        self.link([str(name) for name in objects], settings)

    def cpu_command(self, source: Path, build: Path) -> tuple[list[str], Path]:
        target = build / f"cpu_{source.stem}.o"
        return [compiler(), *CXX_FLAGS, *KERNEL_FLAGS, *sanitizers(), "-c", str(source), "-o", str(target)], target

    def cuda_command(self, source: Path, build: Path) -> tuple[list[str], Path]:
        target = build / f"cuda_{source.stem}.o"
        nvcc = find_nvcc()
        flags = ["-O3", "-std=c++17", "-Xcompiler", "-fPIC", *cuda_arch_flags(nvcc)]
        return [nvcc, *flags, "-c", str(source), "-o", str(target)], target

    def bindings_command(self, build: Path, settings: Extension, with_cuda: bool) -> tuple[list[str], Path]:
        """All bindings as one file: Paddle's headers alone take most of a minute to compile."""
        source, target = build / "bindings.cc", build / "bindings.o"
        lines = [f'#include "{binding}"' for binding in sorted((ROOT / "paddle").glob("*.cc"))]
        source.write_text("\n".join(lines) + "\n")
        flags = list(settings.extra_compile_args or []) if isinstance(settings.extra_compile_args, list) else []
        flags += settings.extra_compile_args.get("cxx", []) if isinstance(settings.extra_compile_args, dict) else []
        flags += ["-DPADDLE_WITH_CUDA", "-DPADDLEMIX_WITH_CUDA"] if with_cuda else []
        includes = [f"-I{folder}" for folder in settings.include_dirs]
        command = [compiler(), *CXX_FLAGS, *flags, *BINDING_FLAGS, *sanitizers(), *includes]
        return [*command, "-c", str(source), "-o", str(target)], target

    def link(self, objects: list[str], settings: Extension) -> None:
        folder = ROOT / "paddlemix_ops" if self.inplace else Path(self.build_lib) / "paddlemix_ops"
        folder.mkdir(parents=True, exist_ok=True)
        paths = [flag for path in settings.library_dirs for flag in (f"-L{path}", f"-Wl,-rpath,{path}")]
        # Paddle's own OpenMP runtime also serves code compiled by GCC: with one pool of threads, no idle ones of
        # another pool keep a processor busy while ours want it.
        libraries = [*settings.extra_link_args, *openmp_library(settings.library_dirs)]
        command = [compiler(), "-shared", *sanitizers(), *objects, *paths, *libraries, "-o", str(folder / LIBRARY)]
        run_compiler((command, folder / LIBRARY))

    def get_outputs(self) -> list[str]:
        return [str(Path(self.build_lib) / "paddlemix_ops" / LIBRARY)]


def openmp_library(library_dirs: list[str]) -> list[str]:
    shipped = [path for folder in library_dirs for path in Path(folder).glob("libiomp5.so")]
    return ["-l:libiomp5.so"] if shipped else ["-fopenmp"]


def compiler() -> str:
    return os.environ.get("CXX", "g++")


def sanitizers() -> list[str]:
    names = os.environ.get("PADDLEMIX_SANITIZE")
    return [f"-fsanitize={names}", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g"] if names else []


def run_compiler(job: tuple[list[str], Path]) -> Path:
    """Run one command; stop the whole build with what it printed if it fails."""
    command, target = job
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise SystemExit(f"external_ops: compiler {command[0]!r} not found; install one or name it in CXX") from None
    if done.stderr.strip():
        print(done.stderr.strip(), file=sys.stderr)
    if done.returncode:
        raise SystemExit(f"external_ops: building {target.name} failed:\n{' '.join(command)}")
    return target


def read_version() -> str:
    return re.search(r'^__version__ = "([^"]+)"$', (ROOT / "paddlemix_ops" / "__init__.py").read_text(), re.M).group(1)


if __name__ == "__main__":
    os.chdir(ROOT)  # setuptools looks for packages where it stands
    setup(
        name="paddlemix_ops",
        version=read_version(),
        description="Fused CPU and CUDA operators of paddlemix",
        license="Apache-2.0",
        python_requires=">=3.9",
        packages=["paddlemix_ops"],
        # Only its presence counts: it makes the wheel one for this platform.
        ext_modules=[Extension("paddlemix_ops.library", sources=[])],
        cmdclass={"build_ext": BuildLibrary},
        zip_safe=False,
    )
