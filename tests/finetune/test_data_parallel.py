"""Ownership of parameters under ZeRO, without any other process; ``test_distributed.py`` trains with two of them."""

from types import SimpleNamespace

import paddle.nn as nn
import pytest

from paddlemix.errors import TrainingError
from paddlemix.finetune import data_parallel
from paddlemix.finetune.data_parallel import STAGE1, STAGE2, STAGE3, DataParallel, assign_owners

PROCESSES = 3


class Adapted(nn.Layer):
    """A large frozen weight and small trained ones."""

    def __init__(self) -> None:
        super().__init__()
        self.base = self.create_parameter([32, 32])
        self.base.stop_gradient = True
        self.low, self.high = self.create_parameter([32, 2]), self.create_parameter([2, 32])


def data_parallel_of(monkeypatch, rank, sharding, layers=4):
    alone = SimpleNamespace(
        get_rank=lambda: rank, get_world_size=lambda: PROCESSES, broadcast=lambda *_: None, reduce=lambda *_: None
    )
    monkeypatch.setattr(data_parallel, "dist", alone)
    model = nn.Sequential(*(Adapted() for _ in range(layers)))
    return DataParallel(model, sharding, list(model) if sharding == STAGE3 else ())


def test_parameters_are_shared_out_by_their_elements():
    sizes = {"a": 6, "b": 5, "c": 4, "d": 3}
    assert assign_owners(sizes, 2) == {"a": 0, "b": 1, "c": 1, "d": 0}


@pytest.mark.parametrize("sharding", [STAGE1, STAGE2, STAGE3])
def test_every_process_owns_its_part_of_what_is_trained_however_large_what_is_frozen(monkeypatch, sharding):
    parts = [data_parallel_of(monkeypatch, rank, sharding).owned for rank in range(PROCESSES)]
    trained = [f"{layer}.{name}" for layer in range(4) for name in ("high", "low")]
    assert sorted(name for part in parts for name in part) == trained
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_stage_3_shares_out_the_frozen_weights_as_well(monkeypatch):
    kept = []
    for rank in range(PROCESSES):
        layers = data_parallel_of(monkeypatch, rank, STAGE3)._zero3_layers
        kept.append(sum(owner == rank and p.stop_gradient for layer in layers for p, owner in layer._parameters))
    assert sorted(kept) == [1, 1, 2]


@pytest.mark.parametrize("rank", range(PROCESSES))
def test_too_few_parameters_are_told_by_every_process(monkeypatch, rank):
    with pytest.raises(TrainingError, match="2 trained parameters are too few for 3 processes"):
        data_parallel_of(monkeypatch, rank, STAGE2, layers=1)


def test_a_single_process_owns_everything_whatever_the_stage():
    model = Adapted()
    single = DataParallel(model, STAGE3, [model])
    assert sorted(single.owned) == ["high", "low"] and single.sharding is None
