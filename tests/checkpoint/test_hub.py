from __future__ import annotations

import io
import shutil
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from paddlemix.checkpoint import download, hub, resolve
from paddlemix.errors import CheckpointError, ConfigurationError, ModelNotFoundError
from paddlemix.zoo import DEFAULT_MODEL, DEFAULT_MODEL_DIR
from tests.checkpoint.store_server import Store

FILES = {
    "config.json": b"{}",
    "pytorch_model.bin": bytes(range(256)) * 20,
    "qwen.tiktoken": b"IQ== 0\n",
    "modeling_qwen.py": b"raise SystemExit",
}
PADDLE_FILES = {"config.json": b"{}", "model_state.pdparams": b"\x80\x02}q\x00.", "qwen.tiktoken": b"IQ== 0\n"}
FETCHED = ["config.json", "pytorch_model.bin", "qwen.tiktoken"]


pytestmark = pytest.mark.usefixtures("home")


def huggingface(home: Path, model: str) -> Path:
    """Where a model of Hugging Face lies after its download."""
    return home.parent / "huggingface" / f"models--{model.replace('/', '--')}" / "snapshots" / "abc123"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_folder_is_itself(tmp_path: Path) -> None:
    assert resolve(tmp_path) == tmp_path
    assert resolve(str(tmp_path)) == tmp_path


def test_folder_comes_before_a_store(tmp_path: Path, store: Store) -> None:
    (tmp_path / "Qwen" / "Qwen-VL").mkdir(parents=True)
    assert resolve("Qwen/Qwen-VL") == Path("Qwen/Qwen-VL")
    assert store.requests == []


def test_bundled_model_is_found_by_name_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDLEMIX_OFFLINE", "1")
    assert resolve(DEFAULT_MODEL) == DEFAULT_MODEL_DIR


def test_bundled_model_does_not_depend_on_the_cache(home: Path) -> None:
    (home / DEFAULT_MODEL).mkdir(parents=True)
    (home / DEFAULT_MODEL / "config.json").write_text("{}")
    assert resolve(DEFAULT_MODEL) == DEFAULT_MODEL_DIR


def test_huggingface_model_is_downloaded_once(store: Store, home: Path) -> None:
    store.add_huggingface("Qwen/Qwen-VL-Chat", FILES)
    folder = resolve("Qwen/Qwen-VL-Chat", progress=False)
    assert folder == huggingface(home, "Qwen/Qwen-VL-Chat")
    assert names(folder) == FETCHED
    assert (folder / "pytorch_model.bin").read_bytes() == FILES["pytorch_model.bin"]
    before = len(store.requests)
    assert resolve("Qwen/Qwen-VL-Chat", offline=True) == folder
    assert len(store.requests) == before


def test_modelscope_model_is_downloaded(store: Store, home: Path) -> None:
    store.add_modelscope("qwen/Qwen-VL", FILES)
    assert names(resolve("qwen/Qwen-VL", progress=False)) == FETCHED


def test_paddle_name_is_downloaded_from_paddles_store(store: Store, home: Path) -> None:
    store.add_paddle("qwen-vl/qwen-vl-chat-7b", PADDLE_FILES)
    folder = resolve("qwen-vl/qwen-vl-chat-7b", progress=False)
    assert folder == home / "qwen-vl" / "qwen-vl-chat-7b"
    assert names(folder) == sorted(PADDLE_FILES)


def test_next_store_is_tried_where_the_first_does_not_have_it(store: Store, home: Path) -> None:
    store.add_modelscope("qwen/Qwen-VL", FILES)
    folder = resolve("qwen-vl/qwen-vl-7b", progress=False)
    assert folder == home / "qwen-vl" / "qwen-vl-7b"
    assert names(folder) == FETCHED
    assert names(folder.parent) == ["qwen-vl-7b"]


def test_half_a_model_in_one_store_is_no_obstacle_to_the_next(store: Store, home: Path) -> None:
    store.add_paddle("qwen-vl/qwen-vl-7b", {"config.json": b"{}"})
    store.add_huggingface("Qwen/Qwen-VL", FILES)
    folder = resolve("qwen-vl/qwen-vl-7b", progress=False)
    assert folder == huggingface(home, "Qwen/Qwen-VL")
    assert names(folder) == FETCHED
    assert names(home / "qwen-vl") == []


def test_models_of_other_people_are_found_by_their_id(store: Store) -> None:
    store.add_huggingface("somebody/my-qwen-vl", FILES)
    assert names(resolve("somebody/my-qwen-vl", progress=False)) == FETCHED


