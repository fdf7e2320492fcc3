"""Keys and values that a base model has computed: of the running rows, and of one prompt.

``KVCache`` holds the rows of a decode step. They are dense: the running rows are the first ones, and a
row that leaves is replaced by the last. Its buffers grow by copying, a layer at a time. ``PromptKV`` holds
one prompt while it is read, until its rows take it over. Both know no bound, no request and no adapter.
Called by ``sampler.py`` and ``prefill.py`` (rows, prompts), ``prefix_cache.py`` and ``attention.py``.

Axes: L layers, R rows, G key-value heads, S and T positions, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor


class PromptKV:
    """Keys and values of one prompt.

    Args:
        num_layers: layers of the model.
        num_positions: T, of the whole prompt.
        dtype: of keys and values.
        device: where they lie.

    Attributes:
        keys_LGTD, values_LGTD: None until the first layer has written.
    """

    def __init__(
        self, num_layers: int, num_positions: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.num_positions = num_positions
        self.keys_LGTD: Tensor | None = None
        self.values_LGTD: Tensor | None = None
        self._num_layers, self._dtype, self._device = num_layers, dtype, device

    def begin_with(self, keys_LGTD: Tensor, values_LGTD: Tensor) -> None:
        """Take over the first positions, already computed."""
        length = keys_LGTD.shape[2]
        self._allocate(keys_LGTD[0], values_LGTD[0])
        self.keys_LGTD[:, :, :length] = keys_LGTD  # type: ignore[index]
        self.values_LGTD[:, :, :length] = values_LGTD  # type: ignore[index]

    def write(self, layer: int, start: int, k_GTD: Tensor, v_GTD: Tensor) -> tuple[Tensor, Tensor]:
        """Store positions from ``start`` on; keys and values [G, ·, D] from 0 to their end."""
        if self.keys_LGTD is None:
            self._allocate(k_GTD, v_GTD)
        end = start + k_GTD.shape[1]
        keys, values = self.keys_LGTD[layer], self.values_LGTD[layer]  # type: ignore[index]
        keys[:, start:end] = k_GTD
        values[:, start:end] = v_GTD
        return keys[:, :end], values[:, :end]

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values [G, T, D] of one layer."""
        keys_LGTD, values_LGTD = self.all_layers()
        return keys_LGTD[layer], values_LGTD[layer]

    def all_layers(self) -> tuple[Tensor, Tensor]:
        """Keys and values [L, G, T, D]."""
        if self.keys_LGTD is None or self.values_LGTD is None:
            raise ValueError("The prompt has not been read.")
        return self.keys_LGTD, self.values_LGTD

    def _allocate(self, k_GTD: Tensor, v_GTD: Tensor) -> None:
        def new(like: Tensor) -> Tensor:
            groups, _, size = like.shape
            shape = (self._num_layers, groups, self.num_positions, size)
            return torch.empty(shape, dtype=self._dtype, device=self._device)

        self.keys_LGTD, self.values_LGTD = new(k_GTD), new(v_GTD)


