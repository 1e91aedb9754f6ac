from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from paddlemix.checkpoint.locks import exclusive
from paddlemix.errors import CheckpointError


def test_a_lock_is_held_once_and_can_be_had_again_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    with exclusive(path, wait=False):
        with pytest.raises(CheckpointError, match="another process is writing here"), exclusive(path, wait=False):
            pass
    with exclusive(path, wait=False):
        assert path.exists()


def test_a_lock_file_that_its_last_holder_removed_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking it the file is removed: a lock on it would keep out nobody."""
    path = tmp_path / "lock"
    flock, removed = fcntl.flock, []

    def flock_after_removal(file: object, how: int) -> None:
        if not removed:
            path.unlink()
            removed.append(path)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", flock_after_removal)
    with exclusive(path, wait=True):
        with pytest.raises(CheckpointError, match="another process"), exclusive(path, wait=False):
            pass


def test_what_lies_in_place_of_a_lock_file_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    with pytest.raises(CheckpointError, match="link: is a symbolic link"), exclusive(tmp_path / "link", wait=True):
        pass
    assert not (tmp_path / "victim").exists()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="pipe: is no regular file"), exclusive(tmp_path / "pipe", wait=True):
        pass
