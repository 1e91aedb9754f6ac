from __future__ import annotations

import errno
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from paddlemix.checkpoint import writer
from paddlemix.checkpoint.locks import exclusive
from paddlemix.checkpoint.writer import TensorSource, damaged_files, plan_shards, read_manifest, write_checkpoint
from paddlemix.errors import CheckpointError

ARRAYS = {f"t{n}": np.arange(n * 10, dtype=np.float32).reshape(10, n) for n in range(1, 6)}
METADATA = {"format": "pt"}


def sources(arrays: dict[str, np.ndarray] = ARRAYS) -> list[TensorSource]:
    return [TensorSource(n, a.shape, str(a.dtype), lambda a=a: [a[:4], a[4:]]) for n, a in arrays.items()]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_safetensors_package_reads_what_is_written(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, sources(), METADATA)
    assert names(tmp_path) == ["checkpoint_manifest.json", "model.safetensors"]
    with safetensors.safe_open(tmp_path / "model.safetensors", "numpy") as file:
        assert file.metadata() == METADATA
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(file.get_tensor(name), array)


def test_shards_are_cut_at_their_largest_size_and_indexed(tmp_path: Path) -> None:
    shards = plan_shards(sources(), 150)
    assert [[tensor.name for tensor in group] for _, group in shards] == [["t1", "t2"], ["t3"], ["t4"], ["t5"]]
    manifest = write_checkpoint(tmp_path, sources(), METADATA, max_shard_bytes=150)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 600}
    assert index["weight_map"]["t2"] == "model-00001-of-00004.safetensors"
    assert set(manifest["files"]) == set(index["weight_map"].values())
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(safetensors.numpy.load_file(tmp_path / index["weight_map"][name])[name], array)


def test_manifest_notices_changed_and_missing_files(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, sources(), METADATA, max_shard_bytes=150)
    manifest = read_manifest(tmp_path)
    assert damaged_files(tmp_path, manifest) == []
    path = tmp_path / "model-00002-of-00004.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    (tmp_path / "model-00003-of-00004.safetensors").unlink()
    assert damaged_files(tmp_path, manifest) == [
        "model-00002-of-00004.safetensors is not the file that was written (size or sha256 differ)",
        "model-00003-of-00004.safetensors is missing",
    ]


def test_writing_again_replaces_the_old_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    write_checkpoint(tmp_path, sources(), METADATA, max_shard_bytes=150)
    write_checkpoint(tmp_path, sources({"t1": ARRAYS["t2"]}), METADATA)
    assert names(tmp_path) == ["checkpoint_manifest.json", "model.safetensors", "notes.txt"]
    np.testing.assert_array_equal(safetensors.numpy.load_file(tmp_path / "model.safetensors")["t1"], ARRAYS["t2"])


def failing_after(count: int, error: BaseException) -> list[TensorSource]:
    """Sources of which the one at ``count`` raises in the middle."""

    def broken() -> list[np.ndarray]:
        yield ARRAYS["t1"][:4]
        raise error

    result = sources()
    result[count] = TensorSource("t1" * 2, (10, 1), "float32", broken)
    return result


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_disk_that_fills_up_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with pytest.raises(CheckpointError, match="cannot be written: No space left on device"):
        write_checkpoint(folder, failing_after(2, FULL), METADATA, max_shard_bytes=100)
    assert not folder.exists()


def test_failure_leaves_an_earlier_checkpoint_as_it_was(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, sources(), METADATA)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError):
        write_checkpoint(tmp_path, failing_after(2, FULL), METADATA, max_shard_bytes=100)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_too_little_room_is_noticed_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match="0.02 GB needed, 0.00 GB free"):
        write_checkpoint(tmp_path / "out", sources(), METADATA, made_from={"a": 1})
    assert not (tmp_path / "out").exists()