class KVCache:
    """Cached keys and values of the running rows of one base model.

    Args:
        num_layers: layers of the model.
        dtype: of keys and values.
        device: where they lie.

    Attributes:
        version: another number whenever buffers may have been replaced.
    """

    def __init__(self, num_layers: int, dtype: torch.dtype, device: torch.device) -> None:
        self.version = 0
        self.dtype = dtype
        self.device = device
        self._num_layers = num_layers
        self._num_rows = 0
        self._num_positions = 0
        # One tensor per layer and kind: while buffers grow, only one of them exists twice.
        self._keys_RGSD: list[Tensor] = []
        self._values_RGSD: list[Tensor] = []
        self._row_R = torch.empty(0, dtype=torch.int64)

    @property
    def num_tokens(self) -> int:
        """Positions there is room for, over all rows."""
        return self._num_rows * self._num_positions

    @property
    def size_bytes(self) -> int:
        """Memory the buffers hold."""
        return sum(b.numel() * b.element_size() for b in (*self._keys_RGSD, *self._values_RGSD))

    def reserve(self, num_rows: int, num_positions: int, max_tokens: int | None = None) -> None:
        """Make room for so many rows of so many positions; what is stored in them stays.

        Args:
            num_rows, num_positions: needed now.
            max_tokens: room to hold at most, as far as what is needed allows; None knows no bound.
        """
        bound = max(num_rows * num_positions, self.num_tokens if max_tokens is None else max_tokens)
        fits = num_rows <= self._num_rows and num_positions <= self._num_positions
        if fits and self.num_tokens <= bound:
            return
        # Doubling keeps the number of copies logarithmic in the length of an answer.
        rows = max(num_rows, min(2 * self._num_rows, num_rows + 64))
        positions = max(num_positions, min(2 * self._num_positions, num_positions + 512))
        if max_tokens is not None and rows * positions > bound:
            rows = num_rows
            positions = max(num_positions, min(positions, bound // rows))
        self._resize(rows, positions)

    def _resize(self, num_rows: int, num_positions: int) -> None:
        shape = num_rows, num_positions
        self.version += 1
        # Until all layers have the new size, what each of them surely has: memory may run out.
        self._num_rows = min(num_rows, self._num_rows)
        self._num_positions = min(num_positions, self._num_positions)
        for buffers in (self._keys_RGSD, self._values_RGSD):
            for layer in range(len(buffers)):
                buffers[layer] = self._resized(buffers[layer], shape)
        self._row_R = torch.arange(num_rows, device=self.device)
        self._num_rows, self._num_positions = shape

    def allocate(self, prompt: PromptKV) -> None:
        """Make the buffers if there are none yet, for keys and values shaped like a prompt's."""
        self._allocate(*prompt.layer(0))

    def release(self) -> None:
        """Give the memory back; nothing may be running."""
        self.version += 1
        self._keys_RGSD, self._values_RGSD = [], []
        self._num_rows = self._num_positions = 0

    def store_prompt(self, row: int, prompt: PromptKV) -> None:
        """Put a prompt at the beginning of a row."""
        self.allocate(prompt)
        end = prompt.num_positions
        for layer in range(self._num_layers):
            keys, values = prompt.layer(layer)
            self._keys_RGSD[layer][row, :, :end] = keys
            self._values_RGSD[layer][row, :, :end] = values

    def prompt_of(self, row: int, num_positions: int) -> PromptKV:
        """A copy of a row's first positions."""
        copy = PromptKV(self._num_layers, num_positions, self.dtype, self.device)
        copy.keys_LGTD = torch.stack([k[row, :, :num_positions] for k in self._keys_RGSD])
        copy.values_LGTD = torch.stack([v[row, :, :num_positions] for v in self._values_RGSD])
        return copy

    def append(
        self,
        layer: int,
        first_row: int,
        positions_R: Tensor,
        k_RG1D: Tensor,
        v_RG1D: Tensor,
        width: int,
    ) -> tuple[Tensor, Tensor]:
        """Store one position per row, from a row on; keys and values [R, G, width, D] to attend to."""
        self._allocate(k_RG1D[0], v_RG1D[0])
        num_rows = positions_R.shape[0]
        rows = slice(first_row, first_row + num_rows)
        keys, values = self._keys_RGSD[layer][rows], self._values_RGSD[layer][rows]
        row_R = self._row_R[:num_rows]
        keys[row_R, :, positions_R] = k_RG1D[:, :, 0]
        values[row_R, :, positions_R] = v_RG1D[:, :, 0]
        return keys[:, :, :width], values[:, :, :width]

    def buffers(self, first_row: int, num_rows: int) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values [R, G, ·, D] of some rows, as they lie, of each layer."""
        rows = slice(first_row, first_row + num_rows)
        return [k[rows] for k in self._keys_RGSD], [v[rows] for v in self._values_RGSD]

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of a row to another, in all layers."""
        for buffer in (*self._keys_RGSD, *self._values_RGSD):
            buffer[target, :, :length] = buffer[source, :, :length]

    def _allocate(self, k_GTD: Tensor, v_GTD: Tensor) -> None:
        if not self._keys_RGSD:
            self.version += 1
            shape = self._num_rows, self._num_positions
            keys = [self._new(k_GTD, shape) for _ in range(self._num_layers)]
            values = [self._new(v_GTD, shape) for _ in range(self._num_layers)]
            self._keys_RGSD, self._values_RGSD = keys, values

    def _new(self, like_GTD: Tensor, shape: tuple[int, int]) -> Tensor:
        groups, _, size = like_GTD.shape
        num_rows, num_positions = shape
        # Zeros, not empty memory: masked positions enter the product, and 0·nan is nan.
        return torch.zeros(
            (num_rows, groups, num_positions, size), dtype=self.dtype, device=self.device
        )

    def _resized(self, old_RGSD: Tensor, shape: tuple[int, int]) -> Tensor:
        new = self._new(old_RGSD[0], shape)
        rows, positions = min(len(old_RGSD), len(new)), min(old_RGSD.shape[2], new.shape[2])
        new[:rows, :, :positions] = old_RGSD[:rows, :, :positions]
        return new
