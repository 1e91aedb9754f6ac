"""Which implementation of each operator runs: plain Paddle (``reference``), or the fused kernels (``cpu``, ``cuda``).

The fused kernels are in one shared library, built from ``external_ops`` and carried by the package ``paddlemix_ops``.
``PADDLEMIX_OPS`` chooses: ``auto`` (the default) takes a fused kernel wherever there is one for the tensor at hand and
plain Paddle elsewhere; ``reference`` takes plain Paddle always; ``cpu`` and ``cuda`` demand the fused kernels of that
device and raise where there is none.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import cast

import paddle
from paddle.utils.cpp_extension import load_op_meta_info_and_register_op

from ..errors import ConfigurationError, OperatorError
from ..utils.display import quoted
from ..utils.mkl import environment_at_start
from ..utils.paddle_internals import run_custom_op
from . import forking
from .checks import PARAMETERS, check_arguments, check_tensors

MODES = ("auto", "reference", "cpu", "cuda")
# Counts the changes of the operators' signatures; external_ops/paddle/library.cc has the same number.
INTERFACE = 1
BUILD_HINT = "pip install --no-build-isolation ./external_ops builds it"
MAX_THREADS = 4096
"""Most threads that may be asked for; more are a typing error."""

INSTRUCTION_SETS = ("portable", "avx2", "avx512", "amx")
#: Precisions of matrix products over bfloat16 weights, and how the library calls them (paddlemix_dtype).
MATMUL_PRECISIONS = {"float32": 0, "bfloat16": 3}

_FLOAT = (paddle.float32,)
_FLOAT_AND_DOUBLE = (paddle.float32, paddle.float64)


@dataclass(frozen=True)
class Operator:
    """What the library offers for one operator.

    Attributes:
        cpu_dtypes: dtypes of the activations that the CPU kernel takes; on CUDA it is float32, float16 and bfloat16.
        has_cuda: whether there is a CUDA kernel.
    """

    name: str
    cpu_dtypes: tuple[paddle.dtype, ...] = _FLOAT
    has_cuda: bool = True


OPERATORS = {
    operator.name: operator
    for operator in (
        Operator("rms_norm", _FLOAT_AND_DOUBLE),
        Operator("layer_norm", _FLOAT_AND_DOUBLE),
        Operator("rotary_qkv", _FLOAT_AND_DOUBLE),
        Operator("swiglu", _FLOAT_AND_DOUBLE),
        Operator("gelu_bias", _FLOAT_AND_DOUBLE),
        Operator("attention_prefill"),
        Operator("attention_decode"),
        Operator("linear_w16"),
        Operator("linear_w8"),
        Operator("linear_w4"),
        Operator("linear_nf4", has_cuda=False),
    )
}
_CUDA_DTYPES = (paddle.float32, paddle.float16, paddle.bfloat16)


@dataclass(frozen=True)
class Library:
    """The loaded library, or why there is none.

    Attributes:
        missing: one line that says why the library cannot be used; ``None`` where it can.
        devices: of ``"cpu"`` and ``"cuda"``, those it has kernels for.
        functions: its C interface, for what is no Paddle operator.
        direct: operators that can be called without the way through Paddle's registry (external_ops/paddle/direct.h);
            none where the library was built without Python's headers.
    """

    missing: str | None
    devices: tuple[str, ...] = ()
    functions: ctypes.CDLL | None = None
    direct: Mapping[str, Callable[..., list[paddle.Tensor]]] = field(default_factory=dict)


@cache
def library() -> Library:
    """Load the fused operators and register them with Paddle, once; warns where they are installed but of no use."""
    spec = importlib.util.find_spec("paddlemix_ops")
    if spec is None or spec.origin is None:
        return Library(f"paddlemix_ops is not installed; {BUILD_HINT}")
    path = Path(spec.origin).parent / "libpaddlemix_ops.so"
    try:
        loaded = _load(path)
    except (OSError, AttributeError, RuntimeError) as error:
        loaded = Library(f"{path} cannot be loaded ({str(error).splitlines()[0]}); {BUILD_HINT} anew")
    if loaded.missing is not None:
        warnings.warn(f"plain Paddle is used: {loaded.missing}", RuntimeWarning, stacklevel=2)
    return loaded


def _load(path: Path) -> Library:
    if not path.is_file():
        return Library(f"{path} does not exist; {BUILD_HINT}")
    functions = ctypes.CDLL(str(path))
    interface = functions.paddlemix_ops_interface()
    if interface != INTERFACE:
        return Library(f"{path} has interface {interface}, this paddlemix needs {INTERFACE}; {BUILD_HINT} anew")
    functions.paddlemix_ops_paddle_version.restype = ctypes.c_char_p
    version = functions.paddlemix_ops_paddle_version().decode()
    if version != paddle.__version__:
        return Library(f"{path} was built for Paddle {version}, this is {paddle.__version__}; {BUILD_HINT} anew")
    functions.paddlemix_cpu_set_threads(default_threads())
    precision = os.environ.get("PADDLEMIX_MATMUL_PRECISION")
    if precision:
        functions.paddlemix_cpu_set_matmul_precision(_matmul_precision(precision))
    forking.watch(functions)
    load_op_meta_info_and_register_op(str(path))  # last: Paddle cannot forget operators
    devices = ("cpu", "cuda") if functions.paddlemix_ops_with_cuda() else ("cpu",)
    return Library(None, devices, functions, _direct_functions(path))


@cache
def cuda_trouble() -> str | None:
    """Why the library's CUDA kernels do not run on the current GPU, found by launching one; ``None`` where they do.

    A library may lack the GPU's architecture, or be newer than the driver; both show at the first launch only. It is
    asked when a tensor of a GPU first meets an operator, and warns then.
    """
    functions = library().functions
    if functions is None or not _HAS_CUDA:
        return "this Paddle is a CPU build"
    for function in (functions.paddlemix_ops_cuda_trial, functions.paddlemix_ops_cuda_build):
        function.restype = ctypes.c_char_p
    error = functions.paddlemix_ops_cuda_trial()
    if error is None:
        return None
    architecture = "".join(map(str, paddle.device.cuda.get_device_capability()))
    reason = (
        f"the library's CUDA kernels ({functions.paddlemix_ops_cuda_build().decode()}) do not run on this GPU "
        f"({architecture}): {error.decode()}"
    )
    hint = f"PADDLEMIX_CUDA_ARCHS={architecture} {BUILD_HINT} anew, with a toolkit no newer than the driver"
    warnings.warn(f"plain Paddle is used: {reason}; {hint}", RuntimeWarning, stacklevel=2)
    return reason


def offers(device: str) -> bool:
    """Whether the library's kernels for ``"cpu"`` or ``"cuda"`` run here and plain Paddle was not asked for."""
    return mode() != "reference" and device in library().devices and (device == "cpu" or cuda_trouble() is None)


