"""From a model's name to a folder with its files: a local folder, the bundled model, a cache, or a download.

Models of Hugging Face lie in the cache of ``huggingface_hub`` (:mod:`.hf_cache`). Those of the other stores, which
nothing installed can fetch, have a folder each below ``~/.paddlemix/models``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigurationError, ModelNotFoundError
from ..utils.display import quoted
from ..zoo import DEFAULT_MODEL, DEFAULT_MODEL_DIR
from . import hf_cache, stores
from .download import NotThereError, UnreachableError
from .fetching import Caches, Progress, damage, fetch_folder, fetch_huggingface, is_model
from .stores import HUGGINGFACE, MODELSCOPE, PADDLE, Token

#: models that come with the package: name -> folder
BUNDLED = {DEFAULT_MODEL: DEFAULT_MODEL_DIR}

_BASE = ((PADDLE, "qwen-vl/qwen-vl-7b"), (HUGGINGFACE, "Qwen/Qwen-VL"), (MODELSCOPE, "qwen/Qwen-VL"))
_CHAT = ((PADDLE, "qwen-vl/qwen-vl-chat-7b"), (HUGGINGFACE, "Qwen/Qwen-VL-Chat"), (MODELSCOPE, "qwen/Qwen-VL-Chat"))
_INT4 = ((HUGGINGFACE, "Qwen/Qwen-VL-Chat-Int4"), (MODELSCOPE, "qwen/Qwen-VL-Chat-Int4"))

#: known name -> (store, id there), tried in this order
KNOWN: dict[str, tuple[tuple[str, str], ...]] = {
    "qwen-vl/qwen-vl-7b": _BASE,
    "qwen-vl/qwen-vl-chat-7b": _CHAT,
    "Qwen/Qwen-VL": (_BASE[1], _BASE[2]),
    "Qwen/Qwen-VL-Chat": (_CHAT[1], _CHAT[2]),
    "Qwen/Qwen-VL-Chat-Int4": _INT4,
    "qwen/Qwen-VL": (_BASE[2], _BASE[1]),
    "qwen/Qwen-VL-Chat": (_CHAT[2], _CHAT[1]),
    "qwen/Qwen-VL-Chat-Int4": (_INT4[1], _INT4[0]),
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"(?!.*(\.\.|//|\.lock$))[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}(?<![./])")
_HOME_VARIABLES = ("PADDLEMIX_HOME", "PPMIX_HOME")
_OFFLINE_VARIABLES = ("PADDLEMIX_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@dataclass(frozen=True)
class _Wish:
    """What is asked for: a name, where, and how much of it."""

    name: str
    places: tuple[tuple[str, str], ...]
    folder: Path
    caches: Caches
    revision: str | None
    token: Token
    weights: bool
    progress: bool | Progress

    def huggingface_names(self) -> list[str]:
        return [model for store, model in self.places if store == HUGGINGFACE]


def resolve(
    name_or_dir: str | os.PathLike[str],
    *,
    store: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    progress: bool | Progress = True,
    revision: str | None = None,
    token: Token = None,
    weights: bool = True,
) -> Path:
    """The folder of a model, downloaded if need be.

    Args:
        name_or_dir: a folder, the bundled model's name, a known name (:data:`KNOWN`), or ``organization/model`` of a
            public store. A folder of that name comes first, then the bundled model, the caches, and the stores.
        store: "huggingface", "modelscope" or "paddle": look there only.
        cache_dir: where models are looked for and kept; see :func:`caches` for what counts without it.
        offline: never download; by default what ``PADDLEMIX_OFFLINE=1`` or ``HF_HUB_OFFLINE=1`` says.
        progress: a bar in the terminal (True), none (False), or a function of one's own.
        revision: branch, tag or commit on Hugging Face; the main branch without one.
        token: for private and gated models of Hugging Face; by default the user's (``HF_TOKEN``, ``hf auth login``).
            False: none.
        weights: False where configuration and vocabulary will do; more than that may be fetched all the same.

    Raises:
        ModelNotFoundError: no such model; the message lists the known names and what was tried.
        ConfigurationError: an argument or a variable of the environment cannot be what it is.
        CheckpointError: a download did not have its checksum or cannot be written, or a cached file is something else.
    """
    if store is not None and store not in stores.STORES:
        raise ConfigurationError(f"store: got {store!r}, expected one of {', '.join(stores.STORES)}")
    if not isinstance(name_or_dir, (str, os.PathLike)):
        raise ConfigurationError(f"model: got {type(name_or_dir).__name__}, expected a folder or a name (str or Path)")
    if revision is not None and not (isinstance(revision, str) and _REVISION.fullmatch(revision)):
        raise ConfigurationError(f"revision: got {revision!r:.80}, expected a branch, a tag or a commit")
    name = os.fspath(name_or_dir)
    path = Path(os.path.expanduser(name))
    # Those of os.path take any name for a question; Path's own raise for some.
    if store is None and name and os.path.isdir(path):
        return path
    if store is None and name in BUNDLED:
        return BUNDLED[name]
    is_file = os.path.isfile(path)
    if not _NAME.fullmatch(name) or is_file:
        what = "is a file, expected its folder or a name" if is_file else "is neither a folder nor a model's name"
        raise ModelNotFoundError(f"model {_short(name)} {what}; known names: {_known()}")
    places = _places(name, store, revision)
    found = caches(cache_dir)
    # one name, two stores, two contents: what was asked of a named store has its own place
    folder = found.own / (f"{store}--{name}" if store is not None else name)
    wish = _Wish(name, places, folder, found, revision, token, weights, progress)
    cached, lacking = _cached(wish)
    if cached is not None:
        return cached
    off = _offline_reason(offline)
    if off:
        incomplete = f"; {lacking}" if lacking else ""
        raise ModelNotFoundError(
            f"model {name!r} is not in the cache ({_looked_in(wish)}){incomplete}, and downloads are off ({off}); "
            f"known names: {_known()}"
        )
    return _fetch(wish, lacking)


def caches(cache_dir: str | os.PathLike[str] | None = None) -> Caches:
    """Where models are looked for and kept: ``cache_dir``, or what the environment says.

    Models of Hugging Face: its own cache (``HF_HUB_CACHE``, ``HF_HOME``). Others: ``models`` in ``$PADDLEMIX_HOME``,
    ``$PPMIX_HOME`` or ``~/.paddlemix``. Where one of these variables is set, new models of Hugging Face go there as
    well, into ``huggingface``.
    """
    if cache_dir is not None:
        if not isinstance(cache_dir, (str, os.PathLike)):
            raise ConfigurationError(f"cache_dir: got {type(cache_dir).__name__}, expected a folder (str or Path)")
        folder = Path(os.path.expanduser(os.fspath(cache_dir)))
        if not _can_be_a_path(folder):
            raise ConfigurationError(f"cache_dir: got {quoted(str(folder))}, which no folder can be called")
        return Caches(folder, (folder,), "cache_dir", "cache_dir")
    shared = hf_cache.cache_from_environment()
    variable = next((name for name in _HOME_VARIABLES if os.environ.get(name)), None)
    if variable is None:
        own = Path(os.path.expanduser("~/.paddlemix"))
        return Caches(own / "models", (shared,), _HOME_VARIABLES[0], "HF_HOME")
    own = Path(os.path.expanduser(os.environ[variable]))
    return Caches(own / "models", (own / "huggingface", shared), variable, variable)


def _can_be_a_path(path: Path) -> bool:
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def _known() -> str:
    return ", ".join([*BUNDLED, *KNOWN])


def _short(name: str) -> str:
    return repr(name if len(name) <= 200 else name[:197] + "...")


def _offline_reason(offline: bool | None) -> str | None:
    if offline is not None:
        return "offline" if offline else None
    off = ("", "0", "no", "off", "false")
    return next((name for name in _OFFLINE_VARIABLES if os.environ.get(name, "").lower() not in off), None)


def _places(name: str, store: str | None, revision: str | None) -> tuple[tuple[str, str], ...]:
    """(store, id) to try for a name. An unknown one may be somebody's own model."""
    places = KNOWN.get(name, ((HUGGINGFACE, name), (MODELSCOPE, name)))
    if store is not None:
        places = tuple(place for place in places if place[0] == store) or ((store, name),)
    if revision is None:
        return places
    chosen = tuple(place for place in places if place[0] == HUGGINGFACE)
    if not chosen:
        raise ConfigurationError(f"revision: got {revision!r}, but {name!r} is no model of Hugging Face; leave it out")
    return chosen


