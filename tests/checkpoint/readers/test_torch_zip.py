from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddlemix.checkpoint.readers import torch_zip
from paddlemix.checkpoint.readers.torch_zip import read_torch_zip
from paddlemix.errors import CheckpointError, UnsafeCheckpointError
from tests.checkpoint.building import Call, Named, Storage, torch_tensor, write_torch

VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pytorch_model.bin"


def test_file_written_by_torch_is_read(golden_dir: Path) -> None:
    tensors = read_torch_zip(golden_dir / "model" / "ckpt_bin" / "pytorch_model-00001-of-00004.bin")
    embedding = tensors["transformer.wte.weight"]
    assert (embedding.shape, embedding.dtype) == ((512, 256), "bfloat16")
    assert embedding.load().shape == (512, 256)
    assert embedding.load().dtype == np.uint16


def test_values_and_names_come_back(path: Path) -> None:
    write_torch(path, {"a": VALUES, "b": VALUES[0]})
    tensors = read_torch_zip(path)
    assert list(tensors) == ["a", "b"]
    np.testing.assert_array_equal(tensors["a"].load(), VALUES)
    np.testing.assert_array_equal(tensors["b"].load(), VALUES[0])


@pytest.mark.parametrize(
    ("kind", "dtype"), [("HalfStorage", np.float16), ("IntStorage", np.int32), ("LongStorage", np.int64)]
)
def test_other_element_types(path: Path, kind: str, dtype: type) -> None:
    write_torch(path, {"a": VALUES.astype(dtype)}, kind)
    np.testing.assert_array_equal(read_torch_zip(path)["a"].load(), VALUES.astype(dtype))


def test_views_with_strides_and_offsets_are_read(path: Path) -> None:
    def change(state: dict) -> dict:
        storage = Storage("FloatStorage", "0", 12)
        return {
            "t": torch_tensor(storage, (4, 3), (1, 4)),
            "tail": torch_tensor(storage, (5,), (1,), offset=7),
            "scalar": torch_tensor(storage, (), (), offset=11),
            "empty": torch_tensor(storage, (0, 4), (4, 1)),
        }

    write_torch(path, {"a": VALUES}, change=change)
    tensors = read_torch_zip(path)
    np.testing.assert_array_equal(tensors["t"].load(), VALUES.T)
    np.testing.assert_array_equal(tensors["tail"].load(), np.arange(7, 12))
    assert tensors["scalar"].load() == 11
    assert tensors["empty"].load().shape == (0, 4)


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((3, 5), (5, 1), 0),
        ((3, 4), (4, 1), 1),
        ((3, 4), (5, 1), 0),
        ((12,), (1,), -1),
        ((3, 4), (4, -1), 0),
        ((1000, 1000), (0, 0), 0),
        ((2**40, 2**40), (0, 0), 0),
        ((3, 4), (4,), 0),
        ((True, 4), (4, 1), 0),
        ("ab", (4, 1), 0),
    ],
)
def test_views_beyond_their_storage_are_refused(path: Path, shape: tuple, strides: tuple, offset: int) -> None:
    storage = Storage("FloatStorage", "0", 12)
    write_torch(path, {"a": VALUES}, change=lambda _: {"a": torch_tensor(storage, shape, strides, offset)})
    with pytest.raises(CheckpointError):
        read_torch_zip(path)


@pytest.mark.parametrize(
    "storage",
    [
        Storage("FloatStorage", "0", 13),
        Storage("FloatStorage", "1", 12),
        Storage("FloatStorage", "../../etc/passwd", 12),
        Storage("HalfStorage", "0", 12),
    ],
)
def test_storages_that_do_not_fit_the_file_are_refused(path: Path, storage: Storage) -> None:
    write_torch(path, {"a": VALUES}, change=lambda _: {"a": torch_tensor(storage, (2,))})
    with pytest.raises(CheckpointError, match="storage"):
        read_torch_zip(path)


@pytest.mark.parametrize(
    "value",
    [
        Call(Named("os", "system"), "true"),
        Named("torch", "QInt8Storage"),
        Call(Named("torch._utils", "_rebuild_qtensor"), 1),
        Call(Named("torch", "FloatStorage"), 4),
        Call(Named("torch._utils", "_rebuild_tensor_v2.__globals__")),
    ],
)
def test_anything_that_weights_do_not_need_is_refused(path: Path, value: object) -> None:
    write_torch(path, {"a": VALUES}, change=lambda state: {**state, "b": value})
    with pytest.raises(UnsafeCheckpointError):
        read_torch_zip(path)


@pytest.mark.parametrize("value", [3, "text", [VALUES.tolist()], None])
def test_entries_that_are_no_tensors_are_named(path: Path, value: object) -> None:
    write_torch(path, {"a": VALUES}, change=lambda state: {**state, "epoch": value})
    with pytest.raises(CheckpointError, match="'epoch'"):
        read_torch_zip(path)


