"""The choice between plain Paddle and the fused kernels, and life without the latter."""

from __future__ import annotations

import importlib.machinery
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import paddle
import pytest

from paddlemix import ops
from paddlemix.errors import ConfigurationError, OperatorError
from paddlemix.inference import load_model
from paddlemix.models.qwen_vl.modeling import QWenLMHeadModel
from paddlemix.ops import __main__ as report_of_operators
from paddlemix.ops import backend
from paddlemix.predict import predict

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "paddlemix/zoo/bus.png"
ANSWER = f"from paddlemix.predict import predict; print(predict('Where is the bus?', ['{IMAGE}']).text)"
HIDE = "import sys; sys.modules['paddlemix_ops'] = None"


@pytest.fixture
def no_memory() -> Iterator[None]:
    """What has been found out about the library is forgotten before the test and after it."""

    def forget() -> None:
        backend._why_not.cache_clear()

    forget()
    yield
    forget()


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch, no_memory: None) -> None:
    """As if paddlemix_ops were not installed."""
    monkeypatch.setattr(backend, "library", lambda: backend.Library("paddlemix_ops is not installed"))


@pytest.fixture
def installed(fused: None) -> Path:
    """The library that paddlemix_ops carries here."""
    return Path(backend.library().functions._name)


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    settings = {**os.environ, **environment}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=settings, capture_output=True, encoding="utf-8")


# ---------------------------------------------------------------- the choice


def test_auto_takes_the_kernel_where_there_is_one_and_plain_paddle_elsewhere(fused):
    with backend.using("auto"):
        assert backend.use_kernel("rms_norm", paddle.ones([2]))
        assert not backend.use_kernel("swiglu", paddle.ones([2]).astype("bfloat16"))


def test_reference_takes_no_kernel(monkeypatch):
    monkeypatch.setattr(backend, "library", lambda: pytest.fail("the library was asked for"))
    with backend.using("reference"):
        assert not backend.use_kernel("rms_norm", paddle.ones([2]))


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_a_backend_asked_for_by_name_that_is_not_there_is_an_error(no_library, name):
    with backend.using(name), pytest.raises(OperatorError, match=f"PADDLEMIX_OPS={name}: swiglu cannot run"):
        ops.swiglu(paddle.ones([2, 4]))


def test_a_dtype_without_a_kernel_is_an_error_where_the_kernel_was_asked_for(fused):
    with pytest.raises(OperatorError, match="swiglu cannot run there: no cpu kernel for bfloat16"):
        ops.swiglu(paddle.ones([2, 4]).astype("bfloat16"))


def test_another_name_is_refused():
    with pytest.raises(ConfigurationError, match="expected one of auto, reference, cpu, cuda, got 'gpu'"):
        backend.set_mode("gpu")


def test_the_choice_of_a_block_ends_with_it():
    before = backend.mode()
    with pytest.raises(KeyError), backend.using("reference"):
        assert backend.mode() == "reference"
        raise KeyError
    assert backend.mode() == before


# ---------------------------------------------------------------- a library that cannot be used