# ---------------------------------------------------------------- what is there


def _cached(wish: _Wish) -> tuple[Path | None, str | None]:
    """The model's folder in a cache, or None and what a cached one lacks, in words."""
    if wish.revision is None and is_model(wish.folder) and damage(wish.folder) is None:
        return wish.folder, None
    lacking = None
    for model in wish.huggingface_names():
        for cache in wish.caches.huggingface:
            found = hf_cache.find(cache, model, wish.revision, wish.weights)
            if found is not None and not found.missing:
                return found.folder, None
            if found is not None:
                lacking = f"{found.folder} lacks {', '.join(found.missing[:3])}"
    return None, lacking or damage(wish.folder)


def _looked_in(wish: _Wish) -> str:
    names = [wish.folder]
    names += [
        hf_cache.repository(cache, model) for model in wish.huggingface_names() for cache in wish.caches.huggingface
    ]
    return ", ".join(map(str, names))


def _fetch(wish: _Wish, lacking: str | None) -> Path:
    tried = []
    for store, model in wish.places:
        try:
            if store != HUGGINGFACE:
                return fetch_folder(wish.caches, wish.folder, store, model, wish.progress)
            return fetch_huggingface(
                wish.caches, model, wish.revision, token=wish.token, weights=wish.weights, progress=wish.progress
            )
        except (NotThereError, UnreachableError) as error:
            tried.append(f"{store}: {error}")
    if lacking:
        tried.append(f"the cache: {lacking}")
    advice = "name a directory that has it" if wish.name in KNOWN else f"known names: {_known()}"
    raise ModelNotFoundError(f"model {wish.name!r} was not found; tried {'; '.join(tried)}; {advice}")
