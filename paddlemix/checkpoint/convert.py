"""Converting a checkpoint from one layout to another: tensor by tensor, tile by tile, safe to interrupt and repeat."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import CheckpointError, ConfigurationError
from ..utils.display import quoted
from ..utils.files import (
    CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    MAX_VOCABULARY_BYTES,
    PREPROCESSOR_CONFIG_FILE,
    TOKENIZER_CONFIG_FILE,
    VOCAB_FILE,
    read_bytes,
    read_json_object,
)
from ..utils.foreign_file import foreign_content
from ..utils.progress import Counter, Progress
from . import chunks, dtypes, layouts, writer
from .readers import Checkpoint, open_checkpoint, raise_listed
from .target import check_target, require_free

#: beside the weights, what makes up a model's folder; copied if it is there
SIDE_FILES = (
    CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    VOCAB_FILE,
    TOKENIZER_CONFIG_FILE,
    PREPROCESSOR_CONFIG_FILE,
    "README.md",
    "LICENSE",
    "NOTICE",
    # the original's code, which PyTorch tools run the published configuration with; never run here
    "configuration_qwen.py",
    "modeling_qwen.py",
    "tokenization_qwen.py",
    "qwen_generation_utils.py",
    "visual.py",
)


class ModelFiles(Protocol):
    """What a converter has to know of a family of models: a :class:`~paddlemix.models.registry.ModelFamily`."""

    @property
    def weights(self) -> layouts.WeightTable:
        """Names, shapes and orientation of the weights."""

    def read_config(self, directory: Path) -> Mapping[str, Any] | None:
        """The checked fields of ``config.json``; None without a file."""

    def check_vocabulary(self, path: Path, config: Mapping[str, Any] | None) -> None:
        """Raise CheckpointError for a vocabulary that is damaged, or of another size than the model's."""


@dataclass(frozen=True)
class ConversionResult:
    """What :func:`convert_checkpoint` did.

    passed_over: tensors that are computed, not learned: left out. missing: files that a model's folder needs to answer,
    and that the source, which has a configuration, does not have.
    """

    folder: Path
    source_layout: str
    layout: str
    tensors: int
    total_bytes: int
    files: tuple[str, ...]
    passed_over: tuple[str, ...]
    verified: bool
    missing: tuple[str, ...] = ()


def convert_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    to: str = layouts.PADDLE,
    *,
    family: ModelFiles,
    dtype: str | None = None,
    verify: bool = False,
    check_finite: bool = True,
    max_shard_bytes: int = writer.DEFAULT_SHARD_BYTES,
    overwrite: bool = False,
    progress: Progress = None,
    verify_progress: Progress = None,
) -> ConversionResult:
    """Convert the checkpoint ``source`` (any layout that can be read) into safetensors in the folder ``target``.

    Run again after an interruption it goes on where it stopped.

    Args:
        source: a model's folder, an index or a file of weights.
        target: folder of the result.
        to: "paddle" (ours) or "hf" (PyTorch's, loadable by its tools).
        family: of the model, for its table of weights and its files.
        dtype: "float32", "float16", "bfloat16" or None, as stored.
        verify: read everything again and compare bit by bit.
        check_finite: refuse NaN and infinity.
        max_shard_bytes: a file of the result is no larger, unless one tensor is.
        overwrite: a result that an earlier run left in ``target`` is replaced; anything else there is refused in any
            case (:mod:`.target`).
        progress, verify_progress: called with (bytes done, bytes in all), the second while verifying.

    Raises:
        TargetError: ``target`` may not be written to.
        CheckpointError: a source that is incomplete, damaged or quantized, values that do not fit ``dtype``, a full
            disk, or a difference that ``verify`` finds.
    """
    if to not in (layouts.HF, layouts.PADDLE):
        raise ConfigurationError(f"to: got {to!r}, expected {layouts.HF!r} or {layouts.PADDLE!r}")
    if dtype is not None:
        dtypes.check_target(dtype)
    if max_shard_bytes < 1:
        raise ConfigurationError(f"max_shard_bytes: got {max_shard_bytes}, expected a positive number")
    check_target(target)
    checkpoint = open_checkpoint(source, family.weights)
    folder = checkpoint.folder
    if checkpoint.quantized:
        raise CheckpointError(
            f"{checkpoint.path}: is quantized, and read as it is by every program; convert the unquantized weights"
        )
    target_folder = check_target(target, sources={"the source": Path(source)})
    config = family.read_config(folder)
    check_tensors(checkpoint, config)
    copied = side_files(folder, {} if dtype is None else {"torch_dtype": dtype})
    if verify and VOCAB_FILE in copied:
        family.check_vocabulary(folder / VOCAB_FILE, config)

    conversion = Conversion(checkpoint, to, dtype, check_finite)
    manifest = writer.write_checkpoint(
        target_folder,
        conversion.sources(),
        file_metadata(to),
        side_files=copied,
        made_from={"files": files_identity(checkpoint.files), "to": to, "dtype": dtype},
        max_shard_bytes=max_shard_bytes,
        check=conversion.raise_problems,
        progress=progress,
        guard=partial(require_free, overwrite=overwrite),
    )
    if verify:
        verify_conversion(checkpoint, target_folder, dtype, progress=verify_progress)
    weights = set(checkpoint.our_names().values())
    return ConversionResult(
        folder=target_folder,
        source_layout=checkpoint.layout,
        layout=to,
        tensors=len(weights),
        total_bytes=manifest["total_size"],
        files=tuple(manifest["files"]),
        passed_over=tuple(name for name in checkpoint.names() if name not in weights),
        verified=verify,
        missing=(VOCAB_FILE,) if CONFIG_FILE in copied and VOCAB_FILE not in copied else (),
    )


