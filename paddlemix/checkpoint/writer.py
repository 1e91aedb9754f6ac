"""Writing sharded safetensors so that a folder holds either the whole checkpoint or none of it.

Shards are written into ``.incomplete/`` of the target folder, each under another name until it is on the disk, and
recorded in ``progress.json`` with their sha256; an interrupted run finds them there. When all are complete they are
moved up with the configuration and the tokenizer, if any, the index, and ``checkpoint_manifest.json``.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import stat
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional, Union

import numpy as np

from ..errors import CheckpointError
from ..utils.files import read_json_if_whole, write_json
from ..utils.progress import Progress
from .dtypes import STORAGE, TO_SAFETENSORS
from .readers.tensor import element_count
from .target import INDEX, LOCK, MANIFEST, PROGRESS, Guard, Staging, publish, staging_in, survey, sync_folder

#: free space that must remain beside the weights (index, manifest, side files)
SPARE_BYTES = 16 << 20
DEFAULT_SHARD_BYTES = 2_000_000_000
_OUR_FILES = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_HASH_CHUNK = 8 << 20

#: called with a number of bytes
Report = Optional[Callable[[int], Any]]
#: file name -> {"sha256", "size"}
Files = dict[str, dict[str, Any]]
#: file name -> its content, or a file to copy it from
SideFiles = Mapping[str, Union[bytes, Path]]


@dataclass(frozen=True)
class TensorSource:
    """A tensor to be written: ``pieces()`` yields its elements in row-major order, C-contiguous, of type ``dtype``."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    pieces: Callable[[], Iterable[np.ndarray]]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in a file."""
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
    side_files: SideFiles | None = None,
    made_from: Mapping[str, Any] | None = None,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    check: Callable[[], None] | None = None,
    progress: Progress = None,
    guard: Guard | None = None,
    companions: Collection[str] = (),
) -> dict[str, Any]:
    """Write ``tensors`` to ``folder`` and return the manifest.

    Args:
        folder: made if absent.
        tensors: by name.
        metadata: of each file.
        max_shard_bytes: a file is no larger, unless one tensor is.
        side_files: belong to the weights and appear with them; without any, those in the folder stay.
        made_from: identifies the content: shards that an interrupted run with the same value finished are kept, and a
            complete checkpoint with the same value is left alone. Without it a failed run leaves nothing behind.
        check: called after every shard, may raise to refuse the whole.
        progress: called with (bytes done, bytes in all).
        guard: asked first, unless the same checkpoint is there; without one, a checkpoint in the folder is replaced.
        companions: names in ``folder`` that stay in any case.

    Raises:
        TargetError: ``guard`` refuses the folder.
        CheckpointError: the disk has too little room (before anything is written), or the folder cannot be written; a
            complete checkpoint that was in the folder before is then still there.
    """
    identity = hashlib.sha256(json.dumps([made_from, dict(metadata), max_shard_bytes]).encode()).hexdigest()
    plan = _Plan(plan_shards(tensors, max_shard_bytes), dict(metadata), identity, dict(side_files or {}))

    def allowed(target: Path) -> None:
        if guard is not None and (made_from is None or not _claims(target, plan)):
            guard(target)

    with staging_in(folder, None if guard is None else allowed) as staging:
        if made_from is not None and _claims(folder, plan):
            manifest = read_manifest(folder)
            if manifest is not None and not damaged_files(folder, manifest):
                return manifest
            if guard is not None:
                guard(folder)
        finished: Files = {}
        try:
            finished.update(_finished(folder, staging.path, identity if made_from is not None else None))
            _write_shards(staging, plan, finished, check, progress)
            return _publish(folder, staging, plan, finished, None if side_files is None else companions)
        except BaseException as error:
            staging.keep = made_from is not None and bool(finished) and not _is_refusal(error)
            raise


