"""Models of Hugging Face, in the cache that ``huggingface_hub`` and everything built on it share.

What is there already is found by ``huggingface_hub`` and used where it lies; what is fetched is put there, in the
documented layout (``blobs/``, ``snapshots/COMMIT/``, ``refs/``), so that others find it too. The token is
``huggingface_hub``'s as well, in :mod:`.stores`.

The bytes are fetched by :mod:`.download` and not by ``hf_hub_download``, which (0.36) gives a file its name by size
alone and never compares the checksum that the store states, writes on when more arrives than was stated, waits for
ever for a server that sends a byte now and then, and follows a symbolic link in place of an unfinished file.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from ..utils.dependencies import require
from ..utils.files import CONFIG_FILE, VOCAB_FILE, read_json_object, reason, write_text
from .download import RemoteFile, content_problem
from .stores import WEIGHTS


@dataclass(frozen=True)
class Snapshot:
    """A model in the cache: where, and which of its files are not there (yet)."""

    folder: Path
    missing: tuple[str, ...] = ()


def cache_from_environment() -> Path:
    """The cache of ``huggingface_hub``.

    Its own constant is what the environment said when it was imported, which may be before a program sets it.
    """
    environment = os.environ
    home = environment.get("HF_HOME") or os.path.join(
        environment.get("XDG_CACHE_HOME") or os.path.join("~", ".cache"), "huggingface"
    )
    cache = environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
    return Path(os.path.expandvars(os.path.expanduser(cache)))


def find(cache: Path, model: str, revision: str | None, weights: bool) -> Snapshot | None:
    """The snapshot of ``model`` in ``cache`` that has a ``config.json``; None without one.

    Args:
        weights: whether the model's weights have to be there, too.

    Raises:
        CheckpointError: a file in it is something else, such as the page of a network's login.
    """
    if not os.path.isdir(repository(cache, model)):
        return None
    hub = require("huggingface_hub", "models of Hugging Face")
    try:
        config = hub.try_to_load_from_cache(model, CONFIG_FILE, cache_dir=cache, revision=revision)
    except (OSError, ValueError):  # a name or a file that it does not take
        return None
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
        problems = {name: content_problem(folder / name, name) for name in names}
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read: {reason(error)}") from error
    for name, problem in problems.items():
        if problem is not None:
            raise CheckpointError(f"{folder / name}: {problem}; remove the directory {folder} and try again")
    return Snapshot(folder, tuple(missing_files(folder, names, weights)))


def missing_files(folder: Path, names: Iterable[str], weights: bool) -> list[str]:
    """What a model in ``folder``, with the files ``names``, lacks: its vocabulary, its weights, shards of them."""
    present = set(names)
    missing = [] if VOCAB_FILE in present else [VOCAB_FILE]
    if not weights:
        return missing
    found = next((kind for kind in WEIGHTS if any(map(kind.fullmatch, present))), None)
    if found is None:
        return [*missing, "weights"]
    indices = [name for name in present if found.fullmatch(name) and name.endswith(".json")]
    shards = {shard for index in indices for shard in _shards(folder / index)}
    if not indices and any("-of-" in name for name in present if found.fullmatch(name)):
        missing.append("the index of its weights")
    return [*missing, *sorted(shards - present)]


def _shards(index: Path) -> set[str]:
    weight_map = (read_json_object(index) or {}).get("weight_map")
    return {str(file) for file in weight_map.values()} if isinstance(weight_map, dict) else set()


def repository(cache: Path, model: str) -> Path:
    """Where the files of ``model`` lie."""
    return cache / f"models--{model.replace('/', '--')}"


def blob(cache: Path, model: str, commit: str, file: RemoteFile) -> Path:
    """Where the content of a file is kept: under the id that the store has for it."""
    name = file.sha256 or file.git_sha1
    return repository(cache, model) / "blobs" / (name.lower() if name else f"{commit}-{file.name}")


def publish(cache: Path, model: str, revision: str | None, commit: str, files: Sequence[RemoteFile]) -> Path:
    """Give fetched files their names in the snapshot of ``commit``, which ``revision`` is at from now on.

    A snapshot that was not there is there at once, with all of them.

    Raises:
        OSError: the cache cannot be written.
    """
    folder = repository(cache, model) / "snapshots" / commit
    for left in folder.parent.glob(f".{commit}.*.tmp"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    aside = folder.with_name(f".{commit}.{secrets.token_hex(4)}.tmp")
    target = folder if folder.is_dir() else aside
    target.mkdir(parents=True, exist_ok=True)
    try:
        # The configuration last: nothing counts as a model before it is there.
        for file in sorted(files, key=lambda file: file.name == CONFIG_FILE):
            if not os.path.exists(target / file.name):
                _link(blob(cache, model, commit, file), target / file.name)
        if target is aside:
            os.rename(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    reference = repository(cache, model) / "refs" / (revision or "main")
    if reference.name != commit:
        reference.parent.mkdir(parents=True, exist_ok=True)
        write_text(reference, commit)
    return folder


def _link(content: Path, path: Path) -> None:
    """``path`` as a link to ``content``; where the file system has no links, ``content`` itself, as others do it."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()  # a link to what is there no more
    try:
        os.symlink(os.path.relpath(content, path.parent), path)
    except OSError:
        os.replace(content, path)