def file_metadata(layout: str) -> dict[str, str]:
    """Metadata of safetensors files: PyTorch tools insist on format "pt", and must not take our layout for theirs."""
    if layout == layouts.HF:
        return {"format": "pt"}
    return {"format": "pd", layouts.MARKER: layout}


def verify_conversion(
    source: Checkpoint,
    target: str | os.PathLike[str],
    dtype: str | None = None,
    *,
    progress: Progress = None,
) -> None:
    """Compare every tensor of ``target`` with ``source`` bit by bit, and every file with its sha256 in the manifest.

    The source is converted to ``dtype`` before it is compared. ``progress`` is called with (bytes compared, bytes in
    all).

    Raises:
        CheckpointError: with the list of differences.
    """
    target = Path(target)
    manifest = writer.read_manifest(target)
    if manifest is None:
        raise CheckpointError(f"{target}: has no {writer.MANIFEST}; convert again")
    counter = Counter(2 * manifest["total_size"], progress)
    problems = writer.damaged_files(target, manifest, counter.add)
    result = open_checkpoint(target, source.table)
    theirs, ours = source.our_names(), result.our_names()
    problems += [f"{name!r} is missing" for name in theirs if name not in ours]
    problems += [f"{name!r} was not in the source" for name in ours if name not in theirs]
    for name in theirs:
        if name in ours and not _equal(source, theirs[name], result, ours[name], name, dtype, counter.add):
            problems.append(f"{name!r} differs from the source")
    raise_listed(f"{target}: verification failed", problems)
    counter.finish()


def _equal(
    source: Checkpoint,
    theirs: str,
    result: Checkpoint,
    ours: str,
    name: str,
    dtype: str | None,
    report: Callable[[int], Any],
) -> bool:
    wanted = _target_dtype(source.dtype(theirs), dtype)
    if result.dtype(ours) != wanted:
        return False
    transpose = source.table.is_transposed(name, source.layout, result.layout)
    written = result.read(ours).reshape(-1).view(np.uint8)
    at = 0
    for piece in chunks.converted(source.read(theirs), transpose, source.dtype(theirs), wanted):
        if not np.array_equal(written[at : at + piece.nbytes], piece.reshape(-1).view(np.uint8)):
            return False
        at += piece.nbytes
        report(piece.nbytes)
    return at == written.size


