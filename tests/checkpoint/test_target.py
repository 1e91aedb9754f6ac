"""Occupied folders are refused, and a folder that is written holds a whole result or none, wherever it is cut off."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from paddlemix.checkpoint import layouts
from paddlemix.checkpoint.target import check_target, require_free, survey
from paddlemix.checkpoint.writer import TensorSource, write_safetensors
from paddlemix.errors import AdapterError, CheckpointError, ConfigurationError, TargetError
from tests.checkpoint.building import convert_checkpoint, open_checkpoint, random_weights, write_model
from tests.checkpoint.killing import KilledError, killing

SHARD = 5000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = write_model(tmp_path / "source", layouts.HF)
    (folder / "generation_config.json").write_text('{"chat_format": "chatml"}')
    return folder


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A model with other weights and another configuration."""
    folder = write_model(tmp_path / "other", layouts.HF, random_weights(layouts.HF, seed=5))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "initializer_range": 0.5}))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------------------------------------- the rule


@pytest.mark.parametrize("name", ["", "  ", "\t\n", "a\0b"])
def test_a_folder_without_a_name_is_refused(source: Path, name: str) -> None:
    with pytest.raises(TargetError, match="a variable that is not set looks so"):
        convert_checkpoint(source, name)


def test_one_error_is_all_that_callers_may_expect() -> None:
    assert issubclass(TargetError, ConfigurationError)
    assert issubclass(TargetError, CheckpointError)
    assert issubclass(TargetError, AdapterError)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_anything_foreign_is_left_alone(source: Path, tmp_path: Path, overwrite: bool) -> None:
    target = shutil.copytree(source, tmp_path / "foreign")
    before = contents(target)
    with pytest.raises(TargetError, match=r"did not write \(config.json, generation_config.json, model.safetensors\)"):
        convert_checkpoint(source, target, overwrite=overwrite)
    assert contents(target) == before


def test_a_finished_result_is_replaced_only_when_asked(source: Path, other: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    convert_checkpoint(other, target, "hf", max_shard_bytes=SHARD)
    before = contents(target)
    with pytest.raises(TargetError, match=r"holds a finished result .*overwrite \(--overwrite\)"):
        convert_checkpoint(source, target)
    assert contents(target) == before
    convert_checkpoint(source, target, overwrite=True)
    convert_checkpoint(source, tmp_path / "fresh")
    assert contents(target) == contents(tmp_path / "fresh")


def test_a_file_of_ones_own_beside_a_result_keeps_it_from_being_replaced(
    source: Path, other: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    convert_checkpoint(other, target)
    (target / "notes.txt").write_text("mine")
    with pytest.raises(TargetError, match=r"did not write \(notes.txt\)"):
        convert_checkpoint(source, target, overwrite=True)
    assert (target / "notes.txt").read_text() == "mine"


def test_the_same_again_is_left_as_it_is(source: Path, tmp_path: Path) -> None:
    convert_checkpoint(source, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    convert_checkpoint(source, tmp_path / "out", verify=True)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    (source / "config.json").write_text(json.dumps({**json.loads((source / "config.json").read_text()), "fp16": True}))
    with pytest.raises(TargetError, match="holds a finished result"):
        convert_checkpoint(source, tmp_path / "out")


def test_a_result_that_was_damaged_is_not_taken_for_whole(source: Path, tmp_path: Path) -> None:
    convert_checkpoint(source, tmp_path / "out")
    (tmp_path / "out" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(TargetError, match="holds a finished result"):
        convert_checkpoint(source, tmp_path / "out")
    convert_checkpoint(source, tmp_path / "out", verify=True, overwrite=True)


def test_a_folder_within_the_source_is_refused(source: Path) -> None:
    with pytest.raises(TargetError, match="lies in the folder of the source"):
        convert_checkpoint(source, source / "out")
    assert not (source / "out").exists()
    link = source.parent / "link"
    link.symlink_to(source)
    with pytest.raises(TargetError, match="is the folder of the source itself"):
        convert_checkpoint(source, link)


def test_a_file_is_no_folder(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TargetError, match="is a file"):
        check_target(tmp_path / "file")
    assert (tmp_path / "file").is_file()


def test_names_in_an_error_are_few_and_shown_escaped(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"{number}\x1b[2J").touch()
    with pytest.raises(TargetError, match="and 4 more") as caught:
        require_free(tmp_path)
    assert "\x1b" not in str(caught.value)


def test_what_an_earlier_version_wrote_is_known(source: Path, other: Path, tmp_path: Path) -> None:
    convert_checkpoint(other, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "checkpoint_manifest.json").read_text())
    del manifest["side_files"]
    (tmp_path / "out" / "checkpoint_manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "out" / ".config.json.0123abcd.tmp").touch()  # left by a process that was killed
    convert_checkpoint(source, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / ".config.json.0123abcd.tmp").exists()


@pytest.mark.parametrize(
    "manifest", ["[]", "{}", '{"files": 3}', '{"files": {"a": 1}}', '{"files": {}, "side_files": 1}']
)
def test_a_strange_manifest_is_no_reason_to_crash(source: Path, tmp_path: Path, manifest: str) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "checkpoint_manifest.json").write_text(manifest)
    (target / "a").touch()
    with pytest.raises(TargetError):
        convert_checkpoint(source, target)


# ---------------------------------------------------------------------------------------------------- links


def test_a_link_in_place_of_the_working_folder_is_not_followed(source: Path, tmp_path: Path) -> None:
    victim, target = tmp_path / "victim", tmp_path / "out"
    victim.mkdir()
    target.mkdir()
    (victim / "thesis.txt").write_text("years of work")
    (target / ".incomplete").symlink_to(victim)
    for overwrite in (False, True):
        with pytest.raises(TargetError, match=r"did not write \(.incomplete\)"):
            convert_checkpoint(source, target, overwrite=overwrite)
    assert contents(victim) == {"thesis.txt": b"years of work"}
    assert (target / ".incomplete").is_symlink()


def test_a_working_folder_with_foreign_files_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / ".incomplete").mkdir(parents=True)
    (tmp_path / "out" / ".incomplete" / "thesis.txt").write_text("years of work")
    with pytest.raises(TargetError, match=r"did not write \(.incomplete/thesis.txt\)"):
        convert_checkpoint(source, tmp_path / "out", overwrite=True)
    assert contents(tmp_path / "out") == {".incomplete/thesis.txt": b"years of work"}


def test_a_link_under_a_temporary_name_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "a.safetensors.tmp").symlink_to(tmp_path / "victim")
    write_safetensors(tmp_path / "a.safetensors", [TensorSource("a", (0,), "float32", list)], {})
    assert (tmp_path / "victim").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "victim"]


