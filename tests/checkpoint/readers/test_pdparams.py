from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddlemix.checkpoint.readers import pdparams
from paddlemix.checkpoint.readers.pdparams import read_pdparams
from paddlemix.errors import CheckpointError, UnsafeCheckpointError
from tests.checkpoint.building import Call, Named, dumps, write_pdparams

VALUES = np.random.default_rng(0).standard_normal((60, 40)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model_state.pdparams"


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_paddle_saves_is_read(path: Path, protocol: int) -> None:
    state = {
        "a": paddle.to_tensor(VALUES),
        "b": paddle.to_tensor(VALUES).astype("bfloat16"),
        "c": paddle.to_tensor([1, -2], dtype="int32"),
        "d": paddle.to_tensor(VALUES).astype("float16"),
    }
    paddle.save(state, str(path), protocol=protocol)
    tensors = read_pdparams(path)
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {
        "a": "float32", "b": "bfloat16", "c": "int32", "d": "float16",
    }  # fmt: skip
    np.testing.assert_array_equal(tensors["a"].load(), VALUES)
    np.testing.assert_array_equal(tensors["b"].load(), state["b"].numpy())
    np.testing.assert_array_equal(tensors["c"].load(), [1, -2])
    np.testing.assert_array_equal(tensors["d"].load(), VALUES.astype(np.float16))


def test_state_dict_of_a_layer_is_read(path: Path) -> None:
    layer = paddle.nn.Linear(50, 60)
    paddle.save(layer.state_dict(), str(path))
    tensors = read_pdparams(path)
    assert sorted(tensors) == ["bias", "weight"]
    np.testing.assert_array_equal(tensors["weight"].load(), layer.weight.numpy())


def test_large_arrays_are_views_of_the_file(path: Path) -> None:
    write_pdparams(path, {"a": VALUES})
    assert not read_pdparams(path)["a"].load().flags.owndata


def test_arrays_that_paddle_cut_are_whole_again(path: Path) -> None:
    flat = VALUES.reshape(-1)
    state = {
        "b": VALUES[0],
        "a@@.0": flat[:1000],
        "a@@.1": flat[1000:],
        "UnpackBigParamInfor@@": {"a": {"OriginShape": (60, 40), "slices": ["a@@.0", "a@@.1"]}},
    }
    path.write_bytes(pickle.dumps(state, 2))
    tensors = read_pdparams(path)
    assert sorted(tensors) == ["a", "b"]
    np.testing.assert_array_equal(tensors["a"].load(), VALUES)


def test_an_array_that_never_gets_its_values_is_refused(path: Path) -> None:
    path.write_bytes(dumps({"a": Call(Named("numpy.core.multiarray", "_reconstruct"))}))
    with pytest.raises(CheckpointError, match="'a' is not made of arrays"):
        read_pdparams(path)


def test_names_must_be_text(path: Path) -> None:
    state = {"a@@.0": VALUES, "UnpackBigParamInfor@@": {7: {"OriginShape": (60, 40), "slices": ["a@@.0"]}}}
    path.write_bytes(pickle.dumps(state, 4))
    with pytest.raises(CheckpointError, match="entry 7 has no name"):
        read_pdparams(path)


@pytest.mark.parametrize("slices", [["a@@.0"], ["a@@.0", "gone"], [], "a", None])
def test_incomplete_pieces_are_refused(path: Path, slices: object) -> None:
    state = {"a@@.0": VALUES[:30], "UnpackBigParamInfor@@": {"a": {"OriginShape": (60, 40), "slices": slices}}}
    path.write_bytes(pickle.dumps(state, 4))
    with pytest.raises(CheckpointError):
        read_pdparams(path)


def test_text_is_decoded_in_chunks_that_cut_no_character(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdparams, "_DECODE_CHUNK", 7)
    write_pdparams(path, {"a": VALUES}, protocol=2)
    np.testing.assert_array_equal(read_pdparams(path)["a"].load(), VALUES)


@pytest.mark.parametrize("protocol", [2, 4])
def test_column_major_arrays_keep_their_order(path: Path, protocol: int) -> None:
    write_pdparams(path, {"a": np.asfortranarray(VALUES)}, protocol)
    np.testing.assert_array_equal(read_pdparams(path)["a"].load(), VALUES)


@pytest.mark.parametrize(
    "value",
    [
        Call(Named("os", "system"), "true"),
        Call(Named("builtins", "eval"), "1"),
        Call(Named("numpy", "load"), "x.npy"),
        Call(Named("numpy.core.multiarray", "fromfile"), "/etc/passwd"),
        Call(Named("paddle", "to_tensor"), 1),
        Call(Named("numpy", "ndarray"), (2,)),
    ],
)
def test_anything_that_weights_do_not_need_is_refused(path: Path, value: object) -> None:
    path.write_bytes(dumps({"a": value}))
    with pytest.raises(UnsafeCheckpointError):
        read_pdparams(path)


@pytest.mark.parametrize(
    "value",
    [
        np.array([None, 1], dtype=object),
        np.array([("a", 1)], dtype=[("x", "U1"), ("y", "i4")]),
        VALUES.astype(">f4"),
        VALUES.astype(np.complex64),
        np.array(["text"]),
    ],
)
def test_arrays_of_other_kinds_are_refused(path: Path, value: np.ndarray) -> None:
    path.write_bytes(pickle.dumps({"a": value}, 4))
    with pytest.raises(CheckpointError):
        read_pdparams(path)


@pytest.mark.parametrize("value", [{"nested": VALUES}, 3, "text", [VALUES]])
def test_entries_that_are_no_arrays_are_named(path: Path, value: object) -> None:
    path.write_bytes(pickle.dumps({"epoch": value}, 4))
    with pytest.raises(CheckpointError, match="'epoch'"):
        read_pdparams(path)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.9, 0.9999])
def test_truncated_files_are_refused(path: Path, share: float) -> None:
    write_pdparams(path, {"a": VALUES, "b": VALUES})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError):
        read_pdparams(path)


@given(st.integers(0, 10**9), st.integers(0, 255), st.sampled_from([2, 4]))
def test_a_changed_byte_gives_tensors_or_a_checkpoint_error(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int, protocol: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.pdparams"
    write_pdparams(path, {"a": VALUES[0], "b": VALUES[:2, :2]}, protocol)
    data = bytearray(path.read_bytes())
    data[position % len(data)] = value
    path.write_bytes(data)
    try:
        for tensor in read_pdparams(path).values():
            assert tensor.load().shape == tensor.shape
    except CheckpointError:
        return
