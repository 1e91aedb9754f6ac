"""What torch's pickles hold beside plain tensors, as ``torch.load(weights_only=True)`` takes it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from paddlemix.checkpoint.readers.torch_zip import read_torch_zip
from paddlemix.errors import CheckpointError
from tests.checkpoint.building import Call, Named, Storage, torch_tensor, write_torch

VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pytorch_model.bin"


STORAGE = Storage("FloatStorage", "0", 12)
TENSOR = torch_tensor(STORAGE, (3, 4))
HOOKS = Call(Named("collections", "OrderedDict"))
PARAMETER = Call(Named("torch._utils", "_rebuild_parameter"), TENSOR, True, HOOKS)
WITH_STATE = Call(Named("torch._utils", "_rebuild_parameter_with_state"), TENSOR, False, HOOKS, {"epoch": 3})
ARGUMENTS = (STORAGE, 0, (3, 4), (4, 1), False, HOOKS)
V2 = Named("torch._utils", "_rebuild_tensor_v2")
OF_TYPE, TYPE = Named("torch._tensor", "_rebuild_from_type_v2"), Named("torch", "Tensor")
WITH_ATTRIBUTES = Call(OF_TYPE, V2, TYPE, ARGUMENTS, {"x": 1})
PARAMETER_OF_A_TYPE = Call(
    OF_TYPE, Named("torch._utils", "_rebuild_parameter"),
    Named("torch.nn.parameter", "Parameter"), (TENSOR, True, HOOKS), {},
)  # fmt: skip
OLD = Call(Named("torch._utils", "_rebuild_tensor"), STORAGE, 0, (3, 4), (4, 1))


@pytest.mark.parametrize("value", [PARAMETER, WITH_STATE, WITH_ATTRIBUTES, PARAMETER_OF_A_TYPE, OLD])
def test_parameters_and_tensors_with_attributes_are_the_tensors_that_they_hold(path: Path, value: Call) -> None:
    write_torch(path, {"a": VALUES}, change=lambda _: {"a": value})
    np.testing.assert_array_equal(read_torch_zip(path)["a"].load(), VALUES)


@pytest.mark.parametrize(
    "harmless",
    [
        Named("torch", "bfloat16"),
        Call(Named("torch", "Size"), (3, 4)),
        Call(Named("torch", "device"), "cuda", 0),
        Call(Named("__builtin__", "set"), ["a", 1]),
        Call(Named("torch.serialization", "_get_layout"), "torch.strided"),
        {"nested": [1, 2.5, None, True]},
    ],
)
def test_what_else_a_parameter_may_carry_is_passed_over(path: Path, harmless: object) -> None:
    value = Call(Named("torch._utils", "_rebuild_parameter_with_state"), TENSOR, True, HOOKS, {"x": harmless})
    write_torch(path, {"a": VALUES}, change=lambda _: {"a": value})
    np.testing.assert_array_equal(read_torch_zip(path)["a"].load(), VALUES)


@pytest.mark.parametrize(
    "value",
    [
        Call(Named("torch._utils", "_rebuild_parameter"), Call(Named("os", "system"), "true"), True, HOOKS),
        Call(OF_TYPE, Named("os", "system"), TYPE, ("true",), {}),
        Call(OF_TYPE, V2, Named("os", "system"), ARGUMENTS, {}),
        Call(OF_TYPE, "eval", TYPE, ("1",), {}),
        Call(Named("torch._utils", "_rebuild_parameter"), 3, True, HOOKS),
        Call(Named("torch._utils", "_rebuild_parameter")),
        Call(Named("torch", "Size"), "ab"),
        Call(Named("builtins", "set"), [(1, (2,))]),
    ],
)  # fmt: skip
def test_other_things_in_their_place_are_refused(path: Path, value: Call) -> None:
    write_torch(path, {"a": VALUES}, change=lambda state: {**state, "b": value})
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        read_torch_zip(path)


def test_a_file_of_a_trainer_says_what_to_do(path: Path) -> None:
    write_torch(path, {"a": VALUES}, change=lambda state: {"state_dict": state})
    with pytest.raises(CheckpointError, match="'state_dict' is a dict, expected a tensor; if its weights are in there"):
        read_torch_zip(path)


@pytest.mark.parametrize(
    "value",
    [
        Named("torch", "bfloat16"),
        Call(Named("torch", "Size"), (3, 4)),
        Call(Named("builtins", "set"), ["a"]),
        Call(Named("torch", "device"), "cpu"),
    ],
)
def test_shapes_dtypes_devices_and_sets_beside_tensors_are_passed_over(path: Path, value: object) -> None:
    write_torch(path, {"a": VALUES}, change=lambda state: {"first": value, **state, "last": value})
    assert list(read_torch_zip(path)) == ["a"]


def test_a_tuple_of_tensors_is_not_passed_over(path: Path) -> None:
    write_torch(path, {"a": VALUES}, change=lambda state: {**state, "b": (TENSOR, TENSOR)})
    with pytest.raises(CheckpointError, match="entry 'b' is a tuple, expected a tensor"):
        read_torch_zip(path)