def test_a_named_store_is_the_only_one_asked(store: Store, home: Path) -> None:
    store.add_huggingface("Qwen/Qwen-VL", FILES)
    store.add_modelscope("qwen/Qwen-VL", {**FILES, "config.json": b'{"a": 1}'})
    one = resolve("Qwen/Qwen-VL", store="huggingface", progress=False)
    other = resolve("Qwen/Qwen-VL", store="modelscope", progress=False)
    assert (one / "config.json").read_bytes() != (other / "config.json").read_bytes()
    with pytest.raises(ModelNotFoundError):
        resolve("somebody/absent", store="modelscope", progress=False)
    assert not any("/api/models/somebody" in path for path, _ in store.requests)


@pytest.mark.parametrize(
    "name", ["qwen-vl-7b", "no such model", "./absent", "/absent/folder", "a/b/c", "../a/b", "a/..", ""]
)
def test_what_is_neither_a_folder_nor_a_name_is_refused_without_asking(store: Store, name: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        resolve(name)
    assert repr(name) in str(caught.value)
    for known in (DEFAULT_MODEL, "qwen-vl/qwen-vl-7b", "Qwen/Qwen-VL-Chat"):
        assert known in str(caught.value)
    assert store.requests == []


@pytest.mark.parametrize("name", ["x" * 5000, "x/" + "y" * 5000, "~nobody-of-that-name/model", "a\0b", "two\nlines"])
def test_odd_names_are_refused_in_one_short_line(store: Store, name: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        resolve(name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("name", [3, None, ["qwen-vl/qwen-vl-7b"]])
def test_what_is_no_name_at_all_is_refused(name: object) -> None:
    with pytest.raises(ConfigurationError, match="model: got .*expected a folder or a name"):
        resolve(name)


def test_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelNotFoundError, match="is a file, expected its folder"):
        resolve(tmp_path / "model.safetensors")


def test_unknown_name_lists_what_was_tried_and_what_is_known(store: Store, home: Path) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        resolve("nobody/nothing", progress=False)
    message = str(caught.value)
    assert f"huggingface: {store.address}/api/models/nobody/nothing?blobs=true: status 404" in message
    assert "modelscope: " in message
    assert "qwen-vl/qwen-vl-chat-7b" in message
    assert not (home / "nobody").exists()


def test_unreachable_stores_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PADDLEMIX_OFFLINE", raising=False)
    for variable in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT", "COMMUNITY_MODEL_PREFIX"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    with pytest.raises(ModelNotFoundError, match="paddle: .*refused.*huggingface: .*refused.*modelscope: "):
        resolve("qwen-vl/qwen-vl-7b", progress=False)


def test_offline_nothing_is_asked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDLEMIX_OFFLINE", "1")
    with pytest.raises(ModelNotFoundError, match="downloads are off"):
        resolve("Qwen/Qwen-VL")
    assert store.requests == []


def test_interrupted_download_goes_on_and_is_visible_only_when_complete(store: Store, home: Path) -> None:
    store.add_huggingface("Qwen/Qwen-VL", FILES)
    weights = "/Qwen/Qwen-VL/resolve/abc123/pytorch_model.bin"
    store.breaks[weights] = [1000] + [0] * 10
    with pytest.raises(ModelNotFoundError, match="broke off after 1000 of 5120 bytes"):
        resolve("Qwen/Qwen-VL", progress=False)
    assert not huggingface(home, "Qwen/Qwen-VL").exists()
    store.breaks.clear()
    store.requests.clear()
    folder = resolve("Qwen/Qwen-VL", progress=False)
    assert (weights, "bytes=1000-") in store.requests
    assert "config.json" not in store.fetched()
    assert (folder / "pytorch_model.bin").read_bytes() == FILES["pytorch_model.bin"]
    assert names(folder.parent) == ["abc123"]
    assert not list((folder.parent.parent / "blobs").glob("*.part*"))


def test_a_file_that_changed_in_the_store_meanwhile_is_fetched_again(store: Store) -> None:
    store.add_huggingface("Qwen/Qwen-VL", FILES)
    store.breaks["/Qwen/Qwen-VL/resolve/abc123/pytorch_model.bin"] = [1000] + [0] * 10
    with pytest.raises(ModelNotFoundError, match="broke off"):
        resolve("Qwen/Qwen-VL", progress=False)
    store.breaks.clear()
    store.add_huggingface("Qwen/Qwen-VL", {**FILES, "config.json": b'{"new": 1}'})
    assert (resolve("Qwen/Qwen-VL", progress=False) / "config.json").read_bytes() == b'{"new": 1}'


def test_a_folder_in_the_way_is_noticed_before_anything_is_fetched(store: Store, home: Path) -> None:
    store.add_modelscope("qwen/Qwen-VL", FILES)
    (home / "qwen" / "Qwen-VL").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="in the way"):
        resolve("qwen/Qwen-VL", progress=False)
    assert store.requests == []


def test_wrong_checksum_is_an_error_and_no_model(store: Store, home: Path) -> None:
    store.add_huggingface("Qwen/Qwen-VL", FILES)
    store.content["/Qwen/Qwen-VL/resolve/abc123/pytorch_model.bin"] = FILES["pytorch_model.bin"][::-1]
    with pytest.raises(CheckpointError, match="pytorch_model.bin: content does not have the sha256"):
        resolve("Qwen/Qwen-VL", progress=False)
    assert not huggingface(home, "Qwen/Qwen-VL").exists()


def test_repository_that_is_no_model_is_refused(store: Store) -> None:
    store.add_huggingface("somebody/data", {"README.md": b"data"})
    with pytest.raises(ModelNotFoundError, match="has no config.json, so it is no model"):
        resolve("somebody/data", progress=False)


def test_too_little_room_is_noticed_beforehand(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add_huggingface("Qwen/Qwen-VL", FILES)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "free")(100))
    with pytest.raises(CheckpointError, match="GB needed, 0.00 GB free"):
        resolve("Qwen/Qwen-VL", progress=False)
    assert store.fetched() == []


