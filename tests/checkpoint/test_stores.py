from __future__ import annotations

import pytest

from paddlemix.checkpoint import stores
from paddlemix.checkpoint.download import NotThereError, RemoteFile, UnreachableError
from paddlemix.errors import UnsafeCheckpointError
from tests.checkpoint.store_server import Store

FILES = {
    "config.json": b"{}",
    "pytorch_model-00001-of-00001.bin": b"weights",
    "pytorch_model.bin.index.json": b"{}",
    "qwen.tiktoken": b"IQ== 0\n",
    "modeling_qwen.py": b"import os",
    "SimSun.ttf": b"font",
    "assets/demo.json": b"{}",
}
WANTED = ["config.json", "pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json", "qwen.tiktoken"]


def test_huggingface_lists_files_with_checksums(store: Store) -> None:
    store.add_huggingface("Qwen/Qwen-VL", FILES)
    files = {file.name: file for file in stores.list_files("huggingface", "Qwen/Qwen-VL")}
    assert sorted(files) == WANTED
    weights = files["pytorch_model-00001-of-00001.bin"]
    assert weights.url == f"{store.address}/Qwen/Qwen-VL/resolve/abc123/pytorch_model-00001-of-00001.bin"
    assert (weights.size, len(weights.sha256), weights.git_sha1) == (7, 64, None)
    assert (files["config.json"].sha256, len(files["config.json"].git_sha1)) == (None, 40)


def test_modelscope_lists_files_with_checksums(store: Store) -> None:
    store.add_modelscope("qwen/Qwen-VL", FILES)
    files = stores.list_files("modelscope", "qwen/Qwen-VL")
    assert sorted(file.name for file in files) == WANTED
    assert all(file.sha256 and file.size for file in files)


def test_paddle_community_has_a_fixed_list() -> None:
    files = {file.name: file for file in stores.list_files("paddle", "qwen-vl/qwen-vl-7b")}
    assert not files["model_state.pdparams"].optional
    assert files["generation_config.json"].optional


@pytest.mark.parametrize("store_name", ["huggingface", "modelscope"])
def test_unknown_model_is_not_there(store: Store, store_name: str) -> None:
    with pytest.raises(NotThereError):
        stores.list_files(store_name, "nobody/nothing")


@pytest.mark.parametrize(
    "name", ["../x.json", "a/../../x.json", "/etc/x.json", "a\\..\\x.json", "C:x.json", "a//x.json"]
)
@pytest.mark.parametrize("store_name", ["huggingface", "modelscope"])
def test_names_that_leave_the_folder_are_refused(store: Store, store_name: str, name: str) -> None:
    getattr(store, f"add_{store_name}")("a/b", {"config.json": b"{}", name: b"{}"})
    with pytest.raises(UnsafeCheckpointError, match="outside of the model's folder"):
        stores.list_files(store_name, "a/b")


def test_answer_without_a_listing_is_an_error(store: Store) -> None:
    store.content["/api/models/a/b?blobs=true"] = b'{"error": "no"}'
    with pytest.raises(UnreachableError, match="lists no files"):
        stores.list_files("huggingface", "a/b")


def names(*files: str) -> list[str]:
    return [file.name for file in stores.select([RemoteFile(name, "") for name in files])]


def test_of_several_formats_one_is_chosen() -> None:
    several = ["config.json", "model.safetensors", "pytorch_model.bin", "model_state.pdparams"]
    assert names(*several) == ["config.json", "model.safetensors"]
    assert names("config.json", "pytorch_model.bin", "training_args.bin") == ["config.json", "pytorch_model.bin"]
    gptq = ["config.json", "gptq_model-4bit-128g.safetensors", "quantize_config.json"]
    assert names(*gptq) == gptq and names("gptq_model-4bit--1g.bin") == ["gptq_model-4bit--1g.bin"]
    assert names("adapter_model.safetensors", "config.json") == ["config.json"]


def test_other_kinds_of_files_are_left_out() -> None:
    assert names("x.py", "x.pkl", "x.sh", "x", ".gitattributes", "LICENSE", "NOTICE", "x.txt") == [
        "LICENSE", "NOTICE", "x.txt",
    ]  # fmt: skip
