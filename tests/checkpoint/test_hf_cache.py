"""Models of Hugging Face in the cache that everything built on ``huggingface_hub`` shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from paddlemix.checkpoint import hf_cache, resolve
from paddlemix.errors import CheckpointError, ConfigurationError, ModelNotFoundError
from paddlemix.inference import answer_all, load_model
from tests.checkpoint.building import convert_checkpoint
from tests.checkpoint.store_server import Store
from tests.checkpoint.test_hub import FETCHED, FILES, names
from tests.tiny_model import ANSWER

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SHARDED = {
    "config.json": b"{}",
    "qwen.tiktoken": b"IQ== 0\n",
    "pytorch_model.bin.index.json": b'{"weight_map": {"a": "pytorch_model-00001-of-00002.bin", '
    b'"b": "pytorch_model-00002-of-00002.bin"}}',
    "pytorch_model-00001-of-00002.bin": b"PK\x03\x04one",
    "pytorch_model-00002-of-00002.bin": b"PK\x03\x04two",
}


@pytest.fixture(autouse=True)
def only_huggingface(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PADDLEMIX_HOME")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hf" / "hub"


def put(cache: Path, model: str, files: dict[str, bytes], commit: str = COMMIT, revision: str = "main") -> Path:
    """A model as ``huggingface_hub`` leaves it after a download."""
    folder = cache / f"models--{model.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / revision).write_text(commit)
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir(exist_ok=True)
    for name, data in files.items():
        blob = folder / "blobs" / f"{commit[:4]}-{name}"
        blob.write_bytes(data)
        (snapshot / name).symlink_to(Path("..", "..", "blobs", blob.name))
    return snapshot


@pytest.mark.parametrize("name", ["Qwen/Qwen-VL-Chat", "qwen-vl/qwen-vl-chat-7b", "qwen/Qwen-VL-Chat"])
@pytest.mark.parametrize("files", [FILES, SHARDED])
def test_weights_that_are_there_are_used_where_they_lie(cache: Path, store: Store, name: str, files: dict) -> None:
    snapshot = put(cache, "Qwen/Qwen-VL-Chat", files)
    assert resolve(name) == snapshot
    assert store.requests == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [("HF_HUB_CACHE", "elsewhere"), ("HUGGINGFACE_HUB_CACHE", "elsewhere"), ("HF_HOME", "."), ("XDG_CACHE_HOME", "x")],
)
def test_the_variables_of_huggingface_say_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv(variable, str(tmp_path / value))
    where = {"HF_HOME": "hub", "XDG_CACHE_HOME": "x/huggingface/hub"}.get(variable, value)
    snapshot = put(tmp_path / where, "a/b", FILES)
    assert resolve("a/b", offline=True) == snapshot


def test_what_is_fetched_is_found_by_huggingface_hub(store: Store, cache: Path) -> None:
    store.add_huggingface("a/b", FILES, sha=COMMIT)
    for path in [path for path in store.content if "/resolve/" in path]:
        store.content[path.replace("abc123", COMMIT)] = store.content[path]
    folder = resolve("a/b", progress=False)
    assert names(folder) == FETCHED
    assert huggingface_hub.snapshot_download("a/b", cache_dir=cache, local_files_only=True) == str(folder)
    assert huggingface_hub.try_to_load_from_cache("a/b", "config.json", cache_dir=cache) == str(folder / "config.json")
    (repository,) = huggingface_hub.scan_cache_dir(cache).repos
    assert (repository.repo_id, repository.nb_files) == ("a/b", 3)


def test_what_a_snapshot_lacks_is_fetched_and_nothing_else(store: Store, cache: Path) -> None:
    store.add_huggingface("a/b", SHARDED)
    lacking = {name: data for name, data in SHARDED.items() if "00002-of" not in name or name.endswith(".json")}
    snapshot = put(cache, "a/b", lacking, commit="abc123")
    with pytest.raises(ModelNotFoundError, match="lacks pytorch_model-00002-of-00002.bin, and downloads are off"):
        resolve("a/b", offline=True)
    assert resolve("a/b", progress=False) == snapshot
    assert "pytorch_model-00002-of-00002.bin" in store.fetched()
    assert names(snapshot) == sorted(SHARDED)


@pytest.mark.parametrize(
    ("left_out", "lacks"),
    [("qwen.tiktoken", "lacks qwen.tiktoken"), ("pytorch_model.bin.index.json", "lacks the index of its weights")],
)
def test_a_snapshot_is_not_a_model_without(cache: Path, left_out: str, lacks: str) -> None:
    put(cache, "a/b", {name: data for name, data in SHARDED.items() if name != left_out})
    with pytest.raises(ModelNotFoundError, match=lacks):
        resolve("a/b", offline=True)


def test_configuration_and_vocabulary_do_for_a_tokenizer(store: Store, cache: Path) -> None:
    store.add_huggingface("a/b", FILES)
    folder = resolve("a/b", weights=False, progress=False)
    assert names(folder) == ["config.json", "qwen.tiktoken"]
    assert resolve("a/b", progress=False) == folder
    assert names(folder) == FETCHED
    assert store.fetched().count("config.json") == 1


def test_a_revision_has_its_own_snapshot(store: Store, cache: Path) -> None:
    store.add_huggingface("a/b", FILES)
    listing = store.content["/api/models/a/b?blobs=true"].replace(b"abc123", b"def456")
    store.content["/api/models/a/b/revision/refs/pr/1?blobs=true"] = listing
    store.content["/a/b/resolve/def456/config.json"] = FILES["config.json"]
    store.content["/a/b/resolve/def456/qwen.tiktoken"] = FILES["qwen.tiktoken"]
    store.content["/a/b/resolve/def456/pytorch_model.bin"] = FILES["pytorch_model.bin"]
    main = resolve("a/b", progress=False)
    other = resolve("a/b", revision="refs/pr/1", progress=False)
    assert (main.name, other.name) == ("abc123", "def456")
    assert resolve("a/b", revision="refs/pr/1", offline=True) == other
    assert resolve("a/b", revision="def456", offline=True) == other
    with pytest.raises(ModelNotFoundError, match="not in the cache"):
        resolve("a/b", revision="v2", offline=True)


@pytest.mark.parametrize("revision", ["", "../../x", "/etc", "a..b", "-x", "a b", "x/", 5, "a\0b", "x" * 300])
def test_a_revision_that_is_none_is_named(revision: Any) -> None:
    with pytest.raises(ConfigurationError, match="revision: got"):
        resolve("a/b", revision=revision)


def test_models_of_other_stores_have_no_revision() -> None:
    with pytest.raises(ConfigurationError, match="revision: got 'v1', but 'a/b' is no model of Hugging Face"):
        resolve("a/b", store="modelscope", revision="v1")


def test_the_users_token_is_sent_to_hugging_face_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_users")
    store.add_huggingface("a/b", FILES)
    store.add_modelscope("qwen/Qwen-VL", FILES)
    resolve("a/b", progress=False)
    assert set(store.tokens) == {"Bearer hf_users"}
    store.tokens.clear()
    resolve("qwen/Qwen-VL", progress=False)
    assert set(store.tokens) == {None}
    store.add_huggingface("a/c", FILES)
    store.tokens.clear()
    resolve("a/c", token="hf_given", progress=False)
    assert set(store.tokens) == {"Bearer hf_given"}
    store.add_huggingface("a/d", FILES)
    store.tokens.clear()
    resolve("a/d", token=False, progress=False)
    assert set(store.tokens) == {None}


@pytest.mark.parametrize("token", ["hf_a\r\nX: y", "hf ü", 5])
def test_a_token_that_is_none_is_not_shown(store: Store, token: Any) -> None:
    store.add_huggingface("a/b", FILES)
    with pytest.raises(ConfigurationError, match="token: ") as caught:
        resolve("a/b", token=token, progress=False)
    assert "hf_a" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_says_what_it_takes(store: Store, status: int) -> None:
    from tests.checkpoint.store_server import answer

    store.answers["/api/models/a/b?blobs=true"] = answer(b"", status, Content_Length="0")
    with pytest.raises(ModelNotFoundError, match=f"status {status}; .*gated, it takes a token .*HF_TOKEN"):
        resolve("a/b", store="huggingface", progress=False)


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "PADDLEMIX_OFFLINE"])
def test_offline_nothing_is_asked_and_the_variable_is_named(
    store: Store, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ModelNotFoundError, match=rf"downloads are off \({variable}\)"):
        resolve("Qwen/Qwen-VL", progress=False)
    monkeypatch.setenv(variable, "0")
    store.add_huggingface("Qwen/Qwen-VL", FILES)
    resolve("Qwen/Qwen-VL", progress=False)


def test_a_cached_file_that_is_a_page_says_what_to_remove(cache: Path) -> None:
    snapshot = put(cache, "a/b", {**FILES, "config.json": b"<html>please log in</html>"})
    with pytest.raises(CheckpointError, match="config.json: is an HTML page.*; remove the directory .* and try again"):
        resolve("a/b")
    assert (snapshot / "config.json").exists()


def test_files_that_no_model_is_read_by_may_be_anything(cache: Path) -> None:
    snapshot = put(cache, "a/b", {**FILES, "examples.json": b"[1]", "empty.json": b"", "README.md": b"<html>"})
    assert resolve("a/b", offline=True) == snapshot


def test_without_links_the_files_themselves_lie_in_the_snapshot(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(hf_cache.os, "symlink", refuse)
    store.add_huggingface("a/b", FILES)
    folder = resolve("a/b", progress=False)
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert resolve("a/b", offline=True) == folder
    assert {name: (folder / name).read_bytes() for name in names(folder)} == {name: FILES[name] for name in FETCHED}


def test_what_a_killed_process_left_is_cleared_away(store: Store, cache: Path) -> None:
    store.add_huggingface("a/b", FILES)
    left = cache / "models--a--b" / "snapshots" / ".abc123.0123.tmp"
    left.mkdir(parents=True)
    (left / "config.json").symlink_to("/etc/passwd")
    assert names(resolve("a/b", progress=False).parent) == ["abc123"]
    assert Path("/etc/passwd").exists()


def test_a_link_to_what_is_gone_is_mended(store: Store) -> None:
    store.add_huggingface("a/b", FILES)
    folder = resolve("a/b", progress=False)
    (folder / "pytorch_model.bin").resolve().unlink()
    assert resolve("a/b", progress=False) == folder
    assert (folder / "pytorch_model.bin").read_bytes() == FILES["pytorch_model.bin"]


def test_where_downloads_are_told_to_go_models_of_hugging_face_go_too(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    store.add_huggingface("a/b", FILES)
    assert resolve("a/b", cache_dir=tmp_path / "here", progress=False).is_relative_to(
        tmp_path / "here" / "models--a--b"
    )
    monkeypatch.setenv("PADDLEMIX_HOME", str(tmp_path / "there"))
    assert resolve("a/b", progress=False).is_relative_to(tmp_path / "there" / "huggingface" / "models--a--b")
    snapshot = put(cache, "c/d", FILES)
    assert resolve("c/d", progress=False) == snapshot


def test_a_model_in_the_cache_is_loaded_and_converted_by_its_name(
    cache: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    put(cache, "a/b", {path.name: path.read_bytes() for path in tiny_model_dir.iterdir()})
    loaded = load_model("a/b")
    (answer,) = answer_all(loaded, [("what?", [])])
    assert answer.text == ANSWER
    convert_checkpoint(resolve("a/b"), tmp_path / "out", "hf")
    assert load_model(tmp_path / "out").model.config.to_dict() == loaded.model.config.to_dict()
