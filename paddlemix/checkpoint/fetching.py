"""Fetching whole models: into the cache of Hugging Face, or into a folder that has its name when it is complete."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Optional

from ..errors import CheckpointError
from ..utils.files import CONFIG_FILE, reason
from . import hf_cache, stores
from .download import NotThereError, RemoteFile, content_problem, download, fetch_json
from .locks import exclusive
from .stores import ANY_WEIGHTS, Token

if TYPE_CHECKING:
    from tqdm import tqdm

logger = logging.getLogger(__name__)

#: called with (bytes arrived, bytes expected or None, file name)
Progress = Callable[[int, Optional[int], str], None]


@dataclass(frozen=True)
class Caches:
    """Where models are looked for and kept. ``own``: a folder for each name. ``huggingface``: in its layout, those that
    are looked into, the first of which takes downloads. The others name what to change when one cannot be written.
    """

    own: Path
    huggingface: tuple[Path, ...]
    own_setting: str
    huggingface_setting: str


def damage(folder: Path) -> str | None:
    """What is wrong with a folder of the cache: an earlier download may have been answered by another server."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
        problems = ((name, content_problem(folder / name, name)) for name in names)
        return next((f"{folder / name}: {problem}" for name, problem in problems if problem is not None), None)
    except OSError:  # there is no such folder, or it may not be read, which its reader will say
        return None


def is_model(folder: Path) -> bool:
    """Whether a folder of the cache holds a model: it has its name since it was complete."""
    return os.path.isfile(folder / CONFIG_FILE)


def fetch_huggingface(
    caches: Caches, model: str, revision: str | None, *, token: Token, weights: bool, progress: bool | Progress
) -> Path:
    """The snapshot of a model in the cache of Hugging Face, with what it lacked.

    Raises:
        NotThereError, UnreachableError: another store may have it.
        CheckpointError: it cannot be written, or a file is not what it should be.
    """
    cache = caches.huggingface[0]
    lock = cache / ".locks" / hf_cache.repository(cache, model).name / "paddlemix.lock"
    with _writing(lock, cache, caches.huggingface_setting):
        found = hf_cache.find(cache, model, revision, weights)
        if found is not None and not found.missing:  # another process may have fetched it meanwhile
            return found.folder
        commit, files = stores.list_huggingface(model, revision, token)
        _check_listing(files, weights)
        if not weights:
            files = [file for file in files if not ANY_WEIGHTS.fullmatch(file.name)]
        _download_all(files, {file: hf_cache.blob(cache, model, commit, file) for file in files}, progress)
        return hf_cache.publish(cache, model, revision, commit, files)


def fetch_folder(caches: Caches, folder: Path, store: str, model: str, progress: bool | Progress) -> Path:
    """``folder`` with a model of ``store``. What was there and was damaged is moved aside.

    Raises as :func:`fetch_huggingface`.
    """
    cache = caches.own
    partial = folder.with_name(f"{folder.name}.{store}.incomplete")
    lock = cache / ".locks" / f"{folder.relative_to(cache)}".replace("/", "--")
    with _writing(lock, cache, caches.own_setting):
        problem = damage(folder)
        if is_model(folder) and problem is None:  # another process may have fetched it meanwhile
            return folder
        if os.path.isdir(folder) and not is_model(folder):  # remains of something else
            raise CheckpointError(f"{folder}: is in the way of the downloaded model; move it away")
        if os.path.islink(partial):
            raise CheckpointError(f"{partial}: is a symbolic link, expected a folder of a download; remove it")
        try:
            files = stores.list_files(store, model)
            _check_listing(files, weights=True)
            _check_contact(files)
            partial.mkdir(parents=True, exist_ok=True)
            _download_all(files, {file: partial / file.name for file in files}, progress)
        except NotThereError:  # nothing there to go on with
            shutil.rmtree(partial, ignore_errors=True)
            raise
        if folder.exists():
            aside = folder.with_name(f"{folder.name}.damaged.{secrets.token_hex(3)}")
            os.replace(folder, aside)
            logger.warning("%s; it was fetched anew, and what was there is in %s now, to be deleted.", problem, aside)
        os.replace(partial, folder)
        return folder


@contextlib.contextmanager
def _writing(lock: Path, cache: Path, setting: str) -> Iterator[None]:
    """Hold a lock in a cache. What goes wrong with writing there names the setting that can be changed."""
    try:
        with exclusive(lock, wait=True):
            yield
    except OSError as error:
        raise CheckpointError(
            f"{cache}: cannot be written ({reason(error)}); set {setting} to a directory where downloads can be kept"
        ) from error


def _check_listing(files: Sequence[RemoteFile], weights: bool) -> None:
    if not any(file.name == CONFIG_FILE for file in files):
        raise NotThereError(f"has no {CONFIG_FILE}, so it is no model")
    if weights and not any(ANY_WEIGHTS.fullmatch(file.name) for file in files):
        raise NotThereError("has no weights under a name that is known: safetensors, .bin or .pdparams")


def _check_contact(files: Sequence[RemoteFile]) -> None:
    """Ask a store that lists nothing for its ``config.json``: where it cannot be reached, or somebody else answers,
    that is known at once, and not after all attempts for a file.
    """
    config = next(file for file in files if file.name == CONFIG_FILE)
    if config.size is None:
        fetch_json(config.url, config.headers)


def _download_all(files: Sequence[RemoteFile], paths: dict[RemoteFile, Path], progress: bool | Progress) -> None:
    """Fetch ``files`` to their ``paths``, small ones first. Files that are there already are whole, and are kept unless
    their size shows that the store has another version by now.
    """
    missing = [file for file in files if not _is_there(paths[file], file.size)]
    if not missing:
        return
    folder = paths[missing[0]].parent
    folder.mkdir(parents=True, exist_ok=True)
    needed = sum(file.size or 0 for file in missing)
    needed -= sum(path.lstat().st_size for path in folder.glob("*.part"))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(f"{folder}: {needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free on this disk")
    for file in sorted(missing, key=lambda file: ANY_WEIGHTS.fullmatch(file.name) is not None):
        with _Meter(file, progress) as meter:
            try:
                download(file, paths[file], meter.add)
            except NotThereError:
                if not file.optional:
                    raise


def _is_there(path: Path, size: int | None) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and (size is None or found.st_size == size)


class _Meter:
    """Tells the user how far one file is."""

    def __init__(self, file: RemoteFile, progress: bool | Progress) -> None:
        self.file, self.done, self.report = file, 0, progress
        self.bar: tqdm[Any] | None = None

    def __enter__(self) -> _Meter:
        if self.report is True:
            from tqdm import tqdm

            # Where nothing can be wiped out, a finished bar ends its line, so that what follows has one of its own.
            keep = not sys.stderr.isatty()
            self.bar = tqdm(total=self.file.size, desc=self.file.name, unit="B", unit_scale=True, leave=keep)
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if self.bar is not None:
            self.bar.leave = self.bar.leave or error is not None
            self.bar.close()

    def add(self, count: int) -> None:
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        elif callable(self.report):
            self.report(self.done, self.file.size, self.file.name)
