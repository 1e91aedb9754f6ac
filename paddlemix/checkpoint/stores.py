"""The public stores of models: which files a model has there, where each is, and its checksum where the store tells.

Base addresses come from the environment, so that mirrors can be used: ``HF_ENDPOINT``, ``MODELSCOPE_ENDPOINT``,
``COMMUNITY_MODEL_PREFIX``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any, Callable, Union
from urllib.parse import quote, urlsplit

from ..errors import ConfigurationError, UnsafeCheckpointError
from ..utils.dependencies import require
from ..utils.display import one_line, quoted
from ..utils.files import (
    CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    PREPROCESSOR_CONFIG_FILE,
    TOKENIZER_CONFIG_FILE,
    VOCAB_FILE,
)
from .download import RefusedAnswerError, RemoteFile, fetch_json
from .transport import shown

HUGGINGFACE, MODELSCOPE, PADDLE = "huggingface", "modelscope", "paddle"

#: kinds of files that make up a model; nothing else is fetched
ALLOWED = re.compile(
    r"(?!.*\.part\.json)\w[\w.-]{0,150}\.(json|tiktoken|safetensors|bin|pdparams|txt|md)|LICENSE|NOTICE", re.A | re.I
)
#: a model in several formats is fetched in the first of these that it has
WEIGHTS = (
    re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"),
    re.compile(r"gptq_model-\d+bit--?\d+g(-\d{5}-of-\d{5})?\.(safetensors|bin)(\.index\.json)?"),  # AutoGPTQ's
    re.compile(r"pytorch_model(-\d{5}-of-\d{5})?\.bin|pytorch_model\.bin\.index\.json"),
    re.compile(r"model_state(-\d{5}-of-\d{5})?\.pdparams|model_state\.pdparams\.index\.json"),
)
ANY_WEIGHTS = re.compile(r".*\.(safetensors|bin|pdparams)(\.index\.json)?")

#: the store of Paddle's community lists nothing: what a model may hold there, and whether it must
PADDLE_FILES = (
    (CONFIG_FILE, True),
    ("model_state.pdparams", True),
    (VOCAB_FILE, True),
    (TOKENIZER_CONFIG_FILE, False),
    (GENERATION_CONFIG_FILE, False),
    (PREPROCESSOR_CONFIG_FILE, False),
)


#: of one model; a repository of a 7B model has some twenty
MAX_FILES = 500
MAX_FILE_BYTES = 10**15
_COMMIT = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")

#: True, None: the user's token if there is one; False: none
Token = Union[str, bool, None]


def list_files(store: str, model: str) -> list[RemoteFile]:
    """The files of ``model`` in ``store`` that are worth fetching.

    Raises:
        NotThereError, UnreachableError: the store does not have it, or does not answer as it should.
        UnsafeCheckpointError: a name would leave the model's folder.
        ConfigurationError: an address in the environment is none.
    """
    return _LISTINGS[store](model)


def list_huggingface(model: str, revision: str | None = None, token: Token = None) -> tuple[str, list[RemoteFile]]:
    """The commit that ``revision`` (of the main branch without one) is at, and its files; see :func:`list_files`."""
    base = _endpoint("HF_ENDPOINT", "https://huggingface.co")
    branch = "" if revision is None else f"/revision/{quote(revision, safe='')}"
    url = f"{base}/api/models/{quote(model)}{branch}?blobs=true"
    headers = _authorization(token)
    answer = fetch_json(url, headers)
    files = answer.get("siblings") if isinstance(answer, dict) else None
    if not isinstance(files, list):
        raise RefusedAnswerError(f"{shown(url)}: answer lists no files")
    commit = answer.get("sha", "main")
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise RefusedAnswerError(f"{shown(url)}: the listing has the commit {quoted(str(commit))}, which is none")
    found = []
    for entry in _entries(files, url):
        name = _checked_name(entry.get("rfilename"), url)
        lfs = entry.get("lfs")
        large: dict[str, Any] = lfs if isinstance(lfs, dict) else {}
        found.append(
            RemoteFile(
                name,
                f"{base}/{quote(model)}/resolve/{quote(commit, safe='')}/{quote(name)}",
                size=_size(large.get("size", entry.get("size")), url),
                sha256=_checksum(large.get("sha256"), 64),
                git_sha1=None if large else _checksum(entry.get("blobId"), 40),
                headers=headers,
            )
        )
    return commit, select(found)


def _huggingface(model: str) -> list[RemoteFile]:
    return list_huggingface(model)[1]


def _modelscope(model: str) -> list[RemoteFile]:
    base = _endpoint("MODELSCOPE_ENDPOINT", "https://modelscope.cn")
    root = f"{base}/api/v1/models/{quote(model)}/repo"
    url = f"{root}/files?Revision=master&Recursive=true"
    answer = fetch_json(url)
    data = answer.get("Data") if isinstance(answer, dict) else None
    files = data.get("Files") if isinstance(data, dict) else None
    if not isinstance(files, list):
        raise RefusedAnswerError(f"{shown(url)}: answer lists no files")
    found = []
    for entry in _entries(files, url):
        if entry.get("Type") == "tree":
            continue
        name = _checked_name(entry.get("Path"), url)
        address = f"{root}?Revision=master&FilePath={quote(name, safe='')}"
        sha256 = _checksum(entry.get("Sha256"), 64)
        found.append(RemoteFile(name, address, size=_size(entry.get("Size"), url), sha256=sha256))
    return select(found)


def _paddle(model: str) -> list[RemoteFile]:
    base = _endpoint("COMMUNITY_MODEL_PREFIX", "https://bj.bcebos.com/paddlenlp/models/community")
    return [RemoteFile(name, f"{base}/{quote(model)}/{name}", optional=not must) for name, must in PADDLE_FILES]


_LISTINGS: dict[str, Callable[[str], list[RemoteFile]]] = {
    HUGGINGFACE: _huggingface,
    MODELSCOPE: _modelscope,
    PADDLE: _paddle,
}
STORES = tuple(_LISTINGS)


def select(files: Sequence[RemoteFile]) -> list[RemoteFile]:
    """The files of allowed kinds at the top of the model's folder, and the weights in one format only.

    Raises:
        RefusedAnswerError: they are more than a model has.
    """
    top = {file.name: file for file in files if ALLOWED.fullmatch(file.name)}
    if len(top) > MAX_FILES:
        raise RefusedAnswerError(f"the listing has {len(top)} files, expected at most {MAX_FILES} of a model")
    chosen = next((kind for kind in WEIGHTS if any(map(kind.fullmatch, top))), None)
    return [
        file
        for name, file in top.items()
        if not ANY_WEIGHTS.fullmatch(name) or (chosen is not None and chosen.fullmatch(name))
    ]


def _endpoint(variable: str, default: str) -> str:
    """The base URL of a store.

    Raises:
        ConfigurationError: ``variable`` holds none.
    """
    value = os.environ.get(variable) or default
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or "@" in parts.netloc or not re.fullmatch(r"[\x21-\x7e]+", value) or parts.query or parts.fragment:
        raise ConfigurationError(f"{variable}: got {quoted(value)}, expected an address such as {default}")
    return value.rstrip("/")


def _authorization(token: Token) -> dict[str, str]:
    """The header that shows ``token``, or the user's own as ``huggingface_hub`` finds it; empty without one.

    Raises:
        ConfigurationError: ``token`` is none.
    """
    if token is not None and not isinstance(token, (str, bool)):
        raise ConfigurationError(f"token: got {type(token).__name__}, expected a text, True or False")
    require("huggingface_hub", "models of Hugging Face")
    from huggingface_hub.utils import build_hf_headers

    try:
        value = build_hf_headers(token=token).get("authorization")
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(f"token: {one_line(error)}") from error
    if value is None:
        return {}
    if not re.fullmatch(r"Bearer [\x21-\x7e]+", value):
        raise ConfigurationError("token: the Hugging Face token (HF_TOKEN) has characters that no token has")
    return {"Authorization": value}


def _entries(files: list[Any], url: str) -> list[dict[str, Any]]:
    wrong = next((entry for entry in files if not isinstance(entry, dict)), None)
    if wrong is not None or None in files:
        raise RefusedAnswerError(f"{shown(url)}: the listing has the entry {quoted(repr(wrong))}, expected an object")
    return files


def _checked_name(name: object, url: str) -> str:
    """A file name out of a listing, if it stays inside the model's folder."""
    if not isinstance(name, str) or not name:
        raise RefusedAnswerError(f"{shown(url)}: the listing has a file without a name")
    parts = name.split("/")
    if "\\" in name or ":" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise UnsafeCheckpointError(
            f"{shown(url)}: the listing names {quoted(name)}, which is outside of the model's folder"
        )
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise RefusedAnswerError(f"{shown(url)}: the listing names {quoted(name)}, which is no text") from error
    return name


def _checksum(value: object, digits: int) -> str | None:
    return value if isinstance(value, str) and re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", value) else None


def _size(value: object, url: str) -> int | None:
    if type(value) is not int or value < 0:
        return None
    if value > MAX_FILE_BYTES:
        raise RefusedAnswerError(f"{shown(url)}: the listing has a file of more than {MAX_FILE_BYTES} bytes")
    return value
