"""Opening a checkpoint, whatever it is: which files, which format, which layout, and one tensor at a time from it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...errors import CheckpointError
from ...utils.display import quoted
from .. import layouts
from ..dtypes import STORAGE
from ..layouts import WeightTable
from .locating import INCOMPLETE, locate, raise_listed
from .pdparams import read_pdparams
from .safetensors_file import read_safetensors
from .tensor import StoredTensor, element_count, map_writable
from .torch_zip import read_torch_zip

__all__ = ["INCOMPLETE", "Checkpoint", "open_checkpoint", "raise_listed"]


class Checkpoint:
    """The tensors of a model's weights, under the names and in the orientation of :attr:`layout`.

    Nothing is loaded before :meth:`read`, and what that returns is, for all but old ``.pdparams``, a view of the file.

    Attributes:
        path: what was opened: a folder, or one file.
        files: the files of weights.
        layout: one of ``layouts.LAYOUTS``.
        table: the weights of the model's family.
        packed: linear weights are our quantized tiles, under the names of the quantized model.
    """

    def __init__(
        self,
        path: Path,
        files: list[Path],
        tensors: dict[str, StoredTensor],
        layout: str,
        table: WeightTable,
        packed: bool = False,
    ) -> None:
        """Args are the attributes; ``tensors``: by the names of the layout."""
        self.path, self.files, self.layout, self.table, self.packed = path, files, layout, table, packed
        self._tensors = tensors
        self._paths = {file.name: file for file in files}

    @property
    def folder(self) -> Path:
        """The folder that its files are in."""
        return self.path if self.path.is_dir() else self.path.parent

    def names(self) -> list[str]:
        """All tensor names, as this checkpoint calls them."""
        return list(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, as stored."""
        return self._tensors[name].shape

    def dtype(self, name: str) -> str:
        """The tag of the tensor's element type, e.g. "bfloat16"."""
        return self._tensors[name].dtype

    def nbytes(self) -> int:
        """Bytes of all tensors as they are stored."""
        return sum(element_count(tensor.shape) * STORAGE[tensor.dtype].itemsize for tensor in self._tensors.values())

    def file(self, name: str) -> str:
        """Name of the file that holds the tensor."""
        return self._tensors[name].file

    def read(self, name: str) -> np.ndarray:
        """The tensor as a read-only array; bfloat16 as uint16."""
        array = self._tensors[name].load()
        array.flags.writeable = False
        return array

    def map_writable(self, name: str) -> np.ndarray:
        """The tensor as an array over a map of its own, which changes to it stay in; bfloat16 as uint16. Where the file
        does not hold it as it is, a copy.
        """
        tensor = self._tensors[name]
        stored = tensor.load()
        if tensor.offset is None or stored.size == 0:
            return np.array(stored)
        return map_writable(self._paths[tensor.file], tensor.offset, tensor.shape, STORAGE[tensor.dtype])

    def our_names(self) -> dict[str, str]:
        """Our parameter's name -> the name here, for every tensor that is a weight of the family as it is."""
        codes = {weight for weight, _ in self.bnb_layers().values()}
        found = {self.table.our_name(name, self.layout): name for name in self._tensors if name not in codes}
        return {ours: name for ours, name in found.items() if ours is not None}

    def gptq_layers(self) -> dict[str, str]:
        """Our weight's name -> the name here of the layer that holds it as GPTQ does (``.qweight`` and so on)."""
        if self.packed or self.layout != layouts.HF:
            return {}
        parts = ((self.table.gptq_weight(name), name) for name in self._tensors if name.endswith(".qweight"))
        return {ours: name[: -len(".qweight")] for ours, name in parts if ours is not None}

    def bnb_layers(self) -> dict[str, tuple[str, str]]:
        """Our weight's name -> the names here of the codes of bitsandbytes that hold it and of their state."""
        if self.packed or self.layout != layouts.HF:
            return {}
        states = filter(None, map(layouts.BNB_STATE.fullmatch, self._tensors))
        named = ((self.table.our_name(state["weight"], layouts.HF), state) for state in states)
        return {
            ours: (state["weight"], state[0])
            for ours, state in named
            if ours is not None and state["weight"] in self._tensors
        }

    @property
    def quantized(self) -> bool:
        """Whether some linear weights are quantized, in whatever form."""
        return self.packed or bool(self.gptq_layers() or self.bnb_layers())

    def unknown_names(self) -> list[str]:
        """Tensors that are neither weights of the family, nor parts of their form in GPTQ or bitsandbytes, nor known to
        be harmless (``layouts.HARMLESS``).
        """
        gptq, weights = self.gptq_layers(), tuple(f"{weight}." for weight, _ in self.bnb_layers().values())
        return [
            name
            for name in self._tensors
            if self.table.our_name(name, self.layout) is None
            and not layouts.HARMLESS.search(name)
            and self.table.gptq_weight(name) not in gptq
            and not name.startswith(weights)
        ]


def open_checkpoint(path: str | os.PathLike[str], table: WeightTable) -> Checkpoint:
    """Open the checkpoint in a folder, or one file of weights.

    Reads headers only.

    Args:
        path: the folder or file.
        table: the weights of the family that the model is of.

    Raises:
        CheckpointError: with everything that is wrong in one message: there is none, files named by an index are
            missing or hold other tensors, or the model is of another family.
        UnsafeCheckpointError: a file asks for code, or an index points out of its folder.
    """
    path = Path(path)
    files, expected = locate(path)
    tensors: dict[str, StoredTensor] = {}
    markers, packings = set(), set()
    problems: list[str] = []
    for file in files:
        found, metadata = _read_file(file)
        markers.add(metadata.get(layouts.MARKER))
        packings.add(metadata.get(layouts.PACKING_MARKER))
        repeated = sorted(set(found) & set(tensors))
        problems += [f"{quoted(name)} is in both {tensors[name].file} and {file.name}" for name in repeated]
        tensors.update(found)
    if expected is not None:
        held = {name: tensor.file for name, tensor in tensors.items()}
        problems += [
            f"{quoted(name)} is missing from {quoted(file)}"
            for name, file in expected.items()
            if held.get(name) != file
        ]
        problems += [
            f"{quoted(name)} in {file} is not in the index" for name, file in held.items() if name not in expected
        ]
    raise_listed(f"{path}: shards and index do not agree", problems)
    if len(markers) > 1:
        raise CheckpointError(f"{path}: shards carry different layout markers {_values(markers)}")
    if len(packings) > 1 or not packings <= {None, layouts.PACKING}:
        raise CheckpointError(
            f"{path}: metadata {layouts.PACKING_MARKER}={_values(packings)}, expected {layouts.PACKING!r} in "
            "every shard or in none"
        )
    # what wrappers of a model in training write before all of its names
    prefix = layouts.common_prefix(tensors)
    if prefix:
        bare = ((name[len(prefix) :], tensor) for name, tensor in tensors.items())
        tensors = {name: replace(tensor, name=name) for name, tensor in bare}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    layout = table.recognize(shapes, markers.pop(), str(path))
    return Checkpoint(path, files, tensors, layout, table, packed=packings == {layouts.PACKING})


def _values(markers: set[str | None]) -> str:
    return quoted(", ".join(sorted(map(str, markers))))


def _read_file(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix == ".pdparams":
        return read_pdparams(path), {}
    if path.suffix in (".bin", ".pt", ".pth"):
        return read_torch_zip(path), {}
    raise CheckpointError(f"{path}: unknown kind of weights; expected .safetensors, .bin or .pdparams")