@dataclass(frozen=True)
class _Plan:
    """What is to be written: shards by name, their metadata, what identifies them, and the files beside them."""

    shards: list[tuple[str, list[TensorSource]]]
    metadata: dict[str, str]
    identity: str
    side_files: dict[str, bytes | Path]

    @property
    def total(self) -> int:
        return sum(tensor.nbytes for _, group in self.shards for tensor in group)

    @property
    def names(self) -> list[str]:
        """Of all files that are going to be written."""
        return [*(name for name, _ in self.shards), *self.side_files, MANIFEST, INDEX]

    def state(self, finished: Files, **more: Any) -> dict[str, Any]:
        return {"planned": self.names, "identity": self.identity, "files": finished, **more}


def _claims(folder: Path, plan: _Plan) -> bool:
    """Whether the manifest of ``folder`` says that the same was written there before, with the same files beside it."""
    manifest = read_manifest(folder)
    if manifest is None or manifest.get("identity") != plan.identity:
        return False
    entries = {name: _entry_of(content) for name, content in plan.side_files.items()}
    written = manifest.get("side_files", {})
    return {name: entry for name, entry in written.items() if name != INDEX} == entries


def _entry_of(content: bytes | Path) -> dict[str, Any]:
    if isinstance(content, Path):
        return {"sha256": file_sha256(content), "size": content.stat().st_size}
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def _is_refusal(error: BaseException) -> bool:
    """Whether the tensors themselves are no good, so that going on later is out of the question."""
    return isinstance(error, CheckpointError) and not isinstance(error, _NoRoomError)


def require_room(folder: Path, needed: int) -> None:
    """Raise CheckpointError unless the disk of ``folder``, which need not be there yet, has room for ``needed`` bytes
    of weights and what comes with them.
    """
    needed += SPARE_BYTES
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise _NoRoomError(
            f"{folder}: {needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free on this disk; nothing written"
        )


def _write_shards(
    staging: Staging, plan: _Plan, finished: Files, check: Callable[[], None] | None, progress: Progress
) -> None:
    """Write the shards that are not in ``finished``, and enter them there."""
    sizes = {name: sum(tensor.nbytes for tensor in group) for name, group in plan.shards}
    done = 0
    require_room(staging.path.parent, sum(size for name, size in sizes.items() if name not in finished))
    staging.record(**plan.state(finished))
    for name, group in plan.shards:
        if name not in finished:

            def report(written: int, before: int = done) -> None:
                if progress is not None:
                    progress(before + written, plan.total)

            digest = write_safetensors(staging.path / name, group, plan.metadata, report)
            if check is not None:
                check()
            finished[name] = {"sha256": digest, "size": (staging.path / name).stat().st_size}
            staging.record(**plan.state(finished))
        done += sizes[name]
    if progress is not None:
        progress(plan.total, plan.total)


def write_safetensors(
    path: Path, tensors: Sequence[TensorSource], metadata: Mapping[str, str], report: Report = None
) -> str:
    """Write one file under another name, sync it, rename it; returns its sha256. A failure leaves nothing behind.
    ``report`` is called with the number of bytes of tensors written so far.
    """
    temporary = path.with_name(path.name + ".tmp")
    digest = hashlib.sha256()
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISDIR(temporary.lstat().st_mode):
            temporary.unlink()  # of a run that was killed; a link goes, and what it leads to stays
    written = open(temporary, "xb", buffering=0)
    try:
        with written as file:
            header = _header(tensors, metadata)
            done = -len(header)
            for chunk in itertools.chain([memoryview(header)], _body(tensors)):
                digest.update(chunk)
                view = chunk
                while view:
                    view = view[file.write(view) :]
                done += len(chunk)
                if report is not None:
                    report(done)
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
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


def _body(tensors: Sequence[TensorSource]) -> Iterator[memoryview]:
    """The bytes of every tensor in pieces."""
    for tensor in tensors:
        count = 0
        for piece in tensor.pieces():
            count += piece.nbytes
            yield piece.reshape(-1).view(np.uint8).data
        if count != tensor.nbytes:
            raise CheckpointError(f"{tensor.name!r}: {count} bytes came, expected {tensor.nbytes}")