class Conversion:
    """The tensors of a checkpoint on their way into another layout, and what was found wrong with their values."""

    def __init__(self, checkpoint: Checkpoint, to: str, dtype: str | None, check_finite: bool) -> None:
        self.checkpoint, self.to, self.dtype, self.check_finite = checkpoint, to, dtype, check_finite
        self.problems: list[str] = []

    def sources(self) -> list[writer.TensorSource]:
        """In the order of the source, file by file, so that it is read once from front to back."""
        names = self.checkpoint.our_names()
        return [self.source(ours, theirs) for ours, theirs in names.items()]

    def source(self, ours: str, theirs: str) -> writer.TensorSource:
        """The tensor ``theirs`` of the checkpoint, to be written as our ``ours``."""
        transpose = self.checkpoint.table.is_transposed(ours, self.checkpoint.layout, self.to)
        shape = self.checkpoint.shape(theirs)
        wanted = _target_dtype(self.checkpoint.dtype(theirs), self.dtype)
        return writer.TensorSource(
            ours, shape[::-1] if transpose else shape, wanted, lambda: self._pieces(theirs, transpose, wanted)
        )

    def _pieces(self, name: str, transpose: bool, wanted: str) -> Iterator[np.ndarray]:
        stored = self.checkpoint.dtype(name)
        bad = overflown = 0
        for piece in chunks.pieces(self.checkpoint.read(name), transpose):
            result = dtypes.cast(piece, stored, wanted)
            if self.check_finite or stored != wanted:
                before = dtypes.count_non_finite(piece, stored)
                bad += before
                if stored != wanted:
                    overflown += dtypes.count_non_finite(result, wanted) - before
            yield result
        if bad and self.check_finite:
            self.problems.append(f"{name!r} holds {bad} NaN or infinite values")
        if overflown:
            self.problems.append(f"{name!r} holds {overflown} values too large for {wanted}")

    def raise_problems(self) -> None:
        """Raise CheckpointError with all problems, if there are any."""
        raise_listed(f"{self.checkpoint.path}: refused", self.problems)


def _target_dtype(stored: str, dtype: str | None) -> str:
    return dtype if dtype is not None and stored in dtypes.FLOATING else stored


def check_tensors(checkpoint: Checkpoint, config: Mapping[str, Any] | None) -> None:
    """Look for tensors that are not as the table says.

    These are unknown tensors of float weights, integers, tensors of other rank and, given a checked config, missing and
    misshapen ones.

    Raises:
        CheckpointError: with the list of them.
    """
    table = checkpoint.table
    problems = [f"{quoted(name)} is not a weight of {table.family}" for name in checkpoint.unknown_names()]
    names = checkpoint.our_names()
    problems += [
        f"{quoted(theirs)} holds {checkpoint.dtype(theirs)} values, expected floating-point ones"
        for theirs in names.values()
        if checkpoint.dtype(theirs) not in dtypes.FLOATING
    ]
    if config is None:
        for ours, theirs in names.items():
            rule, _ = table.find_rule(ours) or (None, "")
            if rule is not None and len(rule.shape) != len(checkpoint.shape(theirs)):
                problems.append(
                    f"{quoted(theirs)} has shape {checkpoint.shape(theirs)}, expected {len(rule.shape)} dimensions"
                )
    else:
        expected = table.expected_shapes(config, checkpoint.layout)
        for name, shape in expected.items():
            if name not in checkpoint:
                problems.append(f"{name!r} is missing")
            elif checkpoint.shape(name) != shape:
                problems.append(f"{name!r} has shape {checkpoint.shape(name)}, expected {shape}")
        problems += [f"{name!r} is not part of the configured model" for name in names.values() if name not in expected]
    raise_listed(f"{checkpoint.path}: does not fit config.json" if config else f"{checkpoint.path}", problems)


def files_identity(files: Iterable[Path]) -> list[list[Any]]:
    """Name, size and time of files: enough to notice that they changed between two runs."""
    stats = [(file.name, file.stat()) for file in files]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def side_files(source: Path, changes: Mapping[str, Any]) -> dict[str, bytes | Path]:
    """What makes up the model's folder ``source`` beside its weights, to be written elsewhere.

    ``changes`` are fields of ``config.json``; None leaves one out.

    Raises:
        CheckpointError: settings that are no JSON, or a vocabulary that is something else, such as a Git LFS pointer.
    """
    files: dict[str, bytes | Path] = {name: source / name for name in SIDE_FILES if (source / name).is_file()}
    for name in files:
        if name.endswith(".json"):
            read_json_object(source / name)
    if VOCAB_FILE in files:
        content = read_bytes(source / VOCAB_FILE, limit=MAX_VOCABULARY_BYTES, error=CheckpointError)
        other = foreign_content(content, text=True)
        if other is not None:
            raise CheckpointError(f"vocabulary file {source / VOCAB_FILE} {other}")
    config = read_json_object(source / CONFIG_FILE)
    if changes and config is not None:
        kept = {name: value for name, value in config.items() if name not in changes}
        files[CONFIG_FILE] = json_bytes(
            {**kept, **{name: value for name, value in changes.items() if value is not None}}
        )
    return files


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """A JSON object as a file's content, readable by people."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
