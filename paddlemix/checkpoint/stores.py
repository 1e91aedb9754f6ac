"""The public stores of models: which files a model has there, where each is, and its checksum where the store tells.

Base addresses come from the environment, so that mirrors can be used: ``HF_ENDPOINT``, ``MODELSCOPE_ENDPOINT``,
``COMMUNITY_MODEL_PREFIX``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Callable
from urllib.parse import quote

from ..errors import UnsafeCheckpointError
from ..files import (
    CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    PREPROCESSOR_CONFIG_FILE,
    TOKENIZER_CONFIG_FILE,
    VOCAB_FILE,
)
from .download import RemoteFile, UnreachableError, fetch_json

HUGGINGFACE, MODELSCOPE, PADDLE = "huggingface", "modelscope", "paddle"

#: kinds of files that make up a model; nothing else is fetched
ALLOWED = re.compile(r".*\.(json|tiktoken|safetensors|bin|pdparams|txt|md)|LICENSE|NOTICE", re.IGNORECASE)
#: a model in several formats is fetched in the first of these that it has
WEIGHTS = (
    re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"),
    re.compile(r"pytorch_model(-\d{5}-of-\d{5})?\.bin|pytorch_model\.bin\.index\.json"),
    re.compile(r"model_state(-\d{5}-of-\d{5})?\.pdparams|model_state\.pdparams\.index\.json"),
)
_ANY_WEIGHTS = re.compile(r".*\.(safetensors|bin|pdparams)(\.index\.json)?")

#: the store of Paddle's community lists nothing: what a model may hold there, and whether it must
PADDLE_FILES = (
    (CONFIG_FILE, True),
    ("model_state.pdparams", True),
    (VOCAB_FILE, True),
    (TOKENIZER_CONFIG_FILE, False),
    (GENERATION_CONFIG_FILE, False),
    (PREPROCESSOR_CONFIG_FILE, False),
)


def list_files(store: str, model: str) -> list[RemoteFile]:
    """The files of ``model`` in ``store`` that are worth fetching.

    Raises NotThereError, UnreachableError, and UnsafeCheckpointError if a name would leave the model's folder.
    """
    return _LISTINGS[store](model)


def _huggingface(model: str) -> list[RemoteFile]:
    base = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = f"{base}/api/models/{quote(model)}?blobs=true"
    answer = fetch_json(url)
    files = answer.get("siblings") if isinstance(answer, dict) else None
    if not isinstance(files, list):
        raise UnreachableError(f"{url}: answer lists no files")
    revision = answer.get("sha") if isinstance(answer.get("sha"), str) else "main"
    found = []
    for entry in files:
        name = _checked_name(entry.get("rfilename"), url)
        large = entry.get("lfs") if isinstance(entry.get("lfs"), dict) else {}
        found.append(
            RemoteFile(
                name,
                f"{base}/{quote(model)}/resolve/{quote(revision, safe='')}/{quote(name)}",
                size=_size(large.get("size", entry.get("size"))),
                sha256=_checksum(large.get("sha256"), 64),
                git_sha1=None if large else _checksum(entry.get("blobId"), 40),
            )
        )
    return select(found)


def _modelscope(model: str) -> list[RemoteFile]:
    base = os.environ.get("MODELSCOPE_ENDPOINT", "https://modelscope.cn").rstrip("/")
    root = f"{base}/api/v1/models/{quote(model)}/repo"
    url = f"{root}/files?Revision=master&Recursive=true"
    answer = fetch_json(url)
    data = answer.get("Data") if isinstance(answer, dict) else None
    files = data.get("Files") if isinstance(data, dict) else None
    if not isinstance(files, list):
        raise UnreachableError(f"{url}: answer lists no files")
    found = []
    for entry in files:
        if entry.get("Type") == "tree":
            continue
        name = _checked_name(entry.get("Path"), url)
        address = f"{root}?Revision=master&FilePath={quote(name, safe='')}"
        sha256 = _checksum(entry.get("Sha256"), 64)
        found.append(RemoteFile(name, address, size=_size(entry.get("Size")), sha256=sha256))
    return select(found)


def _paddle(model: str) -> list[RemoteFile]:
    default = "https://bj.bcebos.com/paddlenlp/models/community"
    base = os.environ.get("COMMUNITY_MODEL_PREFIX", default).rstrip("/")
    return [RemoteFile(name, f"{base}/{quote(model)}/{name}", optional=not must) for name, must in PADDLE_FILES]


_LISTINGS: dict[str, Callable[[str], list[RemoteFile]]] = {
    HUGGINGFACE: _huggingface,
    MODELSCOPE: _modelscope,
    PADDLE: _paddle,
}
STORES = tuple(_LISTINGS)


def select(files: Sequence[RemoteFile]) -> list[RemoteFile]:
    """The files of allowed kinds at the top of the model's folder, and the weights in one format only."""
    top = [file for file in files if "/" not in file.name and ALLOWED.fullmatch(file.name)]
    chosen = next((kind for kind in WEIGHTS if any(kind.fullmatch(file.name) for file in top)), None)
    return [
        file
        for file in top
        if not _ANY_WEIGHTS.fullmatch(file.name) or (chosen is not None and chosen.fullmatch(file.name))
    ]


def _checked_name(name: object, url: str) -> str:
    """A file name out of a listing, if it stays inside the model's folder."""
    if not isinstance(name, str) or not name:
        raise UnreachableError(f"{url}: the listing has a file without a name")
    parts = name.split("/")
    if "\\" in name or ":" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise UnsafeCheckpointError(f"{url}: the listing names {name!r:.80}, which is outside of the model's folder")
    return name


def _checksum(value: object, digits: int) -> str | None:
    return value if isinstance(value, str) and re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", value) else None


def _size(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None
