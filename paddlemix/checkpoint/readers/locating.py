"""Where the weights of a model's folder are: the names that tools give them, and what an index says."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ...errors import CheckpointError, PaddleMixError, UnsafeCheckpointError
from ...utils.display import escape_controls, quoted, shorten
from ...utils.files import QUANTIZE_CONFIG_FILE, read_json, read_json_if_whole

#: index or weight file in a folder, the first that exists wins
CANDIDATES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "model_state.pdparams.index.json",
    "model_state.pdparams",
)
#: a folder in which a writer works until its files are complete
INCOMPLETE = ".incomplete"
#: of some hundred thousand tensors
MAX_INDEX_BYTES = 8 << 20
_PROBLEM_LIMIT = 240
#: what AutoGPTQ calls its files unless it is told another name
_AUTOGPTQ_NAME = re.compile(r"(gptq_model-\d+bit-(?:-?\d+)g)\.(?:safetensors|bin|pt)(?:\.index\.json)?")
_AUTOGPTQ_SUFFIXES = (".safetensors.index.json", ".safetensors", ".bin.index.json", ".bin", ".pt")


def raise_listed(
    what: str, problems: list[str], error: type[PaddleMixError] = CheckpointError, limit: int = 12
) -> None:
    """Raise one ``error`` that lists ``problems`` (the first ``limit``, and how many more); none: do nothing."""
    if problems:
        more = f"; and {len(problems) - limit} more" if len(problems) > limit else ""
        listed = "; ".join(escape_controls(shorten(problem, _PROBLEM_LIMIT)) for problem in problems[:limit])
        raise error(f"{what}: {listed}{more}")


def locate(path: Path) -> tuple[list[Path], dict[str, str] | None]:
    """The weight files of a folder, of an index, or the one file that ``path`` is, and the index if there is one.

    The index is a dict: tensor -> file name.

    Raises:
        CheckpointError: there are none, or they cannot be told.
        UnsafeCheckpointError: an index points out of its folder.
    """
    if not path.is_dir():
        if not os.path.lexists(path):
            raise CheckpointError(f"{path}: no such file or folder; expected a checkpoint")
        return _from_file(path)
    found = next((path / name for name in CANDIDATES if os.path.lexists(path / name)), None) or _of_autogptq(path)
    if found is not None:
        return _from_file(found)
    if (path / INCOMPLETE).is_dir():
        raise CheckpointError(f"{path}: the conversion or download into this folder was not finished; run it again")
    raise CheckpointError(f"{path}: no weights found; expected one of {', '.join(CANDIDATES)}")


def _of_autogptq(folder: Path) -> Path | None:
    """The weights in a folder that AutoGPTQ wrote: called as its settings say, or by its bits and group size."""
    settings = read_json_if_whole(folder / QUANTIZE_CONFIG_FILE) or {}
    named = settings.get("model_file_base_name")
    stems = [named] if isinstance(named, str) and _is_plain(named) else []
    try:
        matches = (_AUTOGPTQ_NAME.fullmatch(name) for name in os.listdir(folder))
        others = sorted({match[1] for match in matches if match})
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read: {error.strerror or error}") from error
    for stem in stems + others[:1]:
        for suffix in _AUTOGPTQ_SUFFIXES:
            if os.path.lexists(folder / f"{stem}{suffix}"):
                if stem not in stems and len(others) > 1:
                    raise CheckpointError(
                        f"{folder}: holds {len(others)} models ({', '.join(others[:4])}); name the file of one of them"
                    )
                return folder / f"{stem}{suffix}"
    return None


def _from_file(path: Path) -> tuple[list[Path], dict[str, str] | None]:
    return _read_index(path) if path.name.endswith(".index.json") else ([path], None)


def _read_index(path: Path) -> tuple[list[Path], dict[str, str]]:
    index = read_json(path, limit=MAX_INDEX_BYTES)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(f"{path}: index has no weight_map from tensor names to file names")
    files = sorted(set(weight_map.values()))
    for file in files:
        if not _is_plain(file):
            raise UnsafeCheckpointError(
                f"{path}: index points to {quoted(file)}; only files in its own folder are read"
            )
    missing = [f"{quoted(file)} is missing" for file in files if not os.path.lexists(path.parent / file)]
    raise_listed(f"{path.parent}: incomplete checkpoint", missing)
    return [path.parent / file for file in files], weight_map


def _is_plain(name: str) -> bool:
    """Whether a file of this name lies in the folder itself."""
    return name not in ("", ".", "..") and not any(char in name for char in "/\\:\0")
