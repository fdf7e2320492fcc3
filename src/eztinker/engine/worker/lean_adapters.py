"""Frozen projections of a lean layer, and what adapters add to them, gradients written out by hand.

A pass may hold rows of several runs, each with its own adapter, rank and dropout; base weights are applied
to all rows at once. Knows no attention, no runs and no requests. Called by ``lean_layer.py``; ``decoder.py``
builds what it needs.

Axes: N flat rows (tokens) of a pass, D input size, O output size, K rank times number of projections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

from eztinker.engine.worker.lora import AdapterWeights, Dropout
from eztinker.ops.packed_linear import held_linear_added


class FrozenLayers(Protocol):
    """Linear layers on the same input; how their weights are held is the implementation's matter."""

    @property
    def parts(self) -> tuple[tuple[int, int, int], ...]:
        """Of each layer, (index of its site, first output, end)."""
        ...

    @property
    def num_outputs(self) -> int:
        """Outputs of all layers together."""
        ...

    def __call__(self, x_ND: Tensor) -> Tensor:
        """Outputs, part beside part, as a new tensor."""
        ...

    def added_to(self, y_NO: Tensor, x_ND: Tensor) -> Tensor:
        """y + W·x + b, as a new tensor."""
        ...

    def pulled_back(self, grad_NO: Tensor) -> Tensor:
        """Gradient of the input."""
        ...


@dataclass(frozen=True, slots=True)
class Projection:
    """``FrozenLayers`` whose weights lie one below the other.

    Attributes:
        weight: [sum of outputs, in].
        bias: [sum of outputs] or None.
        parts: of each layer, (index of its site, first output, end).
    """

    weight: Tensor
    bias: Tensor | None
    parts: tuple[tuple[int, int, int], ...]

    @property
    def num_outputs(self) -> int:
        """Outputs of all layers together."""
        return self.parts[-1][2]

    def __call__(self, x_ND: Tensor) -> Tensor:
        """Output of the frozen layers."""
        return linear(x_ND, self.weight, self.bias)

    def added_to(self, y_NO: Tensor, x_ND: Tensor) -> Tensor:
        """y + W·x + b, as a new tensor."""
        return held_linear_added(y_NO, x_ND, self.weight, self.bias, "plain")

    def held_for(self, num_rows: int, *, to_add: bool) -> tuple[Tensor, str]:
        """The weight as it is, and the name of that layout."""
        return self.weight, "plain"

    def pulled_back(self, grad_NO: Tensor) -> Tensor:
        """Gradient of the input."""
        return grad_NO @ self.weight


class GroupAdapter:
    """What one adapter adds to a projection; parts without an adapter are left out.

    The A of all parts lie one below the other, the B (times the scaling) in the blocks of one matrix that
    is zero elsewhere, transposed, as thin products are fastest. That multiplies a few zeros, and is one
    product instead of one for each part: ranks are small, and a product with few columns costs its call.

    Attributes:
        leaves: A and B of each adapted part, in turn; what gradients are taken of.
    """

    __slots__ = ("_a_KD", "_b_KO", "_parts", "_scaling", "leaves")

    def __init__(self, projection: FrozenLayers, adapter: AdapterWeights) -> None:
        self._scaling = adapter.scaling
        self.leaves: list[Tensor] = []
        self._parts: list[tuple[int, slice, slice]] = []
        num_low = 0
        for site, start, end in projection.parts:
            pair = adapter.pairs[site]
            if pair is not None:
                self.leaves += pair
                low = slice(num_low, num_low + pair[0].shape[0])
                self._parts.append((site, slice(start, end), low))
                num_low = low.stop
        if self._parts:
            self._a_KD = torch.cat([leaf.detach() for leaf in self.leaves[::2]])
            self._b_KO = self._a_KD.new_zeros(num_low, projection.num_outputs)
            for (_, outputs, low), b in zip(self._parts, self.leaves[1::2], strict=True):
                torch.mul(b.detach().t(), self._scaling, out=self._b_KO[low, outputs])

    @property
    def low_rank(self) -> tuple[Tensor | None, Tensor | None]:
        """A [K, D] and scaled B [K, O] of all parts; None where nothing is adapted."""
        return (self._a_KD, self._b_KO) if self._parts else (None, None)

    def masks(self, x_ND: Tensor, dropout: Dropout | None) -> list[Tensor]:
        """Dropout factors of each adapted part; none without dropout."""
        if dropout is None:
            return []
        return [dropout.mask(x_ND, site) for site, _, _ in self._parts]

    def add_to(self, y: Tensor, x_ND: Tensor, masks: Sequence[Tensor] = ()) -> Tensor | None:
        """Add s·(m∘x)·Aᵀ·Bᵀ to ``y`` in place; (m∘x)·Aᵀ [N, K], or None where nothing is adapted."""
        if not self._parts:
            return None
        if masks:
            parts = zip(self._parts, masks, strict=True)
            low_NK = torch.cat([(x_ND * m) @ self._a_KD[low].t() for (_, _, low), m in parts], 1)
        else:
            low_NK = x_ND @ self._a_KD.t()
        y.addmm_(low_NK, self._b_KO)
        return low_NK

    def backward(
        self,
        grad_y: Tensor,
        grad_x_ND: Tensor | None,
        x_ND: Tensor,
        low_NK: Tensor | None,
        masks: Sequence[Tensor],
    ) -> list[Tensor]:
        """Gradients of ``leaves``; what reaches the input is added to ``grad_x_ND`` in place."""
        if low_NK is None:
            return []
        grad_low_NK = grad_y @ self._b_KO.t()
        grad_b_KO = (low_NK.t() @ grad_y).mul_(self._scaling)
        grads_b = [grad_b_KO[low, outputs].t() for _, outputs, low in self._parts]
        if masks:
            grads_a = self._masked_backward(grad_low_NK, grad_x_ND, x_ND, masks)
        else:
            if grad_x_ND is not None:
                grad_x_ND.addmm_(grad_low_NK, self._a_KD)
            grad_a_KD = grad_low_NK.t() @ x_ND
            grads_a = [grad_a_KD[low] for _, _, low in self._parts]
        return [gradient for pair in zip(grads_a, grads_b, strict=True) for gradient in pair]

    def _masked_backward(
        self,
        grad_low_NK: Tensor,
        grad_x_ND: Tensor | None,
        x_ND: Tensor,
        masks: Sequence[Tensor],
    ) -> list[Tensor]:
        grads_a = []
        for (_, _, low), mask in zip(self._parts, masks, strict=True):
            grad_part = grad_low_NK[:, low]
            if grad_x_ND is not None:
                grad_x_ND.addcmul_(grad_part @ self._a_KD[low], mask)
            grads_a.append(grad_part.t() @ (x_ND * mask))
        return grads_a


