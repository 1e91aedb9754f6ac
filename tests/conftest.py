"""Settings and fixtures shared by all tests. They use one thread, no GPU and no network beyond this machine."""

from __future__ import annotations

import ctypes
import importlib.util
import ipaddress
import os
import socket
from pathlib import Path

import pytest
from hypothesis import settings

from tests.backends import any_backend, fused, instruction_set  # noqa: F401 (fixtures)

ROOT = Path(__file__).resolve().parent.parent

# Before anything imports numpy or Paddle: the thread pools are sized at import. Small models are fastest on one thread.
for _name in ("PADDLEMIX_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Programs that tests start run this checkout, not an installed copy.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))

# The same examples on every run, and no time limits: a busy machine is not a failure.
settings.register_profile("paddlemix", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("paddlemix")


def pytest_runtest_setup() -> None:
    """Give every test numbers as IEEE 754 has them: a training flushes denormal ones to zero in its whole process."""
    default_environment = ctypes.c_void_p(-1)  # FE_DFL_ENV of glibc
    ctypes.CDLL("libm.so.6").fesetenv(default_environment)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of the numbers obtained from the PyTorch original."""
    return Path(__file__).resolve().parent / "fixtures" / "golden"


@pytest.fixture(scope="session")
def real_vocab_file() -> Path:
    """The published ``qwen.tiktoken``, found inside the test dependency dashscope.

    Skips where it is absent, and fails instead when PADDLEMIX_REQUIRE_REAL_VOCAB=1, as ``make test`` sets.
    """
    spec = importlib.util.find_spec("dashscope")
    if spec is not None:
        path = Path(spec.origin).parent / "resources" / "qwen.tiktoken"
        if path.is_file():
            return path
    message = "the published qwen.tiktoken was not found: pip install -e '.[test]' brings it (package dashscope)"
    if os.environ.get("PADDLEMIX_REQUIRE_REAL_VOCAB") == "1":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete chat model that gives one known answer; see ``tests/tiny_model.py``."""
    from tests.tiny_model import write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "chat")


@pytest.fixture(scope="session")
def tiny_base_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a base model, which knows no chat; it answers what ends with a question mark."""
    from tests.tiny_model import write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "base", chat_format="raw")


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that leave this machine fail as they would offline, so no test comes to rest on a public host."""
    connect = socket.socket.connect

    def guarded_connect(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and not _is_loopback(address[0]):
            raise OSError(f"tests connect to this machine only, not to {address[0]}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