def _finished(folder: Path, staging: Path, identity: str | None) -> Files:
    """Files that an earlier run with the same identity finished and that are whole; all others in ``staging`` are
    deleted. Those that it had moved up already come back.
    """
    state = read_json_if_whole(staging / PROGRESS)
    files = state.get("files") if state and identity is not None and state.get("identity") == identity else None
    good = {}
    for name, entry in files.items() if isinstance(files, dict) else ():
        for path in (staging / name, folder / name):
            if path.is_file() and isinstance(entry, dict) and file_sha256(path) == entry.get("sha256"):
                os.replace(path, staging / name)
                good[name] = entry
                break
    for path in staging.iterdir():
        if path.name not in good and path.name not in (LOCK, PROGRESS):
            path.unlink()
    return good


def _publish(
    folder: Path, staging: Staging, plan: _Plan, files: Files, companions: Collection[str] | None
) -> dict[str, Any]:
    """Write what stands beside the shards, and move all of it up. Of an earlier result ``companions`` stay; None: all
    but the weights.
    """
    for name, content in plan.side_files.items():
        if isinstance(content, Path):
            shutil.copyfile(content, staging.path / name)
        else:
            (staging.path / name).write_bytes(content)
        with open(staging.path / name, "rb") as file:
            os.fsync(file.fileno())
    shards = [name for name, _ in plan.shards]
    if len(shards) > 1:
        weight_map = {tensor.name: name for name, group in plan.shards for tensor in group}
        write_json(staging.path / INDEX, {"metadata": {"total_size": plan.total}, "weight_map": weight_map})
        shards.append(INDEX)
    beside = [*plan.side_files, *(name for name in shards if name == INDEX)]
    manifest = {
        "identity": plan.identity,
        "metadata": plan.metadata,
        "total_size": plan.total,
        "files": dict(files),
        "side_files": {name: _entry_of(staging.path / name) for name in beside},
    }
    write_json(staging.path / MANIFEST, manifest)
    present = [path.name for path in folder.iterdir()]
    old_weights = [INDEX, *(name for name in present if _OUR_FILES.fullmatch(name)), MANIFEST]
    results = () if companions is None else survey(folder, companions).results
    old = [name for name in results if name not in old_weights]
    # whoever goes on after an interruption knows by this what is in between
    staging.record(**plan.state(files, publishing=True, replaces=[*old, *old_weights]))
    publish(staging.path, folder, [*plan.side_files, MANIFEST], shards, old, old_weights)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """``checkpoint_manifest.json`` of a folder: {"files": {name: {"sha256", "size"}}, …}; None if there is none."""
    manifest = read_json_if_whole(folder / MANIFEST)
    if manifest is None or not all(map(_is_file_table, (manifest.get("files"), manifest.get("side_files", {})))):
        return None
    return manifest


def _is_file_table(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(entry, dict) and isinstance(entry.get("sha256"), str) and isinstance(entry.get("size"), int)
        for entry in value.values()
    )


def damaged_files(folder: Path, manifest: Mapping[str, Any], report: Report = None) -> list[str]:
    """What is wrong with the files of a manifest, one line each: missing, or not the bytes that were written.
    ``report`` is called with the size of each piece that was read.
    """
    problems = []
    for name, entry in {**manifest["files"], **manifest.get("side_files", {})}.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif path.stat().st_size != entry["size"] or file_sha256(path, report) != entry["sha256"]:
            problems.append(f"{name} is not the file that was written (size or sha256 differ)")
    return problems


def file_sha256(path: Path, report: Report = None) -> str:
    """sha256 of a file, in hexadecimal. ``report`` is called with the size of each piece that was read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(_HASH_CHUNK), b""):
            digest.update(chunk)
            if report is not None:
                report(len(chunk))
    return digest.hexdigest()
