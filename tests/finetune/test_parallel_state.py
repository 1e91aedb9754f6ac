"""What a single process sees; ``test_distributed.py`` trains with several."""

import paddle
import paddle.nn as nn
import pytest

from paddlemix.errors import TrainingError
from paddlemix.finetune.parallel_state import ParallelState
from paddlemix.parallel.degrees import Degrees


def test_too_few_parameters_to_share_are_told():
    with pytest.raises(TrainingError, match="2 trained parameters are too few for 3 processes"):
        ParallelState(nn.Linear(2, 2), Degrees(sharding=3))


def test_parameters_without_a_gradient_get_zeros():
    model = nn.Linear(2, 2)
    state = ParallelState(model)
    optimizer = paddle.optimizer.AdamW(parameters=model.parameters())
    (model.bias * paddle.to_tensor([3.0, 4.0])).sum().backward()
    state.fill_gradients()
    assert model.weight.grad.tolist() == [[0, 0], [0, 0]]
    assert state.gradient_norm(optimizer) == 5
    state.scale_gradients(optimizer, 0.5)
    assert model.bias.grad.tolist() == [1.5, 2]


def test_a_single_process_owns_everything():
    model = nn.Linear(2, 2)
    model.bias.stop_gradient = True
    state = ParallelState(model)
    assert list(state.owned(paddle.optimizer.AdamW(parameters=[model.weight]))) == ["weight"]
    assert state.writes_state