def test_module_versions_that_torch_hangs_onto_a_state_dict_are_passed_over(path: Path, golden_dir: Path) -> None:
    tensor = torch_tensor(Storage("FloatStorage", "0", 12), (3, 4))
    program = pickle_with_metadata(tensor)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", VALUES.tobytes())
    np.testing.assert_array_equal(read_torch_zip(path)["a"].load(), VALUES)


def pickle_with_metadata(tensor: Call) -> bytes:
    from tests.checkpoint.building import dumps

    ordered = dumps(Call(Named("collections", "OrderedDict")))[2:-1]
    entry = dumps("a")[2:-1] + dumps(tensor)[2:-1]
    state = dumps({"_metadata": {"": {"version": 1}}})[2:-1]
    return b"\x80\x02" + ordered + b"(" + entry + b"u" + state + b"b."


def test_legacy_files_are_refused_with_advice(path: Path) -> None:
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"\x80\x02M\xe9\x03.")
    with pytest.raises(CheckpointError, match="before 1.6"):
        read_torch_zip(path)


def test_compressed_files_are_refused(path: Path) -> None:
    write_torch(path, {"a": np.zeros((64, 64), np.float32)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="compressed"):
        read_torch_zip(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_files_are_refused(path: Path, golden_dir: Path, share: float) -> None:
    whole = (golden_dir / "model" / "ckpt_bin" / "pytorch_model-00004-of-00004.bin").read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError):
        read_torch_zip(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9])
def test_files_with_a_hole_are_refused(path: Path, share: float) -> None:
    write_torch(path, {"a": VALUES, "b": VALUES[1]})
    whole = path.read_bytes()
    start = int(len(whole) * share)
    path.write_bytes(whole[:start] + whole[start + 3 :])
    with pytest.raises(CheckpointError):
        read_torch_zip(path)


def test_messages_do_not_show_what_a_few_bytes_can_blow_up(path: Path) -> None:
    nested: object = ()
    for _ in range(60):
        nested = (nested, nested)
    storage = Storage("FloatStorage", nested, 12)  # type: ignore[arg-type]
    write_torch(path, {"a": VALUES}, change=lambda _: {"a": torch_tensor(storage, (2,))})
    with pytest.raises(CheckpointError, match="storage of type tuple is missing"):
        read_torch_zip(path)


@given(st.integers(0, 10**9), st.integers(0, 255))
def test_a_changed_byte_gives_tensors_or_a_checkpoint_error(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.bin"
    write_torch(path, {"transformer.wte.weight": VALUES, "b": VALUES[1]})
    data = bytearray(path.read_bytes())
    data[position % len(data)] = value
    path.write_bytes(data)
    try:
        for tensor in read_torch_zip(path).values():
            assert tensor.load().shape == tensor.shape
    except CheckpointError:
        return


def bomb(content: bytes, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("archive/data.pkl", content)
    return buffer.getvalue()


def test_a_pickle_that_unpacks_to_more_than_weights_need_is_refused_unread(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(bomb(b"\x80\x02" + b"}" * torch_zip.MAX_PICKLE_BYTES))
    monkeypatch.setattr(zipfile.ZipExtFile, "read", None)
    with pytest.raises(CheckpointError, match="data.pkl has 8388610 bytes, expected at most 8388608"):
        read_torch_zip(path)


def test_a_size_that_lies_stops_where_it_says(path: Path) -> None:
    data = bytearray(bomb(b"\x80\x02" + b"}" * 1_000_000))
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (100).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="Bad CRC-32|damaged"):
        read_torch_zip(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_pickles_that_unpack_without_a_bound_are_refused(path: Path, compression: int) -> None:
    path.write_bytes(bomb(b"\x80\x02}.", compression))
    with pytest.raises(CheckpointError, match="data.pkl is compressed by method"):
        read_torch_zip(path)


def test_a_compressed_pickle_is_read(path: Path) -> None:
    path.write_bytes(bomb(b"\x80\x02}."))
    assert read_torch_zip(path) == {}


def test_a_list_of_members_without_end_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_zip, "MAX_ARCHIVE_BYTES", 2000)
    write_torch(path, {f"a{n}": VALUES for n in range(8)})
    read_torch_zip(path)
    write_torch(path, {f"a{n}": VALUES for n in range(40)})
    with pytest.raises(CheckpointError, match="list of members and data.pkl take more than 2000 bytes"):
        read_torch_zip(path)


def test_thousands_of_tensors_are_read(path: Path) -> None:
    write_torch(path, {f"transformer.h.{n}.attn.c_attn.weight": VALUES[0] for n in range(6000)})
    assert len(read_torch_zip(path)) == 6000