Rows = list[tuple[GroupAdapter, int, int]]
"""(adapter, first flat row, end); without gradients."""


@dataclass(frozen=True, slots=True)
class TrainedRows:
    """The flat rows of one run in a pass with gradients.

    Attributes:
        start, end: the rows.
        dropout: of the run's pass, or None.
    """

    start: int
    end: int
    dropout: Dropout | None


class RowAdapters:
    """The adapters of a pass on one projection, each on the rows of its run.

    Each run's products have the shapes they would have alone, whoever shares the pass; only the frozen
    layers see all rows at once.

    Args:
        parts: adapter and rows of each run; they do not overlap.
        num_rows: of the pass.

    Attributes:
        leaves: what gradients are taken of, part by part.
    """

    __slots__ = ("_is_whole", "_parts", "leaves")

    def __init__(self, parts: Sequence[tuple[GroupAdapter, TrainedRows]], num_rows: int) -> None:
        self._parts = list(parts)
        rows = self._parts[0][1]
        self._is_whole = len(self._parts) == 1 and rows.end - rows.start == num_rows
        self.leaves = [leaf for adapter, _ in self._parts for leaf in adapter.leaves]

    def masks(self, x_ND: Tensor) -> list[list[Tensor]]:
        """Dropout factors of each part; empty lists where there is no dropout."""
        return [
            adapter.masks(self._rows(x_ND, rows), rows.dropout) for adapter, rows in self._parts
        ]

    def add_to(
        self, y: Tensor, x_ND: Tensor, masks: Sequence[Sequence[Tensor]]
    ) -> list[Tensor | None]:
        """``GroupAdapter.add_to`` of every part, in place; its answers."""
        return [
            adapter.add_to(self._rows(y, rows), self._rows(x_ND, rows), part_masks)
            for (adapter, rows), part_masks in zip(self._parts, masks, strict=True)
        ]

    def backward(
        self,
        grad_y: Tensor,
        grad_x_ND: Tensor | None,
        x_ND: Tensor,
        lows: Sequence[Tensor | None],
        masks: Sequence[Sequence[Tensor]],
    ) -> list[Tensor]:
        """Gradients of ``leaves``; what reaches the input is added to ``grad_x_ND`` in place."""
        gradients: list[Tensor] = []
        for (adapter, rows), low, part_masks in zip(self._parts, lows, masks, strict=True):
            grad_x = None if grad_x_ND is None else self._rows(grad_x_ND, rows)
            gradients += adapter.backward(
                self._rows(grad_y, rows), grad_x, self._rows(x_ND, rows), low, part_masks
            )
        return gradients

    def _rows(self, tensor: Tensor, rows: TrainedRows) -> Tensor:
        return tensor if self._is_whole else tensor[rows.start : rows.end]