def test_two_at_once_download_it_once(store: Store) -> None:
    store.add_huggingface("Qwen/Qwen-VL", FILES)
    folders: list[Path] = []
    threads = [
        threading.Thread(target=lambda: folders.append(resolve("Qwen/Qwen-VL", progress=False))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 4
    assert sorted(store.fetched()) == FETCHED


def test_progress_is_reported_to_the_caller(store: Store) -> None:
    store.add_huggingface("Qwen/Qwen-VL", FILES)
    seen: dict[str, tuple[int, int | None]] = {}
    resolve("Qwen/Qwen-VL", progress=lambda done, total, name: seen.update({name: (done, total)}))
    assert seen["pytorch_model.bin"] == (5120, 5120)
    assert sorted(seen) == FETCHED


def test_progress_is_shown_in_the_terminal(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.add_huggingface("Qwen/Qwen-VL", FILES)
    resolve("Qwen/Qwen-VL")
    assert "pytorch_model.bin" in capsys.readouterr().err


@pytest.mark.parametrize("is_terminal", [True, False])
def test_an_error_begins_on_a_line_of_its_own_after_the_bar(
    store: Store, monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    store.add_huggingface("Qwen/Qwen-VL", FILES)
    store.breaks["/Qwen/Qwen-VL/resolve/abc123/pytorch_model.bin"] = [1000] + [0] * 10
    stderr = io.StringIO()
    stderr.isatty = lambda: is_terminal  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", stderr)
    with pytest.raises(ModelNotFoundError):
        resolve("Qwen/Qwen-VL", store="huggingface")
    assert "pytorch_model.bin" in stderr.getvalue() and stderr.getvalue().endswith("\n")


def test_a_store_without_a_listing_that_cannot_be_reached_is_asked_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 5)
    monkeypatch.setattr(download.time, "sleep", lambda seconds: pytest.fail("waited"))
    monkeypatch.setenv("COMMUNITY_MODEL_PREFIX", "http://127.0.0.1:9")
    store.add_huggingface("Qwen/Qwen-VL", FILES)
    assert names(resolve("qwen-vl/qwen-vl-7b", progress=False)) == FETCHED


def test_cache_of_paddlemix_users_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PADDLEMIX_HOME")
    monkeypatch.setenv("PPMIX_HOME", str(tmp_path / "ppmix"))
    folder = tmp_path / "ppmix" / "models" / "qwen-vl" / "qwen-vl-7b"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert resolve("qwen-vl/qwen-vl-7b", offline=True) == folder


def test_unknown_store_is_named() -> None:
    with pytest.raises(ConfigurationError, match="store: got 'ftp', expected one of huggingface"):
        resolve("a/b", store="ftp")


def test_every_known_name_has_a_place() -> None:
    assert {"qwen-vl/qwen-vl-7b", "Qwen/Qwen-VL-Chat-Int4", "qwen/Qwen-VL-Chat"} <= set(hub.KNOWN)
    assert all(hub.KNOWN.values())