def test_a_lock_that_is_a_link_is_not_followed(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / ".incomplete").mkdir(parents=True)
    (tmp_path / "out" / ".incomplete" / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="is a symbolic link"):
        convert_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "elsewhere").exists()


# ---------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("there", [False, True])
def test_a_failure_removes_only_the_folders_that_it_made(source: Path, tmp_path: Path, there: bool) -> None:
    target = tmp_path / "a" / "b"
    if there:
        target.mkdir(parents=True)
    weights = random_weights(layouts.HF)
    weights["lm_head.weight"][0, 0] = float("nan")
    bad = write_model(tmp_path / "bad", layouts.HF, weights)
    with pytest.raises(CheckpointError, match="holds 1 NaN"):
        convert_checkpoint(bad, target)
    assert target.exists() == there and (tmp_path / "a").exists() == there
    assert not there or list(target.iterdir()) == []


def test_a_folder_that_cannot_be_removed_does_not_hide_the_reason(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(self: Path) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(Path, "rmdir", busy)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("usage", (), {"free": 1000}))
    with pytest.raises(CheckpointError, match="0.02 GB needed, 0.00 GB free"):
        convert_checkpoint(source, tmp_path / "out")


# ---------------------------------------------------------------------------------------------------- crash points


@pytest.fixture
def without_syncing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is synced is slow, and of no effect unless the machine fails."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.mark.usefixtures("without_syncing")
@pytest.mark.parametrize("old_shard, new_shard", [(SHARD, 10**9), (10**9, SHARD), (SHARD, SHARD)])
def test_wherever_it_ends_the_folder_holds_the_old_model_the_new_one_or_none(
    source: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old_shard: int, new_shard: int
) -> None:
    target, whole, fresh = tmp_path / "out", tmp_path / "whole", tmp_path / "fresh"
    convert_checkpoint(other, whole, "hf", max_shard_bytes=old_shard)
    convert_checkpoint(source, fresh, max_shard_bytes=new_shard)
    old, new = contents(whole), contents(fresh)
    seen = {"old": 0, "new": 0, "none": 0}
    for point in range(1, 1000):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(whole, target)
        with monkeypatch.context() as patch:
            killing(patch, point)
            try:
                convert_checkpoint(source, target, max_shard_bytes=new_shard, overwrite=True)
                break
            except KilledError:
                pass
        now = contents(target)
        try:
            open_checkpoint(target)
        except CheckpointError:
            seen["none"] += 1
        else:
            which = next(name for name, files in (("old", old), ("new", new)) if files.items() <= now.items())
            assert all(name in (old, new)[which == "new"] for name in now if not name.startswith("."))
            seen[which] += 1
        convert_checkpoint(source, target, max_shard_bytes=new_shard, overwrite=True)
        assert contents(target) == new
    assert all(seen.values()) and point < 999


@pytest.mark.usefixtures("without_syncing")
def test_wherever_it_ends_the_same_command_goes_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, fresh = tmp_path / "out", tmp_path / "fresh"
    convert_checkpoint(source, fresh, max_shard_bytes=SHARD)
    for point in range(1, 1000):
        shutil.rmtree(target, ignore_errors=True)
        with monkeypatch.context() as patch:
            killing(patch, point)
            try:
                convert_checkpoint(source, target, max_shard_bytes=SHARD)
                break
            except KilledError:
                pass
        convert_checkpoint(source, target, max_shard_bytes=SHARD)
        assert contents(target) == contents(fresh)
        assert survey(target).foreign == ()
    assert 30 < point < 999
