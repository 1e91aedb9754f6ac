from __future__ import annotations

import hashlib
import http.client
import ssl
from dataclasses import replace
from pathlib import Path

import pytest

from paddlemix.checkpoint import download as module
from paddlemix.checkpoint.download import NotThereError, RemoteFile, UnreachableError, download, fetch_json
from paddlemix.errors import CheckpointError
from tests.checkpoint.store_server import Store

DATA = bytes(range(256)) * 40
PATH = "/file.bin"


@pytest.fixture
def remote(store: Store) -> RemoteFile:
    store.content[PATH] = DATA
    return RemoteFile("file.bin", store.address + PATH, len(DATA), hashlib.sha256(DATA).hexdigest())


def test_file_arrives_whole_and_nothing_else_is_left(remote: RemoteFile, tmp_path: Path) -> None:
    arrived: list[int] = []
    download(remote, tmp_path / "file.bin", arrived.append)
    assert (tmp_path / "file.bin").read_bytes() == DATA
    assert sum(arrived) == len(DATA)
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


def test_transfer_that_breaks_off_is_continued_where_it_was(remote: RemoteFile, store: Store, tmp_path: Path) -> None:
    store.breaks[PATH] = [1000, 0, 500]
    arrived: list[int] = []
    download(remote, tmp_path / "file.bin", arrived.append, pause=0)
    assert (tmp_path / "file.bin").read_bytes() == DATA
    assert [wanted for _, wanted in store.requests] == [None, "bytes=1000-", "bytes=1000-", "bytes=1500-"]
    assert sum(arrived) == len(DATA)


def test_an_error_of_the_connection_is_no_error_of_the_disk(
    remote: RemoteFile, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, failures = http.client.HTTPResponse.read1, [ssl.SSLError("bad record mac")]

    def read_after_failures(self: http.client.HTTPResponse, *arguments: int) -> bytes:
        if failures:
            raise failures.pop()
        return read(self, *arguments)

    monkeypatch.setattr(http.client.HTTPResponse, "read1", read_after_failures)
    download(remote, tmp_path / "file.bin", pause=0)
    assert (tmp_path / "file.bin").read_bytes() == DATA
    assert len(store.requests) == 2


def test_next_call_continues_what_an_earlier_one_left(remote: RemoteFile, store: Store, tmp_path: Path) -> None:
    store.breaks[PATH] = [1000] + [0] * 10
    with pytest.raises(UnreachableError, match="broke off after 1000 of 10240 bytes"):
        download(remote, tmp_path / "file.bin", pause=0)
    assert not (tmp_path / "file.bin").exists()
    store.breaks.clear()
    arrived: list[int] = []
    download(remote, tmp_path / "file.bin", arrived.append)
    assert (tmp_path / "file.bin").read_bytes() == DATA
    assert arrived[0] == 1000


def test_server_without_ranges_sends_it_again_from_the_start(remote: RemoteFile, store: Store, tmp_path: Path) -> None:
    store.ranges = False
    store.breaks[PATH] = [1000]
    arrived: list[int] = []
    download(remote, tmp_path / "file.bin", arrived.append, pause=0)
    assert (tmp_path / "file.bin").read_bytes() == DATA
    assert sum(arrived) == len(DATA)


def test_file_that_changed_in_between_is_fetched_anew(store: Store, tmp_path: Path) -> None:
    store.content[PATH] = DATA
    remote = RemoteFile("file.bin", store.address + PATH)
    store.breaks[PATH] = [1000] + [0] * 10
    with pytest.raises(UnreachableError):
        download(remote, tmp_path / "file.bin", pause=0)
    store.breaks.clear()
    store.content[PATH] = DATA[::-1]
    download(remote, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == DATA[::-1]


def test_parts_are_not_joined_when_nothing_could_tell_two_versions_apart(store: Store, tmp_path: Path) -> None:
    store.content[PATH] = DATA
    store.etags = False
    store.breaks[PATH] = [1000]
    download(RemoteFile("file.bin", store.address + PATH), tmp_path / "file.bin", pause=0)
    assert (tmp_path / "file.bin").read_bytes() == DATA
    assert [wanted for _, wanted in store.requests] == [None, None]


def test_part_that_is_longer_than_the_file_is_thrown_away(store: Store, tmp_path: Path) -> None:
    store.content[PATH] = DATA
    (tmp_path / "file.bin.part").write_bytes(DATA + b"more")
    remote = RemoteFile("file.bin", store.address + PATH, sha256=hashlib.sha256(DATA).hexdigest())
    download(remote, tmp_path / "file.bin", pause=0)
    assert (tmp_path / "file.bin").read_bytes() == DATA


@pytest.mark.parametrize(
    "wrong", [{"sha256": "0" * 64}, {"sha256": None, "git_sha1": "0" * 40}, {"sha256": None, "size": 5}]
)
def test_content_that_is_not_what_the_store_states_is_deleted(remote: RemoteFile, tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(CheckpointError, match="file.bin: (content does not have the|has 10240 bytes, expected 5)"):
        download(replace(remote, **wrong), tmp_path / "file.bin")
    assert list(tmp_path.iterdir()) == []


def test_git_id_of_a_small_file_is_checked(store: Store, tmp_path: Path) -> None:
    store.content["/x"] = b"hello\n"
    download(RemoteFile("x", store.address + "/x", git_sha1="ce013625030ba8dba906f756967f9e9ca394464a"), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"hello\n"


def test_absent_file_is_told_from_an_unreachable_store(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    with pytest.raises(NotThereError, match="status 404"):
        download(RemoteFile("x", store.address + "/absent"), tmp_path / "x")
    with pytest.raises(UnreachableError):
        download(RemoteFile("x", "http://127.0.0.1:9/absent"), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_answer_that_is_not_json_is_an_unreachable_store(store: Store) -> None:
    store.content["/login"] = b"<html>please log in</html>"
    with pytest.raises(UnreachableError, match="not JSON"):
        fetch_json(store.address + "/login")
