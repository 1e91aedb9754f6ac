"""Which folders programs write into, and how files get there: a folder holds the whole of a result or none of it.

One rule for every program: the folder is not there, is empty, or holds what an interrupted run left. With ``overwrite``
it may hold a finished result, which is replaced. Anything else in it is named, and nothing is touched.

Files are written into ``.incomplete/`` of the folder and moved up when all are there: what the result is read by goes
first and comes last, so that at no moment a part of it is taken for a whole, or for a part of another.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, TargetError
from ..utils.display import quoted
from ..utils.files import (
    CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    PREPROCESSOR_CONFIG_FILE,
    TOKENIZER_CONFIG_FILE,
    VOCAB_FILE,
    read_json_if_whole,
    write_json,
    written_aside,
)
from .locks import exclusive
from .readers import INCOMPLETE
from .readers.safetensors_file import read_safetensors

MANIFEST = "checkpoint_manifest.json"
INDEX = "model.safetensors.index.json"
#: what a processor writes beside a model's weights
PROCESSOR_FILES = frozenset({VOCAB_FILE, TOKENIZER_CONFIG_FILE, PREPROCESSOR_CONFIG_FILE})
ADAPTER_WEIGHTS_FILE, ADAPTER_CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
#: in the metadata of the adapters that this package writes; with the fingerprint of the base model, where it is known
ADAPTER_MARKER, BASE_MARKER = "paddlemix_adapter", "paddlemix_base"
LESSON_MANIFEST = "lesson.json"
PROGRESS, LOCK = "progress.json", "lock"
_NAMED = 5

#: called with a folder before anything is written into it; raises TargetError to refuse
Guard = Callable[[Path], Any]


# ---------------------------------------------------------------------------------------------------- the rule


def check_target(
    target: str | os.PathLike[str], field_name: str = "target", sources: Mapping[str, Path | None] | None = None
) -> Path:
    """The folder that a program is to write.

    Args:
        field_name: what the caller calls it.
        sources: what the program reads: what it is (``the source``) -> its file or folder.

    Raises:
        TargetError: it has no name, is a file, or is, or lies in, the folder of a source.
    """
    if not str(target).strip() or "\0" in str(target):
        raise TargetError(
            f"{field_name}: got {str(target)!r}, expected the name of a folder; a variable that is not set looks so"
        )
    folder = Path(target)
    if folder.exists() and not folder.is_dir():
        raise TargetError(f"{folder}: cannot be written: is a file; name another folder")
    resolved = folder.resolve()
    for what, source in (sources or {}).items():
        if source is None:
            continue
        inside = (source if source.is_dir() else source.parent).resolve()
        if folder.exists() and resolved == inside:
            raise TargetError(f"{folder}: is the folder of {what} itself; name another one")
        if source.is_dir() and inside in resolved.parents:
            raise TargetError(f"{folder}: lies in the folder of {what}; name another one")
    return folder


@dataclass(frozen=True)
class Contents:
    """What is in a folder.

    results: names of what programs of this package wrote; foreign: all others; unfinished: a run was interrupted while
    it moved its files, so that ``results`` are no whole.
    """

    results: tuple[str, ...]
    foreign: tuple[str, ...]
    unfinished: bool


def survey(folder: Path, companions: Collection[str] = ()) -> Contents:
    """What is in a folder. ``companions`` count as neither; nor do files that a process left half-written."""
    if not folder.is_dir():
        return Contents((), (), False)
    known = _result_files(folder)
    state = _progress(folder / INCOMPLETE)
    moving = _names(state.get("replaces")) | _names(state.get("planned")) if state.get("publishing") is True else set()
    results: list[str] = []
    foreign: list[str] = []
    for path in sorted(folder.iterdir()):
        name = path.name
        if name in companions or written_aside(name) is not None:
            continue
        if name == INCOMPLETE:
            foreign += _foreign_in_staging(path, state)
        elif name in known or name in moving:
            results.append(name)
        elif path.is_dir() and not path.is_symlink() and any(file.startswith(f"{name}/") for file in known):
            others = [str(inner.relative_to(folder)) for inner in path.rglob("*") if not inner.is_dir()]
            foreign += [other for other in others if other not in known]
            results.append(name)
        else:
            foreign.append(name)
    return Contents(tuple(results), tuple(foreign), bool(moving))


def require_free(folder: Path, *, overwrite: bool | None = False, companions: Collection[str] = ()) -> None:
    """Raise TargetError unless ``folder`` may be written to by the rule above.

    Args:
        overwrite: a finished result in it may be replaced; None: no, and there is no such option.
        companions: names that may stand there and stay.
    """
    found = survey(folder, companions)
    if found.foreign:
        raise TargetError(
            f"{folder}: holds what this program did not write ({_listed(found.foreign)}); name another folder"
        )
    if found.results and not overwrite and not found.unfinished:
        advice = "" if overwrite is None else ", or replace it with overwrite (--overwrite)"
        raise TargetError(f"{folder}: holds a finished result ({_listed(found.results)}); name another folder{advice}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(quoted(name)[1:-1] for name in names[:_NAMED]) + more


def _result_files(folder: Path) -> set[str]:
    """The files, relative to ``folder``, of the result in it: by its manifest or by the marker in its weights."""
    names: set[str] = set()
    manifest = read_json_if_whole(folder / MANIFEST)
    if manifest is not None and isinstance(manifest.get("files"), dict):
        beside = manifest.get("side_files")
        # manifests of earlier versions name the weights alone
        names |= set(manifest["files"]) | set(beside if isinstance(beside, dict) else (CONFIG_FILE,))
        names |= {MANIFEST, INDEX, GENERATION_CONFIG_FILE, *PROCESSOR_FILES}
    lesson = read_json_if_whole(folder / LESSON_MANIFEST)
    if lesson is not None and isinstance(lesson.get("files"), list):
        names |= {LESSON_MANIFEST, *_names(lesson["files"])}
    if (folder / ADAPTER_WEIGHTS_FILE).is_file() and _is_our_adapter(folder / ADAPTER_WEIGHTS_FILE):
        names |= {ADAPTER_WEIGHTS_FILE, ADAPTER_CONFIG_FILE}
    return names


def _is_our_adapter(path: Path) -> bool:
    try:
        _, metadata = read_safetensors(path)
    except CheckpointError:
        return False
    return ADAPTER_MARKER in metadata or BASE_MARKER in metadata


def _progress(staging: Path) -> dict[str, Any]:
    return {} if staging.is_symlink() else read_json_if_whole(staging / PROGRESS) or {}


def _names(value: Any) -> set[str]:
    return {name for name in value if isinstance(name, str)} if isinstance(value, list) else set()


def _foreign_in_staging(staging: Path, state: Mapping[str, Any]) -> list[str]:
    """Entries of ``.incomplete`` that no writer of this package made; a link to somewhere else is one itself."""
    if staging.is_symlink() or not staging.is_dir():
        return [staging.name]
    files = state.get("files")
    planned = _names(state.get("planned")) | set(files if isinstance(files, dict) else ()) | {PROGRESS, LOCK}
    names = [path.name for path in staging.iterdir()]
    return [
        f"{staging.name}/{name}"
        for name in sorted(names)
        if name not in planned and name.removesuffix(".tmp") not in planned and written_aside(name) not in planned
    ]


# ---------------------------------------------------------------------------------------------------- writing


@dataclass
class Staging:
    """The folder that files are written into until all are there; ``keep``: leave it for the next run."""

    path: Path
    keep: bool = field(default=False)

    def record(self, planned: Iterable[str], **state: Any) -> None:
        """Note what is going on, so that a run after an interruption knows its files from others."""
        write_json(self.path / PROGRESS, {"planned": list(planned), **state})

    def clear(self) -> None:
        """Remove what an interrupted run left."""
        for path in self.path.iterdir():
            if path.name != LOCK:
                _remove(path)


@contextlib.contextmanager
def staging_in(folder: Path, guard: Guard | None = None) -> Iterator[Staging]:
    """A locked staging folder in ``folder``, which is made if need be. At the end it is removed; after an error, so are
    the folders that were made for it.

    Raises:
        TargetError: of ``guard``; nothing has been touched.
        CheckpointError: another process writes there, or the folder cannot be written.
    """
    staging = Staging(folder / INCOMPLETE)
    guard = guard if guard is not None else _require_own_staging
    guard(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fresh = not staging.path.exists()
        with exclusive(staging.path / LOCK, wait=False):
            staging.keep = not fresh
            try:
                guard(folder)
                staging.keep = False
                yield staging
            finally:
                if not staging.keep:
                    shutil.rmtree(staging.path, ignore_errors=True)
    except BaseException as error:
        kept = f"; what is finished is kept in {staging.path} for the next run" if staging.path.is_dir() else ""
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
        if isinstance(error, OSError) and not isinstance(error, CheckpointError):
            raise CheckpointError(f"{folder}: cannot be written: {error.strerror or error}{kept}") from error
        raise


def _require_own_staging(folder: Path) -> None:
    """The least that is asked of a folder: nothing foreign is to be removed with the staging folder."""
    if os.path.lexists(folder / INCOMPLETE):
        foreign = _foreign_in_staging(folder / INCOMPLETE, _progress(folder / INCOMPLETE))
        if foreign:
            raise TargetError(
                f"{folder}: holds what this program did not write ({_listed(foreign)}); name another folder"
            )


def publish(
    staging: Path,
    folder: Path,
    beside: Sequence[str],
    weights: Sequence[str],
    old: Iterable[str],
    old_weights: Iterable[str],
) -> None:
    """Move finished files up.

    Args:
        beside: names in ``staging`` that nothing is read by alone, such as configurations.
        weights: names that come after them, in this order; nothing can be read before the last one.
        old, old_weights: names in ``folder`` that make way, ``old_weights`` before anything else.
    """
    for path in (folder / name for name in old_weights):
        _remove(path)
    sync_folder(folder)
    for name in old:
        if name not in beside:
            _remove(folder / name)
    for name in beside:
        if (staging / name).is_dir():
            _remove(folder / name)
        os.replace(staging / name, folder / name)
    sync_folder(folder)
    for name in weights:
        os.replace(staging / name, folder / name)
    sync_folder(folder)
    for path in folder.iterdir():
        if written_aside(path.name) in {*beside, *weights}:  # of a process that was killed
            path.unlink()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
