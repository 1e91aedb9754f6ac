"""Writing sharded safetensors so that a folder holds either the whole checkpoint or none of it.

Shards are written into ``.incomplete/`` of the target folder, each under another name until it is on the disk, and
recorded in ``progress.json`` with their sha256; an interrupted run finds them there. When all are complete they are
moved up, followed by the index and ``checkpoint_manifest.json``.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np

from ..errors import CheckpointError
from ..files import read_json_if_whole, write_json
from .dtypes import STORAGE, TO_SAFETENSORS
from .locks import exclusive
from .readers import INCOMPLETE
from .readers.tensor import element_count

INDEX = "model.safetensors.index.json"
MANIFEST = "checkpoint_manifest.json"
#: free space that must remain beside the weights (index, manifest, side files)
SPARE_BYTES = 16 << 20
DEFAULT_SHARD_BYTES = 2_000_000_000
_PROGRESS = "progress.json"
_LOCK = "lock"
_OUR_FILES = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_HASH_CHUNK = 8 << 20

#: called with (bytes done, bytes in all)
Progress = Optional[Callable[[int, int], Any]]
#: called with bytes done
Report = Optional[Callable[[int], Any]]
#: file name -> {"sha256", "size"}
Files = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class TensorSource:
    """A tensor to be written: ``pieces()`` yields its elements in row-major order, C-contiguous, of type ``dtype``."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    pieces: Callable[[], Iterable[np.ndarray]]

    @property
    def nbytes(self) -> int:
        return element_count(self.shape) * STORAGE[self.dtype].itemsize


class _NoRoomError(CheckpointError):
    """The disk is too full, which says nothing against what an earlier run wrote."""


def plan_shards(tensors: Sequence[TensorSource], max_bytes: int) -> list[tuple[str, list[TensorSource]]]:
    """File names and their tensors: in the given order, a new file when the next tensor would exceed ``max_bytes``."""
    groups: list[list[TensorSource]] = []
    size = 0
    for tensor in tensors:
        if not groups or size + tensor.nbytes > max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.nbytes
    if len(groups) == 1:
        return [("model.safetensors", groups[0])]
    return [(f"model-{n:05d}-of-{len(groups):05d}.safetensors", group) for n, group in enumerate(groups, 1)]


def write_checkpoint(
    folder: Path,
    tensors: Sequence[TensorSource],
    metadata: Mapping[str, str],
    *,
    made_from: Mapping[str, Any] | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    check: Callable[[], None] | None = None,
    progress: Progress = None,
) -> dict[str, Any]:
    """Write ``tensors`` to ``folder`` and return the manifest.

    ``made_from`` identifies the content: shards that an interrupted run with the same value finished are kept, and a
    complete checkpoint with the same value is left alone. Without it a failed run leaves nothing behind. ``check`` is
    called after every shard and may raise to refuse the whole. ``progress`` is called with (bytes done, bytes in all).

    Raises CheckpointError if the disk has too little room (before anything is written) or the folder cannot be written;
    a complete checkpoint that was in the folder before is then still there.
    """
    identity = hashlib.sha256(json.dumps([made_from, dict(metadata), max_shard_bytes]).encode()).hexdigest()
    shards = plan_shards(tensors, max_shard_bytes)
    staging = folder / INCOMPLETE
    finished: Files = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive(staging / _LOCK, wait=False):
            manifest = read_manifest(folder) if made_from is not None else None
            if manifest is None or manifest.get("identity") != identity or damaged_files(folder, manifest):
                try:
                    finished.update(_finished(staging, identity if made_from is not None else None))
                    _write_shards(staging, shards, metadata, identity, finished, check, progress)
                    manifest = _publish(folder, staging, shards, metadata, identity, finished)
                except BaseException as error:
                    if made_from is None or not finished or _is_refusal(error):
                        _discard(staging)
                    raise
            _discard(staging)
        return manifest
    except OSError as error:
        kept = f"; {len(finished)} finished files are kept in {staging} for the next run" if staging.is_dir() else ""
        raise CheckpointError(f"{folder}: cannot be written: {error.strerror or error}{kept}") from error


def _is_refusal(error: BaseException) -> bool:
    """Whether the tensors themselves are no good, so that going on later is out of the question."""
    return isinstance(error, CheckpointError) and not isinstance(error, _NoRoomError)


def _discard(staging: Path) -> None:
    """Remove the working folder, and the target folder if there is nothing else in it. Called with the lock held: it
    goes along, and whoever waited for it makes a new one."""
    shutil.rmtree(staging, ignore_errors=True)
    if not any(staging.parent.iterdir()):
        staging.parent.rmdir()


