"""Stores that answer with anything: what comes of it is a model, or one line in a documented type."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from paddlemix.checkpoint import download, resolve, transport
from paddlemix.errors import CheckpointError, ConfigurationError, ModelNotFoundError, PaddleMixError
from tests.checkpoint.store_server import Store, answer, endless
from tests.checkpoint.test_hub import FILES, PADDLE_FILES

pytestmark = pytest.mark.usefixtures("home")

PORTAL = b"<!DOCTYPE html>\n<html><body>please log in</body></html>"
LISTING = "/api/models/a/b?blobs=true"
CONFIG = "/a/b/resolve/abc123/config.json"
WEIGHTS = "/a/b/resolve/abc123/pytorch_model.bin"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "LISTING_SECONDS", 0.5)
    monkeypatch.setattr(transport, "WINDOW_SECONDS", 0.5)


def refused(match: str, **options: Any) -> str:
    """Resolving the model fails in one short line that says this."""
    with pytest.raises(PaddleMixError, match=match) as caught:
        resolve("a/b", store="huggingface", progress=False, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000
    message.encode()
    return message


def bytes_on_disk(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("siblings", "match"),
    [
        (["a"], "entry \"'a'\", expected an object"),
        ([None], "entry 'None', expected an object"),
        ([[1]], "entry .*, expected an object"),
        ([{"rfilename": None}], "a file without a name"),
        ([{"rfilename": "\ud800.json"}], r"names '\\ud800.json', which is no text"),
        ([{"rfilename": "../../x\x1b[2J.json"}], r"names '../../x\\x1b\[2J.json', which is outside"),
        ([{"rfilename": "config.json", "size": 10**400}], "a file of more than 1000000000000000 bytes"),
        ([{"rfilename": "config.json", "size": 10**12}], "has no weights"),
        ([{"rfilename": f"f{i}.json"} for i in range(1000)], "has 1000 files, expected at most 500"),
        ([{"rfilename": "a" * 5000 + ".json"}], "no config.json"),
        ([{"rfilename": "config.json.part.json"}], "no config.json"),
        (5, "answer lists no files"),
        ({}, "answer lists no files"),
    ],
)
def test_listings_that_are_none(store: Store, siblings: Any, match: str) -> None:
    store.set_listing("a/b", {"sha": "abc123", "siblings": siblings})
    refused(match)


@pytest.mark.parametrize("sha", ["../..", "", "a/b", ".", "..", "x" * 65, 5, None, ["abc"]])
def test_a_commit_that_is_none_is_named(store: Store, sha: Any) -> None:
    store.add_huggingface("a/b", FILES, sha=sha)
    refused("the listing has the commit .*, which is none")


@pytest.mark.parametrize(
    "content", [PORTAL, b"", b"\xff", b"[" * 200_000, b'{"a":' * 100_000, b"9" * 10_000, b"null", b"[]", b'"x"']
)
def test_listings_that_are_no_json(store: Store, content: bytes) -> None:
    store.set_listing("a/b", content)
    message = refused("answer is not JSON|answer lists no files")
    assert (b"<html>" in content) == ("is an HTML page, of a login" in message)


def test_listings_without_end_are_given_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.answers[LISTING] = endless(b" ", 0.02)
    refused("no complete answer within 0.5 s")
    monkeypatch.setattr(download, "MAX_LISTING_BYTES", 100_000)
    store.answers[LISTING] = endless(b" " * 65536)
    refused("answer is larger than 100000 bytes|no complete answer")


def test_repeated_names_are_fetched_once(store: Store) -> None:
    store.add_huggingface("a/b", FILES)
    listing = json.loads(store.content[LISTING])
    store.set_listing("a/b", {**listing, "siblings": listing["siblings"] * 3})
    resolve("a/b", store="huggingface", progress=False)
    assert sorted(store.fetched()) == ["config.json", "pytorch_model.bin", "qwen.tiktoken"]


def test_a_body_without_end_stops_at_its_stated_size(store: Store, tmp_path: Path) -> None:
    store.add_huggingface("a/b", FILES)
    store.answers[WEIGHTS] = endless(b"x" * 100_000)
    refused("pytorch_model.bin: has more than 5120 bytes, .* deleted")
    assert bytes_on_disk(tmp_path) < 100_000


def test_a_body_without_end_and_without_stated_size_stops_at_the_limit_of_its_kind(
    store: Store, tmp_path: Path
) -> None:
    store.set_listing("a/b", {"sha": "abc123", "siblings": [{"rfilename": name} for name in FILES]})
    store.answers[CONFIG] = endless(b" " * 1_000_000)
    refused("config.json: has more than 16777216 bytes, .* deleted")
    assert bytes_on_disk(tmp_path) < 100_000


def test_weights_whose_size_nobody_states_are_not_fetched(store: Store, tmp_path: Path) -> None:
    store.add_huggingface("a/b", FILES)
    listing = json.loads(store.content[LISTING])
    for entry in listing["siblings"]:
        entry.pop("size", None)
        entry.pop("lfs", None)
    store.set_listing("a/b", listing)
    store.answers[WEIGHTS] = endless(b"x" * 100_000)
    refused("pytorch_model.bin: nobody states its size")
    assert bytes_on_disk(tmp_path) < 100_000


def test_sizes_that_no_file_of_its_kind_has_are_refused_before_anything_comes(store: Store) -> None:
    store.add_huggingface("a/b", FILES)
    listing = json.loads(store.content[LISTING])
    listing["siblings"][0]["size"] = 20_000_000
    store.set_listing("a/b", listing)
    store.answers[CONFIG] = endless(b" ", Content_Length="20000000")
    refused("config.json: has 20000000 bytes, expected at most 16777216")


@pytest.mark.parametrize(
    "sent",
    [
        answer(b"{}", Content_Length="-1"),
        answer(b"{}", Content_Length="9" * 30),
        answer(b"{}", Content_Length="abc"),
        answer(b"{}", Content_Length="²"),
        answer(b"", Content_Length="0"),
        answer(b"abc", Content_Length="3"),
        answer(b"{}", Content_Encoding="gzip", Content_Length="2"),
        answer(b"{}", 206, Content_Range="bytes 5-10/20", Content_Length="2"),
        answer(b"-5\r\nabc", Transfer_Encoding="chunked"),
        answer(b"", 302, Location="http://[", Content_Length="0"),
        answer(b"", 302, Location="file:///etc/passwd", Content_Length="0"),
        answer(b"", 416, Content_Length="0"),
        answer(b"", 500, Content_Length="0"),
        answer(b"", 999, Content_Length="0"),
        endless(b"x", 0.02, begin=b"nonsense "),
        endless(b"x", 0.02, begin=b"HTTP/1.1 200 OK\r\nETag: "),
        endless(b"x", 0.02),
    ],
)
def test_files_that_do_not_come(store: Store, tmp_path: Path, sent: Any) -> None:
    store.add_huggingface("a/b", FILES)
    store.answers[CONFIG] = sent
    try:
        folder = resolve("a/b", store="huggingface", progress=False)
    except PaddleMixError as error:
        assert "\n" not in str(error) and "config.json" in str(error)
    else:
        assert (folder / "config.json").read_bytes() == FILES["config.json"]


def test_a_file_of_the_right_size_that_is_something_else_is_not_published(store: Store, tmp_path: Path) -> None:
    page = PORTAL.ljust(5120)
    store.add_huggingface("a/b", FILES)
    store.set_listing("a/b", {"sha": "abc123", "siblings": [{"rfilename": name} for name in FILES]})
    store.content[CONFIG] = b"[1]"
    refused("config.json: what came got list, expected a JSON object")
    store.content[CONFIG] = b"{}"
    store.content[WEIGHTS] = page
    refused("pytorch_model.bin: what came is an HTML page")
    assert not list(tmp_path.rglob("snapshots/*"))


# ---------------------------------------------------------------- a network's login page in place of a store


def test_a_login_page_is_no_model_and_what_comes_later_is(store: Store, home: Path) -> None:
    for name in (*PADDLE_FILES, "tokenizer_config.json", "generation_config.json", "preprocessor_config.json"):
        store.content[f"/community/qwen-vl/qwen-vl-7b/{name}"] = PORTAL
    with pytest.raises(ModelNotFoundError, match="paddle: .*config.json: answer is not JSON .it is an HTML page"):
        resolve("qwen-vl/qwen-vl-7b", progress=False)
    assert not (home / "qwen-vl" / "qwen-vl-7b").exists()
    store.content.clear()
    store.add_paddle("qwen-vl/qwen-vl-7b", PADDLE_FILES)
    folder = resolve("qwen-vl/qwen-vl-7b", progress=False)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == PADDLE_FILES


def test_a_login_page_in_the_cache_is_fetched_anew_and_kept_aside(
    store: Store,
    home: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = home / "qwen-vl" / "qwen-vl-7b"
    folder.mkdir(parents=True)
    for name in PADDLE_FILES:
        (folder / name).write_bytes(PORTAL)
    with pytest.raises(ModelNotFoundError, match="7b/config.json: is an HTML page.*downloads are off"):
        resolve("qwen-vl/qwen-vl-7b", offline=True)
    store.add_paddle("qwen-vl/qwen-vl-7b", PADDLE_FILES)
    assert resolve("qwen-vl/qwen-vl-7b", progress=False) == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == PADDLE_FILES
    assert "config.json: is an HTML page" in caplog.text and "was fetched anew" in caplog.text
    (aside,) = (path for path in folder.parent.iterdir() if ".damaged." in path.name)
    assert str(aside) in caplog.text and len(list(aside.iterdir())) == 3


def test_damage_in_the_cache_is_told_where_nothing_can_be_fetched(store: Store, home: Path) -> None:
    folder = home / "qwen-vl" / "qwen-vl-7b"
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(PORTAL)
    with pytest.raises(ModelNotFoundError, match="was not found; tried .*; the cache: .*config.json: is an HTML page"):
        resolve("qwen-vl/qwen-vl-7b", progress=False)


# ---------------------------------------------------------------- links in place of our files


def test_a_partial_file_that_is_a_link_is_not_followed(store: Store, home: Path, tmp_path: Path) -> None:
    store.add_paddle("qwen-vl/qwen-vl-7b", PADDLE_FILES)
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    partial = home / "qwen-vl" / "qwen-vl-7b.paddle.incomplete"
    partial.mkdir(parents=True)
    for make in (os.symlink, os.link):
        make(victim, partial / "model_state.pdparams.part")
        with pytest.raises(CheckpointError, match="model_state.pdparams.part: is a link or no regular file.*remove it"):
            resolve("qwen-vl/qwen-vl-7b", progress=False)
        (partial / "model_state.pdparams.part").unlink()
    assert victim.read_bytes() == b"mine"
    (partial / "model_state.pdparams").symlink_to(victim)
    folder = resolve("qwen-vl/qwen-vl-7b", progress=False)
    assert (folder / "model_state.pdparams").read_bytes() == PADDLE_FILES["model_state.pdparams"]
    assert victim.read_bytes() == b"mine"


def test_a_partial_folder_that_is_a_link_is_not_followed(store: Store, home: Path, tmp_path: Path) -> None:
    store.add_paddle("qwen-vl/qwen-vl-7b", PADDLE_FILES)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "config.json").write_bytes(b"mine")
    (home / "qwen-vl").mkdir(parents=True)
    (home / "qwen-vl" / "qwen-vl-7b.paddle.incomplete").symlink_to(victim)
    with pytest.raises(CheckpointError, match="incomplete: is a symbolic link, .*remove it"):
        resolve("qwen-vl/qwen-vl-7b", progress=False)
    assert (victim / "config.json").read_bytes() == b"mine" and len(list(victim.iterdir())) == 1


# ---------------------------------------------------------------- the environment


@pytest.mark.parametrize(
    "address",
    ["huggingface.co", "http://[", "http://", "ftp://x", "file:///etc", "http://x:99999", "http://a b", "http://ü",
     "https://user:secret@huggingface.co", "http://x\x1b[2J", "\udc80", "https://x/?a=b"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("variable", "name"),
    [("HF_ENDPOINT", "a/b"), ("MODELSCOPE_ENDPOINT", "qwen/Qwen-VL"), ("COMMUNITY_MODEL_PREFIX", "qwen-vl/qwen-vl-7b")],
)
def test_an_address_that_is_none_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, name: str, address: str
) -> None:
    monkeypatch.setenv(variable, address)
    monkeypatch.delenv("PADDLEMIX_OFFLINE", raising=False)
    with pytest.raises(ConfigurationError, match=f"{variable}: got .*, expected an address such as https://") as caught:
        resolve(name, progress=False)
    str(caught.value).encode()
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("home_of_downloads", ["/etc/passwd", "/proc", "/dev/null"])
@pytest.mark.parametrize("name", ["a/b", "qwen-vl/qwen-vl-7b"])
def test_a_cache_that_cannot_be_written_names_its_variable(
    store: Store, monkeypatch: pytest.MonkeyPatch, home_of_downloads: str, name: str
) -> None:
    monkeypatch.setenv("PADDLEMIX_HOME", home_of_downloads)
    with pytest.raises(CheckpointError, match=f"{home_of_downloads}/.*: cannot be written .*; set PADDLEMIX_HOME to"):
        resolve(name, progress=False)


def test_a_cache_of_hugging_face_that_cannot_be_written_names_its_variable(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add_huggingface("a/b", FILES)
    monkeypatch.delenv("PADDLEMIX_HOME")
    monkeypatch.setenv("HF_HOME", "/etc/passwd")
    refused("/etc/passwd/hub: cannot be written .*; set HF_HOME to a directory")


@pytest.mark.parametrize("cache_dir", ["a\0b", "\ud800", 5, b"x"])
def test_a_cache_dir_that_is_none_is_named(cache_dir: Any) -> None:
    with pytest.raises(ConfigurationError, match="cache_dir: got"):
        resolve("a/b", cache_dir=cache_dir)
