"""What a decode step reads of its rows, in buffers that stay where they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle

from ...engine.protocols import RowInput
from ...utils import paddle_internals
from .attention_metadata import PagedAttention
from .configuration import QWenVLConfig
from .kv_cache import ntk_alphas
from .rotary import whole_rotation


class Buffer:
    """An array of the host and a tensor of the same values, which keeps its address.

    On a CPU they share their memory; on a GPU :meth:`send` brings the one to the other.

    Attributes:
        host: to be written to.
        tensor: on the current device.
    """

    def __init__(self, shape: Sequence[int], dtype: str) -> None:
        """All zeros."""
        self.host = np.zeros(shape, dtype)
        self._sent = self.host.copy()
        self._shared = paddle.get_device() == "cpu"
        self.tensor = paddle_internals.shared(self.host) if self._shared else paddle.to_tensor(self.host)

    def send(self) -> None:
        """Let the tensor have what the host wrote."""
        if not self._shared:
            paddle_internals.overwrite(self.tensor, self.host)

    def send_changes(self) -> None:
        """As :meth:`send`, if the host wrote anything since; for tensors that nobody else writes to."""
        if not self._shared and not np.array_equal(self.host, self._sent):
            self.send()
            self._sent = self.host.copy()


class DecodeInputs:
    """New ids, and what attention needs beside the hidden states, of so many rows with so many new positions each.

    Attributes:
        ids: int64 ``[rows, count]``.
        metadata: of tensors that stay the same objects at the same addresses, whatever they hold.
        advancing: int32 tensors that grow by 1 when every row, each with one new position, goes on.

    Args:
        config: the model's.
        rows: of the pass.
        count: most new positions of a row.
        block_size: positions of a block of the cache.
    """

    def __init__(self, config: QWenVLConfig, rows: int, count: int, block_size: int) -> None:
        """Allocate the buffers."""
        width = -(-config.max_position_embeddings // block_size)
        self._block_size = block_size
        self._ids = Buffer([rows, count], "int64")
        self._slots = Buffer([rows], "int32")
        self._positions = self._slots if count == 1 else Buffer([rows, count], "int32")
        self._lengths = Buffer([rows], "int32")
        self._kv_lengths = Buffer([rows], "int32")
        self._block_table = Buffer([rows, width], "int32")
        self._table_index = Buffer([rows], "int32")
        self._moving = [self._ids, self._slots, self._kv_lengths]
        if count > 1:
            self._moving += [self._positions, self._lengths]
        self._steps = np.arange(count, dtype=np.int32)
        alphas = ntk_alphas(config)
        self._alpha_index = {alpha: index for index, alpha in enumerate(alphas)}
        self.ids = self._ids.tensor
        self.advancing = (self._slots.tensor, self._kv_lengths.tensor)
        self.metadata = PagedAttention(
            rotation=whole_rotation(alphas, config),
            positions=self._slots.tensor.unsqueeze(1) if count == 1 else self._positions.tensor,  # of one memory
            slots=self._slots.tensor,
            kv_lengths=self._kv_lengths.tensor,
            lengths=None if count == 1 else self._lengths.tensor,
            block_table=self._block_table.tensor,
            table_index=self._table_index.tensor,
        )

    def load(self, rows: Sequence[RowInput]) -> None:
        """Take what a pass computes; entries behind the end of a row are left as they are."""
        ids, slots, lengths = self._ids.host, self._slots.host, self._lengths.host
        for index, row in enumerate(rows):
            count = len(row.ids)
            needed = -(-(row.start + count) // self._block_size)
            ids[index, :count] = row.ids
            slots[index] = row.start
            lengths[index] = count
            self._block_table.host[index, :needed] = row.blocks[:needed]
            self._table_index.host[index] = self._alpha_index[row.position_factor]
        np.add(slots, lengths, out=self._kv_lengths.host)
        if self._positions is not self._slots:
            np.add(slots[:, None], self._steps, out=self._positions.host)
        self.send()

    def send(self) -> None:
        """Bring to the device what was loaded last."""
        for buffer in self._moving:
            buffer.send()
        for buffer in (self._block_table, self._table_index):
            buffer.send_changes()