def _write_shards(
    staging: Path,
    shards: Sequence[tuple[str, list[TensorSource]]],
    metadata: Mapping[str, str],
    identity: str,
    finished: Files,
    check: Callable[[], None] | None,
    progress: Progress,
) -> None:
    """Write the shards that are not in ``finished``, and enter them there."""
    sizes = {name: sum(tensor.nbytes for tensor in group) for name, group in shards}
    total, done = sum(sizes.values()), 0
    needed = sum(size for name, size in sizes.items() if name not in finished) + SPARE_BYTES
    free = shutil.disk_usage(staging).free
    if needed > free:
        raise _NoRoomError(
            f"{staging.parent}: {needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free on this disk; nothing written"
        )
    for name, group in shards:
        if name in finished:
            done += sizes[name]
            continue

        def report(written: int, before: int = done) -> None:
            if progress is not None:
                progress(before + written, total)

        digest = write_safetensors(staging / name, group, metadata, report)
        done += sizes[name]
        if check is not None:
            check()
        finished[name] = {"sha256": digest, "size": (staging / name).stat().st_size}
        write_json(staging / _PROGRESS, {"identity": identity, "files": finished})


def write_safetensors(
    path: Path, tensors: Sequence[TensorSource], metadata: Mapping[str, str], report: Report = None
) -> str:
    """Write one file under another name, sync it, rename it; returns its sha256. A failure leaves nothing behind.
    ``report`` is called with the number of bytes written so far."""
    temporary = path.with_name(path.name + ".tmp")
    digest = hashlib.sha256()
    try:
        with open(temporary, "wb", buffering=0) as file:
            done = 0  # header included: progress need not be exact
            for chunk in itertools.chain([_header(tensors, metadata)], _body(tensors)):
                digest.update(chunk)
                view = memoryview(chunk)
                while view:
                    view = view[file.write(view) :]
                done += len(chunk)
                if report is not None:
                    report(done)
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return digest.hexdigest()


def _header(tensors: Sequence[TensorSource], metadata: Mapping[str, str]) -> bytes:
    """Length and JSON of a safetensors header, padded so that the tensors start at a multiple of 64, a cache line."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for tensor in tensors:
        offsets = [at, at + tensor.nbytes]
        code = TO_SAFETENSORS[tensor.dtype]
        header[tensor.name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": offsets}
        at = offsets[1]
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-(len(text) + 8) % 64)
    return struct.pack("<Q", len(text)) + text


def _body(tensors: Sequence[TensorSource]) -> Iterator[np.ndarray]:
    """The bytes of every tensor in pieces."""
    for tensor in tensors:
        count = 0
        for piece in tensor.pieces():
            count += piece.nbytes
            yield piece.reshape(-1).view(np.uint8)
        if count != tensor.nbytes:
            raise CheckpointError(f"{tensor.name!r}: {count} bytes came, expected {tensor.nbytes}")


def _finished(staging: Path, identity: str | None) -> Files:
    """Files that an earlier run with the same identity finished and that are whole; all others are deleted."""
    state = read_json_if_whole(staging / _PROGRESS)
    files = state.get("files") if state and identity is not None and state.get("identity") == identity else None
    good = {}
    for name, entry in files.items() if isinstance(files, dict) else ():
        if (staging / name).is_file() and file_sha256(staging / name) == entry["sha256"]:
            good[name] = entry
    for path in staging.iterdir():
        if path.name not in good and path.name not in (_LOCK, _PROGRESS):
            path.unlink()
    return good


def _publish(
    folder: Path,
    staging: Path,
    shards: Sequence[tuple[str, list[TensorSource]]],
    metadata: Mapping[str, str],
    identity: str,
    files: Files,
) -> dict[str, Any]:
    """Move the finished shards up. The old index goes first: in between, the folder is visibly incomplete."""
    total = sum(tensor.nbytes for _, group in shards for tensor in group)
    for path in [folder / INDEX, folder / MANIFEST]:
        path.unlink(missing_ok=True)
    for path in list(folder.iterdir()):
        if _OUR_FILES.fullmatch(path.name):
            path.unlink()
    for name, _ in shards:
        os.replace(staging / name, folder / name)
    if len(shards) > 1:
        weight_map = {tensor.name: name for name, group in shards for tensor in group}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    manifest = {"identity": identity, "metadata": dict(metadata), "total_size": total, "files": dict(files)}
    write_json(folder / MANIFEST, manifest)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """``checkpoint_manifest.json`` of a folder: {"files": {name: {"sha256", "size"}}, …}; None if there is none."""
    manifest = read_json_if_whole(folder / MANIFEST)
    return manifest if manifest and isinstance(manifest.get("files"), dict) else None


def damaged_files(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """What is wrong with the files of a manifest, one line each: missing, or not the bytes that were written."""
    problems = []
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif path.stat().st_size != entry["size"] or file_sha256(path) != entry["sha256"]:
            problems.append(f"{name} is not the file that was written (size or sha256 differ)")
    return problems


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(_HASH_CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