def load(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is said of the library at this path, which must not be used."""
    spec = importlib.machinery.ModuleSpec("paddlemix_ops", None, origin=str(path.parent / "__init__.py"))
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: spec)
    with pytest.warns(RuntimeWarning, match="plain Paddle is used: "):
        library = backend.library.__wrapped__()
    assert library.devices == () and "\n" not in library.missing
    assert library.missing.endswith(
        "pip install --no-build-isolation ./external_ops builds it" + " anew" * path.is_file()
    )
    return library.missing


def path_of_libm() -> str:
    """Some library of another kind, which this process has loaded."""
    mapped = (line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines())
    return next(name for name in mapped if Path(name).name.startswith(("libm.so", "libm-")))


def test_a_library_of_another_interface_is_told_and_not_used(installed, monkeypatch):
    monkeypatch.setattr(backend, "INTERFACE", 999)
    assert "this paddlemix needs 999" in load(installed, monkeypatch)


def test_a_library_for_another_paddle_is_told_and_not_used(installed, monkeypatch):
    version = paddle.__version__
    monkeypatch.setattr(backend.paddle, "__version__", "3.99.0")
    assert f"was built for Paddle {version}, this is 3.99.0" in load(installed, monkeypatch)


def test_a_library_that_says_nothing_of_its_interface_is_told_and_not_used(monkeypatch, tmp_path):
    path = tmp_path / "libpaddlemix_ops.so"
    path.symlink_to(path_of_libm())
    assert "cannot be loaded" in load(path, monkeypatch)


def test_a_damaged_library_is_told_and_not_used(monkeypatch, tmp_path):
    path = tmp_path / "libpaddlemix_ops.so"
    path.write_text("no library")
    assert "cannot be loaded" in load(path, monkeypatch)


def test_a_package_without_its_library_is_told(monkeypatch, tmp_path):
    assert "does not exist" in load(tmp_path / "libpaddlemix_ops.so", monkeypatch)


class FakeCuda:
    """The C interface of a library with CUDA kernels whose trial launch says this; ``None``: the kernel ran."""

    def __init__(self, error: bytes | None):
        self.paddlemix_ops_cuda_trial = lambda: error
        self.paddlemix_ops_cuda_build = lambda: b"CUDA 13.0 for 80 90"
        for name in backend.OPERATORS:
            setattr(self, f"paddlemix_cpu_{name}", None)


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch, no_memory: None) -> None:
    """As if Paddle were a CUDA build and its GPU of compute capability 7.0."""
    monkeypatch.setattr(backend, "_HAS_CUDA", True)
    monkeypatch.setattr(backend.paddle.device.cuda, "get_device_capability", lambda: (7, 0))
    backend.cuda_trouble.cache_clear()
    yield
    backend.cuda_trouble.cache_clear()


@pytest.mark.parametrize(
    "error",
    [b"no kernel image is available for execution on the device", b"CUDA driver version is insufficient"],
)
def test_cuda_kernels_that_do_not_run_on_the_gpu_are_told_once_and_not_used(on_a_gpu, monkeypatch, error):
    library = backend.Library(None, ("cpu", "cuda"), FakeCuda(error))
    monkeypatch.setattr(backend, "library", lambda: library)
    with pytest.warns(RuntimeWarning) as warned:
        reasons = {backend.why_not(name, "cuda") for name in backend.OPERATORS}
    assert len(warned) == 1 and "\n" not in str(warned[0].message)
    assert "plain Paddle is used: " in str(warned[0].message) and "PADDLEMIX_CUDA_ARCHS=70 " in str(warned[0].message)
    (reason,) = reasons
    assert reason.endswith(f"(CUDA 13.0 for 80 90) do not run on this GPU (70): {error.decode()}")
    assert not backend.offers("cuda") and backend.offers("cpu")
    assert backend.why_not("swiglu", "cpu") is None


def test_cuda_kernels_that_run_are_used(on_a_gpu, monkeypatch):
    monkeypatch.setattr(backend, "library", lambda: backend.Library(None, ("cpu", "cuda"), FakeCuda(None)))
    assert backend.why_not("swiglu", "cuda", paddle.bfloat16) is None and backend.offers("cuda")
    with backend.using("reference"):
        assert not backend.offers("cuda")


def test_cuda_kernels_beside_a_cpu_build_of_paddle_are_not_tried(monkeypatch, no_memory):
    backend.cuda_trouble.cache_clear()
    monkeypatch.setattr(backend, "library", lambda: backend.Library(None, ("cpu", "cuda"), FakeCuda(b"")))
    assert backend.why_not("swiglu", "cuda") == "this Paddle is a CPU build"
    backend.cuda_trouble.cache_clear()


# ---------------------------------------------------------------- python -m paddlemix.ops


def rows(text: str) -> dict[str, str]:
    lines = text.splitlines()
    assert lines[2].split("  ")[0] == "operator"
    return {line.split()[0]: line for line in lines[3:]}


@pytest.mark.parametrize(
    "name, chosen, status", [("auto", "cpu", 0), ("reference", "reference", 0), ("cpu", "cpu", 0), ("cuda", "none", 1)]
)
def test_the_table_has_every_operator_and_what_is_chosen(fused, name, chosen, status):
    with backend.using(name):
        text, actual_status = report_of_operators.report()
    assert text.startswith(f"PADDLEMIX_OPS={name}, Paddle {paddle.__version__} on cpu\nCPU kernels: instruction set ")
    assert set(rows(text)) == set(backend.OPERATORS)
    for row in rows(text).values():
        assert f"  {chosen}" in row.partition("reference, cpu")[2]
        assert "cuda: the library was built without cuda kernels" in row
    assert actual_status == status


@pytest.mark.parametrize(
    "name, chosen, status",
    [("auto", "reference", 0), ("reference", "reference", 0), ("cpu", "none, cpu was asked for", 1)],
)
def test_without_the_library_the_table_says_so_once(no_library, name, chosen, status):
    with backend.using(name):
        text, actual_status = report_of_operators.report()
    assert text.count("paddlemix_ops is not installed") == 1
    assert all(row.split(maxsplit=2)[1] == "reference" and f"  {chosen}  " in row for row in rows(text).values())
    assert actual_status == status


def test_the_program_prints_the_table():
    done = run_python("-m", "paddlemix.ops", PADDLEMIX_OPS="reference")
    assert done.returncode == 0 and done.stderr == ""
    assert set(rows(done.stdout)) == set(backend.OPERATORS)


def test_a_wrong_choice_in_the_environment_is_one_line():
    done = run_python("-m", "paddlemix.ops", PADDLEMIX_OPS="fast")
    assert done.returncode == 1
    assert done.stderr == "error: PADDLEMIX_OPS: expected one of auto, reference, cpu, cuda, got 'fast'\n"


def test_a_wrong_choice_in_the_environment_is_told_before_weights_are_read(monkeypatch):
    monkeypatch.setattr(backend, "_mode", None)
    monkeypatch.setenv("PADDLEMIX_OPS", "fast")
    monkeypatch.setattr(QWenLMHeadModel, "from_directory", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(ConfigurationError, match="PADDLEMIX_OPS"):
        load_model()


# ---------------------------------------------------------------- without the library


def test_the_model_answers_the_same_without_the_library():
    hidden = run_python("-c", f"{HIDE}; {ANSWER}", PADDLEMIX_OPS="auto")
    assert hidden.returncode == 0, hidden.stderr
    assert "plain Paddle is used" not in hidden.stderr
    assert "<box>" in hidden.stdout
    with backend.using("auto"):
        assert hidden.stdout.strip() == predict("Where is the bus?", [ROOT / IMAGE]).text


def test_kernels_use_every_processor_where_only_paddle_has_set_a_number():
    code = "from paddlemix.ops import backend; print(backend.default_threads())"
    kept = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "PADDLEMIX_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", code], env=kept, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == str(len(os.sched_getaffinity(0))), done.stderr


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "3", "PADDLEMIX_NUM_THREADS": "5"}, 5),
        ({"PADDLEMIX_NUM_THREADS": "4096"}, 4096),
    ],
    ids=str,
)
def test_kernels_use_as_many_threads_as_they_are_told(monkeypatch, given, expected):
    monkeypatch.delenv("PADDLEMIX_NUM_THREADS", raising=False)
    monkeypatch.setattr(backend, "environment_at_start", lambda: given)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert backend.default_threads() == expected


@pytest.mark.parametrize(("limit", "expected"), [("max 100000", 8), ("200000 100000", 2), ("odd", 8)])
def test_a_containers_share_of_the_processors_counts(tmp_path, limit, expected):
    (tmp_path / "cpu.max").write_text(limit)
    assert backend._processor_quota(8, tmp_path / "cpu.max") == expected
    assert backend._processor_quota(8, tmp_path / "missing") == 8


@pytest.mark.parametrize("value", ["0", "-1", "many", "4097", "1" + "0" * 20, "9" * 5000])
def test_a_number_of_threads_that_is_none_is_refused(monkeypatch, value):
    monkeypatch.setenv("PADDLEMIX_NUM_THREADS", value)
    with pytest.raises(ConfigurationError, match="PADDLEMIX_NUM_THREADS: expected a positive number"):
        backend.default_threads()


# ---------------------------------------------------------------- calls past Paddle's registry


def test_an_argument_of_another_type_is_named(fused):
    with paddle.no_grad(), pytest.raises(OperatorError, match="^rms_norm: weight must be a tensor, got a list$"):
        ops.rms_norm(paddle.ones([2, 4]), [1.0] * 4, 1e-6)


def test_other_threads_run_while_an_operator_computes(fused):
    query, lengths = paddle.ones([1, 4, 2000, 64]), paddle.to_tensor([2000], dtype="int32")
    go, ran = threading.Event(), []
    other = threading.Thread(target=lambda: (go.wait(), ran.append(True)))
    other.start()
    before = sys.getswitchinterval()
    sys.setswitchinterval(600)  # no thread runs before the one that does lets go
    try:
        with paddle.no_grad():
            go.set()
            ops.attention_prefill(query, query, query, kv_lengths=lengths)
            ran_meanwhile = bool(ran)
    finally:
        sys.setswitchinterval(before)
        other.join()
    assert ran_meanwhile