def uses_paddle_kernels(x: paddle.Tensor) -> bool:
    """Whether Paddle's own fused operators are to be used for a tensor: on a GPU, unless plain Paddle was asked for."""
    return _HAS_CUDA and mode() != "reference" and device_of(x) == "cuda"


def _direct_functions(path: Path) -> Mapping[str, Callable[..., list[paddle.Tensor]]]:
    functions = ctypes.PyDLL(str(path))  # keeps the interpreter's lock, unlike CDLL
    if not hasattr(functions, "paddlemix_ops_direct"):
        return {}
    functions.paddlemix_ops_direct.restype = ctypes.py_object
    return functions.paddlemix_ops_direct()


def default_threads() -> int:
    """Threads of the CPU kernels: ``PADDLEMIX_NUM_THREADS``, else ``OMP_NUM_THREADS``, else one for each processor.

    Paddle writes ``OMP_NUM_THREADS=1`` into an environment that lacks it, hence the look at what the process was given.

    Raises:
        ConfigurationError: ``PADDLEMIX_NUM_THREADS`` is no positive number.
    """
    asked = os.environ.get("PADDLEMIX_NUM_THREADS")
    if asked:
        if _thread_count(asked) is None:
            raise ConfigurationError(
                f"PADDLEMIX_NUM_THREADS: expected a positive number up to {MAX_THREADS}, got {quoted(asked)}"
            )
        return int(asked)
    given = _thread_count(environment_at_start().get("OMP_NUM_THREADS", "").partition(",")[0])
    if given is not None:
        return given
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(processors, _processor_quota(processors)))


