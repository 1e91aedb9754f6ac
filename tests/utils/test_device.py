from types import SimpleNamespace

import paddle
import pytest

from paddlemix.utils.device import free_gpu_memory


@pytest.mark.parametrize("tells, expected", [(True, 500 + 30), (False, 1000 - 70)])
def test_what_paddle_keeps_and_does_not_use_is_free_too(monkeypatch, tells, expected):
    cuda = paddle.device.cuda
    monkeypatch.setattr(cuda, "memory_reserved", lambda: 100)
    monkeypatch.setattr(cuda, "memory_allocated", lambda: 70)
    monkeypatch.setattr(cuda, "get_device_properties", lambda: SimpleNamespace(total_memory=1000))
    query = {"mem_get_info": lambda: (500, 1000)} if tells else {}
    monkeypatch.setattr(paddle, "cuda", SimpleNamespace(**query), raising=False)
    assert free_gpu_memory() == expected