def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The list that the names of files enter as they are written."""
    log: list[str] = []
    original = writer.write_safetensors

    def logging(path: Path, *arguments: object) -> str:
        log.append(path.name)
        return original(path, *arguments)

    monkeypatch.setattr(writer, "write_safetensors", logging)
    return log


def test_interrupted_writing_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"made_from": {"source": 1}, "max_shard_bytes": 100}
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path, failing_after(3, KeyboardInterrupt()), METADATA, **options)
    assert names(tmp_path) == [".incomplete"]
    log = written(tmp_path, monkeypatch)
    progress: list[tuple[int, int]] = []
    write_checkpoint(tmp_path, sources(), METADATA, progress=lambda *now: progress.append(now), **options)
    assert log == ["model-00004-of-00005.safetensors", "model-00005-of-00005.safetensors"]
    assert progress[0][0] >= 240
    assert progress[-1][0] >= progress[-1][1] == 600
    assert ".incomplete" not in names(tmp_path)
    assert damaged_files(tmp_path, read_manifest(tmp_path)) == []


def test_a_second_interruption_costs_no_finished_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"made_from": {"source": 1}, "max_shard_bytes": 100}
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            write_checkpoint(tmp_path, failing_after(3, KeyboardInterrupt()), METADATA, **options)
    log = written(tmp_path, monkeypatch)
    write_checkpoint(tmp_path, sources(), METADATA, **options)
    assert log == ["model-00004-of-00005.safetensors", "model-00005-of-00005.safetensors"]


def test_a_disk_that_is_full_meanwhile_costs_no_finished_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"made_from": {"source": 1}, "max_shard_bytes": 100}
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path, failing_after(3, KeyboardInterrupt()), METADATA, **options)
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "free")(1000))
        with pytest.raises(CheckpointError, match="0.00 GB free"):
            write_checkpoint(tmp_path, sources(), METADATA, **options)
    log = written(tmp_path, monkeypatch)
    write_checkpoint(tmp_path, sources(), METADATA, **options)
    assert log == ["model-00004-of-00005.safetensors", "model-00005-of-00005.safetensors"]


def test_finished_files_that_were_damaged_meanwhile_are_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"made_from": {"source": 1}, "max_shard_bytes": 100}
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path, failing_after(3, KeyboardInterrupt()), METADATA, **options)
    (tmp_path / ".incomplete" / "model-00002-of-00005.safetensors").write_bytes(b"changed")
    log = written(tmp_path, monkeypatch)
    write_checkpoint(tmp_path, sources(), METADATA, **options)
    assert log == [f"model-0000{n}-of-00005.safetensors" for n in (2, 4, 5)]


def test_files_of_another_source_are_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        broken = failing_after(3, KeyboardInterrupt())
        write_checkpoint(tmp_path, broken, METADATA, made_from={"source": 1}, max_shard_bytes=100)
    log = written(tmp_path, monkeypatch)
    write_checkpoint(tmp_path, sources(), METADATA, made_from={"source": 2}, max_shard_bytes=100)
    assert len(log) == 5


def test_complete_checkpoint_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path, sources(), METADATA, made_from={"source": 1})
    log = written(tmp_path, monkeypatch)
    write_checkpoint(tmp_path, sources(), METADATA, made_from={"source": 1})
    assert log == []


def test_two_writers_do_not_get_into_each_others_way(tmp_path: Path) -> None:
    with exclusive(tmp_path / ".incomplete" / "lock", wait=False):
        with pytest.raises(CheckpointError, match="another process is writing here"):
            write_checkpoint(tmp_path, sources(), METADATA)


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="file/out: cannot be written"):
        write_checkpoint(tmp_path / "file" / "out", sources(), METADATA)


def test_source_with_too_few_elements_is_an_error(tmp_path: Path) -> None:
    short = [TensorSource("a", (10, 1), "float32", lambda: [ARRAYS["t1"][:4]])]
    with pytest.raises(CheckpointError, match="'a': 16 bytes came, expected 40"):
        write_checkpoint(tmp_path / "out", short, METADATA)
    assert not (tmp_path / "out").exists()