def _thread_count(text: str) -> int | None:
    """The number that a text is, if so many threads may be asked for."""
    if not text.isdecimal() or len(text) > len(str(MAX_THREADS)) or not 1 <= int(text) <= MAX_THREADS:
        return None
    return int(text)


def _processor_quota(processors: int, limits: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Processors' worth of time that a container may use, ``processors`` where there is no limit."""
    try:
        quota, period = limits.read_text().split()
        return processors if quota == "max" else int(quota) // int(period)
    except (OSError, ValueError):
        return processors


def set_threads(count: int) -> int:
    """Let the CPU kernels use at most ``count`` threads; returns how many they might use before.

    Raises:
        OperatorError: there are no CPU kernels here.
    """
    functions = library().functions
    if functions is None:
        raise OperatorError(f"no CPU kernels: {library().missing}")
    return functions.paddlemix_cpu_set_threads(count)


def set_matmul_precision(name: str) -> str:
    """Choose how exact ``linear_w16`` on the CPU is over bfloat16 weights; returns what was chosen before.

    Args:
        name: ``"bfloat16"``, the default: activations of more than 8 rows are rounded to bfloat16 where the processor
            multiplies it (AMX, AVX512_BF16), the sums are float32. ``"float32"``: everywhere as exact as float32
            products. ``PADDLEMIX_MATMUL_PRECISION`` chooses as well.

    Raises:
        ConfigurationError: another name.
        OperatorError: there are no CPU kernels here.
    """
    code, functions = _matmul_precision(name), library().functions
    if functions is None:
        raise OperatorError(f"no CPU kernels: {library().missing}")
    before = functions.paddlemix_cpu_set_matmul_precision(code)
    return next(known for known, value in MATMUL_PRECISIONS.items() if value == before)


def _matmul_precision(name: str) -> int:
    if name not in MATMUL_PRECISIONS:
        raise ConfigurationError(
            f"PADDLEMIX_MATMUL_PRECISION: expected one of {', '.join(MATMUL_PRECISIONS)}, got {quoted(name)}"
        )
    return MATMUL_PRECISIONS[name]


def mode() -> str:
    """The choice in force: one of ``MODES``. At first it is that of the environment.

    Raises:
        ConfigurationError: ``PADDLEMIX_OPS`` is none of them.
    """
    if _mode is None:
        set_mode(os.environ.get("PADDLEMIX_OPS") or "auto")
    return cast(str, _mode)


def set_mode(name: str) -> None:
    """Choose as ``PADDLEMIX_OPS`` does, from now on.

    Raises:
        ConfigurationError: another name.
    """
    global _mode
    if name not in MODES:
        raise ConfigurationError(f"PADDLEMIX_OPS: expected one of {', '.join(MODES)}, got {name!r}")
    _mode = name


@contextmanager
def using(name: str) -> Iterator[None]:
    """Choose as ``set_mode`` does, for the length of a ``with`` block."""
    before = mode()
    set_mode(name)
    try:
        yield
    finally:
        set_mode(before)


@paddle.jit.not_to_static  # a traced copy would keep the choice that was in force when it was made
def use_kernel(operator: str, x: paddle.Tensor) -> bool:
    """Whether ``operator`` on ``x`` runs its fused kernel; ``False`` means plain Paddle.

    Raises:
        OperatorError: the kernel was asked for by name and cannot run.
    """
    chosen = _mode or mode()
    if chosen == "reference":
        return False
    try:
        reason = _why_not(operator, device_of(x), x.dtype, chosen)
    except AttributeError:  # no tensor at all; looked at only now, because this runs in every call of every operator
        _check_first(operator, x)
        raise
    if chosen == "auto" or reason is None:
        return reason is None
    _check_first(operator, x)
    raise OperatorError(f"PADDLEMIX_OPS={chosen}: {operator} cannot run there: {reason}")


def _check_first(operator: str, x: object) -> None:
    check_tensors(operator, **{PARAMETERS[f"paddlemix_{operator}"][0][0]: x})


def why_not(operator: str, device: str, dtype: paddle.dtype = paddle.float32) -> str | None:
    """Why the fused kernel is not used for a tensor of this dtype on ``"cpu"`` or ``"cuda"``; ``None`` if it is."""
    return _why_not(operator, device, dtype, mode())


@cache  # asked in every call of every operator
def _why_not(operator: str, device: str, dtype: paddle.dtype, chosen: str) -> str | None:
    if chosen in ("cpu", "cuda") and device != chosen:
        return f"the tensor lies on {device}"
    available = library()
    if available.missing is not None:
        return available.missing
    if device not in available.devices:
        return f"the library was built without {device} kernels"
    trouble = cuda_trouble() if device == "cuda" else None
    if trouble is not None:
        return trouble
    if available.functions is not None and not hasattr(available.functions, f"paddlemix_cpu_{operator}"):
        return f"the library is older than {operator}; {BUILD_HINT} anew"
    if device == "cuda" and not OPERATORS[operator].has_cuda:
        return f"{operator} has no cuda kernel"
    dtypes = OPERATORS[operator].cpu_dtypes if device == "cpu" else _CUDA_DTYPES
    return None if dtype in dtypes else f"no {device} kernel for {str(dtype).rpartition('.')[2]}"


def run(name: str, *arguments: object) -> list[paddle.Tensor]:
    """Call a registered operator: its tensors (``None`` where an optional one is left out), then its attributes.

    Returns its outputs, also where there is only one.

    Raises:
        OperatorError: arguments that the operator refuses.
    """
    try:
        direct = library().direct.get(name)
        if direct is not None and not paddle.is_grad_enabled() and paddle.in_dynamic_mode():
            outputs = direct(*arguments)
            if outputs is not NotImplemented:
                return outputs
        check_arguments(name, arguments)
        return run_custom_op(name, *arguments)
    except OSError as error:
        raise refused(error) from None


def bound(
    operator: str, device: str, dtype: paddle.dtype, name: str | None = None
) -> Callable[..., list[paddle.Tensor]] | None:
    """The function of a registered operator, for a caller that makes the choice once and not in every call.

    It takes what :func:`run` takes behind the name, where gradients are off and nothing is traced, and raises
    ``OSError`` (see :func:`refused`) for arguments that do not fit. All tensors must be contiguous: it answers
    ``NotImplemented`` to others.

    Args:
        operator: a name of ``OPERATORS``.
        device: of the activations, ``"cpu"`` or ``"cuda"``.
        dtype: of the activations.
        name: of the registered operator, without the prefix, where it is not that of ``operator``.

    Returns:
        ``None`` where plain Paddle is to run, or where the library has no short way.
    """
    if mode() == "reference" or why_not(operator, device, dtype) is not None:
        return None
    return library().direct.get(f"paddlemix_{name or operator}")


def refused(error: OSError) -> OperatorError:
    """The error of an operator that refuses its arguments, without the file and line of the check."""
    return OperatorError(str(error).partition("\n")[0])


def limit_instruction_set(name: str) -> str:
    """Let the CPU kernels use at most this instruction set; returns the one now in use, the best that there is below.

    Raises:
        OperatorError: there are no CPU kernels here.
    """
    functions = library().functions
    if functions is None:
        raise OperatorError(f"no CPU kernels: {library().missing}")
    return INSTRUCTION_SETS[functions.paddlemix_cpu_limit_isa(INSTRUCTION_SETS.index(name))]


def device_of(x: paddle.Tensor) -> str:
    """``"cpu"`` or ``"cuda"``."""
    if not _HAS_CUDA:
        return "cpu"
    place = getattr(x, "place", None)
    if place is None:  # a value of a program that is being traced has no place yet
        return "cpu" if paddle.get_device() == "cpu" else "cuda"
    return "cpu" if place.is_cpu_place() else "cuda"


_HAS_CUDA = paddle.is_compiled_with_cuda()
_mode: str | None = None  # read from the environment when it is first asked for
