"""Keys and values of the rows that a base model is generating for, in two preallocated buffers.

Rows are dense: the running rows are the first ones, and a row that leaves is replaced by the last. The
buffers grow by copying, up to what the sampler admits; the cache itself knows no bound, no request and
no adapter. Called by ``sampler.py`` (rows) and ``attention.py`` (reading and writing).

Axes: L layers, R rows, G key-value heads, S positions, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """Cached keys and values of one base model.

    Args:
        num_layers: layers of the model.
        dtype: of keys and values.
        device: where they lie.
    """

    def __init__(self, num_layers: int, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype = dtype
        self.device = device
        self._num_layers = num_layers
        self._num_rows = 0
        self._num_positions = 0
        self._keys_LRGSD: Tensor | None = None
        self._values_LRGSD: Tensor | None = None
        self._row_R = torch.empty(0, dtype=torch.int64)

    @property
    def size_bytes(self) -> int:
        """Memory the buffers hold."""
        buffers = (self._keys_LRGSD, self._values_LRGSD)
        return sum(b.numel() * b.element_size() for b in buffers if b is not None)

    def reserve(self, num_rows: int, num_positions: int) -> None:
        """Make room for so many rows of so many positions; what is stored stays."""
        if num_rows <= self._num_rows and num_positions <= self._num_positions:
            return
        # Doubling keeps the number of copies logarithmic in the length of an answer.
        if num_rows > self._num_rows:
            self._num_rows = max(num_rows, min(2 * self._num_rows, num_rows + 64))
        if num_positions > self._num_positions:
            self._num_positions = max(
                num_positions, min(2 * self._num_positions, num_positions + 512)
            )
        if self._keys_LRGSD is not None and self._values_LRGSD is not None:
            self._keys_LRGSD = self._enlarged(self._keys_LRGSD)
            self._values_LRGSD = self._enlarged(self._values_LRGSD)
        self._row_R = torch.arange(self._num_rows, device=self.device)

    def release(self) -> None:
        """Give the memory back; nothing may be running."""
        self._keys_LRGSD = self._values_LRGSD = None
        self._num_rows = self._num_positions = 0

    def write_prompt(self, layer: int, row: int, k_GTD: Tensor, v_GTD: Tensor) -> None:
        """Store a prompt at the beginning of a row."""
        keys, values = self._buffers(k_GTD, v_GTD)
        keys[layer, row, :, : k_GTD.shape[1]] = k_GTD
        values[layer, row, :, : v_GTD.shape[1]] = v_GTD

    def append(
        self, layer: int, positions_R: Tensor, k_RG1D: Tensor, v_RG1D: Tensor, width: int
    ) -> tuple[Tensor, Tensor]:
        """Store one position per row; keys and values [R, G, width, D] to attend to."""
        keys, values = self._buffers(k_RG1D[0], v_RG1D[0])
        num_rows = positions_R.shape[0]
        keys, values = keys[layer, :num_rows], values[layer, :num_rows]
        row_R = self._row_R[:num_rows]
        keys[row_R, :, positions_R] = k_RG1D[:, :, 0]
        values[row_R, :, positions_R] = v_RG1D[:, :, 0]
        return keys[:, :, :width], values[:, :, :width]

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of a row to another, in all layers."""
        for buffer in (self._keys_LRGSD, self._values_LRGSD):
            if buffer is not None:
                buffer[:, target, :, :length] = buffer[:, source, :, :length]

    def _buffers(self, k_GTD: Tensor, v_GTD: Tensor) -> tuple[Tensor, Tensor]:
        if self._keys_LRGSD is None or self._values_LRGSD is None:
            self._keys_LRGSD = self._new(k_GTD)
            self._values_LRGSD = self._new(v_GTD)
        return self._keys_LRGSD, self._values_LRGSD

    def _new(self, like_GTD: Tensor) -> Tensor:
        groups, _, size = like_GTD.shape
        # Zeros, not empty memory: masked positions enter the product, and 0·nan is nan.
        return torch.zeros(
            (self._num_layers, self._num_rows, groups, self._num_positions, size),
            dtype=self.dtype,
            device=self.device,
        )

    def _enlarged(self, old_LRGSD: Tensor) -> Tensor:
        layers, rows, groups, positions, size = old_LRGSD.shape
        new = torch.zeros(
            (layers, self._num_rows, groups, self._num_positions, size),
            dtype=self.dtype,
            device=self.device,
        )
        new[:, :rows, :, :positions] = old_LRGSD
        return new
