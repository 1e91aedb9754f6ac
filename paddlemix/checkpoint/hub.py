"""From a model's name to a folder with its files: a local folder, the bundled model, the cache, or a download."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Callable, Optional

from ..errors import CheckpointError, ConfigurationError, ModelNotFoundError
from ..files import CONFIG_FILE
from ..zoo import DEFAULT_MODEL, DEFAULT_MODEL_DIR
from . import stores
from .download import NotThereError, RemoteFile, UnreachableError, download
from .locks import exclusive
from .stores import HUGGINGFACE, MODELSCOPE, PADDLE

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

#: called with (bytes arrived, bytes expected or None, file name)
Progress = Callable[[int, Optional[int], str], None]


def resolve(
    name_or_dir: str | os.PathLike[str],
    *,
    store: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool | None = None,
    progress: bool | Progress = True,
) -> Path:
    """The folder of a model, downloaded if need be.

    Args:
        name_or_dir: a folder, the bundled model's name, a known name (:data:`KNOWN`), or ``organisation/model`` of a
            public store. A folder of that name comes first, then the bundled model, the cache, and the stores.
        store: "huggingface", "modelscope" or "paddle": look there only.
        cache_dir: where downloads are kept; by default ``models`` in ``$PADDLEMIX_HOME``, ``$PPMIX_HOME`` or
            ``~/.paddlemix``.
        offline: never download; by default what ``PADDLEMIX_OFFLINE=1`` says.
        progress: a bar in the terminal (True), none (False), or a function of one's own.

    Raises:
        ModelNotFoundError: no such model; the message lists the known names and what was tried.
        CheckpointError: a download did not have its checksum, or the disk is full.
    """
    if store is not None and store not in stores.STORES:
        raise ConfigurationError(f"store: got {store!r}, expected one of {', '.join(stores.STORES)}")
    if not isinstance(name_or_dir, (str, os.PathLike)):
        raise ConfigurationError(f"model: got {type(name_or_dir).__name__}, expected a folder or a name (str or Path)")
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
    cache = Path(cache_dir).expanduser() if cache_dir is not None else default_cache()
    # one name, two stores, two contents: what was asked of a named store has its own place
    folder = cache / (f"{store}--{name}" if store is not None else name)
    if _is_model(folder):
        return folder
    if offline if offline is not None else os.environ.get("PADDLEMIX_OFFLINE", "0") not in ("", "0"):
        raise ModelNotFoundError(
            f"model {name!r} is not in the cache ({folder}) and downloads are off (PADDLEMIX_OFFLINE); "
            f"known names: {_known()}"
        )
    with exclusive(cache / ".locks" / f"{folder.relative_to(cache)}".replace("/", "--"), wait=True):
        if not _is_model(folder):  # another process may have fetched it meanwhile
            _fetch(name, _places(name, store), folder, progress)
    return folder


def default_cache() -> Path:
    """Where downloads are kept, from the environment."""
    home = os.environ.get("PADDLEMIX_HOME") or os.environ.get("PPMIX_HOME") or "~/.paddlemix"
    return Path(home).expanduser() / "models"


def _known() -> str:
    return ", ".join([*BUNDLED, *KNOWN])


def _short(name: str) -> str:
    return repr(name if len(name) <= 200 else name[:197] + "...")


def _is_model(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file()


def _places(name: str, store: str | None) -> Sequence[tuple[str, str]]:
    """(store, id) to try for a name. An unknown one may be somebody's own model."""
    places = KNOWN.get(name, ((HUGGINGFACE, name), (MODELSCOPE, name)))
    if store is None:
        return places
    return [place for place in places if place[0] == store] or [(store, name)]


def _fetch(name: str, places: Sequence[tuple[str, str]], folder: Path, progress: bool | Progress) -> None:
    if folder.is_dir():  # without config.json: remains of something else
        raise CheckpointError(f"{folder}: is in the way of the downloaded model; move it away")
    tried = []
    for store, model in places:
        partial = folder.with_name(f"{folder.name}.{store}.incomplete")
        try:
            files = stores.list_files(store, model)
            _download_all(files, partial, progress)
        except (NotThereError, UnreachableError) as error:
            tried.append(f"{store}: {error}")
            if isinstance(error, NotThereError):  # nothing there to go on with
                shutil.rmtree(partial, ignore_errors=True)
            continue
        except OSError as error:
            raise CheckpointError(f"{partial}: cannot be written: {error.strerror or error}") from error
        os.replace(partial, folder)
        return
    raise ModelNotFoundError(f"model {name!r} was not found; tried {'; '.join(tried)}; known names: {_known()}")


def _download_all(files: Sequence[RemoteFile], partial: Path, progress: bool | Progress) -> None:
    """Fetch ``files`` into ``partial``, small ones first. Files that are there already are whole, and are kept unless
    their size shows that the store has another version by now."""
    if not any(file.name == CONFIG_FILE for file in files):
        raise NotThereError(f"has no {CONFIG_FILE}, so it is no model")
    partial.mkdir(parents=True, exist_ok=True)
    missing = [file for file in files if not _is_there(partial / file.name, file.size)]
    needed = sum(file.size or 0 for file in missing)
    needed -= sum(path.stat().st_size for path in partial.glob("*.part"))
    free = shutil.disk_usage(partial).free
    if needed > free:
        raise CheckpointError(f"{partial}: {needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free on this disk")
    for file in sorted(missing, key=lambda file: file.name.endswith((".safetensors", ".bin", ".pdparams"))):
        with _Meter(file, progress) as meter:
            try:
                download(file, partial / file.name, meter.add)
            except NotThereError:
                if not file.optional:
                    raise


def _is_there(path: Path, size: int | None) -> bool:
    return path.is_file() and (size is None or path.stat().st_size == size)


class _Meter:
    """Tells the user how far one file is."""

    def __init__(self, file: RemoteFile, progress: bool | Progress) -> None:
        self.file, self.done, self.report, self.bar = file, 0, progress, None

    def __enter__(self) -> _Meter:
        if self.report is True:
            from tqdm import tqdm

            self.bar = tqdm(total=self.file.size, desc=self.file.name, unit="B", unit_scale=True, leave=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def add(self, count: int) -> None:
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        elif callable(self.report):
            self.report(self.done, self.file.size, self.file.name)
