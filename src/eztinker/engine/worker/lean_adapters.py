"""Frozen projections of a lean layer, and what adapters add to them, gradients written out by hand.

A pass may hold rows of several runs, each with its own adapter, rank and dropout; base weights are applied
to all rows at once. Knows no attention, no runs and no requests. Called by ``lean_layer.py``;
``lean_weights.py`` and ``held_adapters.py`` build what it needs.

Axes: N flat rows (tokens) of a pass, D input size, O output size, K rank times number of projections, A alike
adapters, T rows of each of them, P an adapter's numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

from eztinker.engine.worker.lora import AdapterWeights, Dropout, Pair
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


@dataclass(frozen=True, slots=True)
class _AdaptedPart:
    """One of the layers of a projection that the adapters are on.

    Attributes:
        site: its index.
        outputs: of the projection, its own.
        low: its ranks among those of the projection.
        place: first number of its A in ``leaf_P``; its B comes behind.
        shapes: of A and B.
    """

    site: int
    outputs: slice
    low: slice
    place: int
    shapes: tuple[torch.Size, torch.Size]

    def of(self, numbers_AP: Tensor) -> tuple[Tensor, Tensor]:
        """A [adapters, r, D] and B [adapters, O, r] among all numbers of alike adapters; views."""
        a, b = self.shapes
        middle = self.place + a.numel()
        a_AKD = numbers_AP[:, self.place : middle].view(-1, *a)
        return a_AKD, numbers_AP[:, middle : middle + b.numel()].view(-1, *b)


class GroupAdapter:
    """What alike adapters add to a projection, each to its own rows; parts without an adapter are left out.

    The A of all parts lie one below the other, the B (times the scaling) in the blocks of one matrix that
    is zero elsewhere, transposed, as thin products are fastest. That multiplies a few zeros, and is one
    product instead of one for each part: ranks are small, and a product with few columns costs its call. The
    adapters are a batch of such products, also where there is one: the batched product is never slower.

    Args:
        projection: the frozen layers.
        adapters: of one shape.
        numbers_AP: theirs, side by side.
    """

    __slots__ = ("_a_AKD", "_b_AKO", "_num_adapters", "_parts", "_scaling")

    def __init__(
        self, projection: FrozenLayers, adapters: Sequence[AdapterWeights], numbers_AP: Tensor
    ) -> None:
        first = adapters[0]
        self._scaling, self._num_adapters = first.scaling, len(adapters)
        self._parts: list[_AdaptedPart] = []
        num_low = 0
        for site, start, end in projection.parts:
            pair = first.pairs[site]
            if pair is not None:
                low = slice(num_low, num_low + pair[0].shape[0])
                self._parts.append(_part(site, slice(start, end), low, pair, first.leaf_P))
                num_low = low.stop
        if self._parts:
            pairs = [part.of(numbers_AP) for part in self._parts]
            self._a_AKD = torch.cat([a_AKD for a_AKD, _ in pairs], dim=1)
            self._b_AKO = self._a_AKD.new_zeros(len(adapters), num_low, projection.num_outputs)
            for part, (_, b_AOK) in zip(self._parts, pairs, strict=True):
                target = self._b_AKO[:, part.low, part.outputs]
                torch.mul(b_AOK.transpose(1, 2), self._scaling, out=target)

    @property
    def low_rank(self) -> tuple[Tensor | None, Tensor | None]:
        """A [A, K, D] and scaled B [A, K, O] of all parts; None where nothing is adapted."""
        return (self._a_AKD, self._b_AKO) if self._parts else (None, None)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is adapted here."""
        return not self._parts

    def masks(self, x_ND: Tensor, dropouts: Sequence[Dropout]) -> list[Tensor]:
        """Dropout factors [N, D] of each adapted part; none without dropout."""
        if not dropouts:
            return []
        x_ATD = self._apart(x_ND)
        return [
            torch.cat([d.mask(x_TD, part.site) for d, x_TD in zip(dropouts, x_ATD, strict=True)])
            for part in self._parts
        ]

    def add_to(self, y: Tensor, x_ND: Tensor, masks: Sequence[Tensor] = ()) -> Tensor | None:
        """Add s·(m∘x)·Aᵀ·Bᵀ to ``y`` in place; (m∘x)·Aᵀ [A, T, K], or None where nothing is adapted."""
        if not self._parts:
            return None
        a_ADK = self._a_AKD.transpose(1, 2)
        if masks:
            lows = [
                torch.bmm(self._apart(x_ND * mask), a_ADK[..., part.low])
                for part, mask in zip(self._parts, masks, strict=True)
            ]
            low_ATK = torch.cat(lows, dim=2)
        else:
            low_ATK = torch.bmm(self._apart(x_ND), a_ADK)
        self._apart(y).baddbmm_(low_ATK, self._b_AKO)
        return low_ATK

    def backward(
        self,
        grad_y: Tensor,
        grad_x_ND: Tensor | None,
        x_ND: Tensor,
        low_ATK: Tensor | None,
        masks: Sequence[Tensor],
        gradient_AP: Tensor,
    ) -> None:
        """Write the gradients of A and B to their places, add what reaches the input to ``grad_x_ND`` in place."""
        if low_ATK is None:
            return
        grad_y_ATO = self._apart(grad_y)
        grad_low_ATK = torch.bmm(grad_y_ATO, self._b_AKO.transpose(1, 2))
        grad_b_AKO = torch.bmm(low_ATK.transpose(1, 2), grad_y_ATO)
        if masks:
            grads_a = self._masked_backward(grad_low_ATK, grad_x_ND, x_ND, masks)
        else:
            if grad_x_ND is not None:
                self._apart(grad_x_ND).baddbmm_(grad_low_ATK, self._a_AKD)
            grad_a_AKD = torch.bmm(grad_low_ATK.transpose(1, 2), self._apart(x_ND))
            grads_a = [grad_a_AKD[:, part.low] for part in self._parts]
        for part, grad_a in zip(self._parts, grads_a, strict=True):
            target_a, target_b = part.of(gradient_AP)
            target_a.copy_(grad_a)
            grad_b = grad_b_AKO[:, part.low, part.outputs].transpose(1, 2)
            torch.mul(grad_b, self._scaling, out=target_b)

    def _masked_backward(
        self,
        grad_low_ATK: Tensor,
        grad_x_ND: Tensor | None,
        x_ND: Tensor,
        masks: Sequence[Tensor],
    ) -> list[Tensor]:
        grads_a = []
        for part, mask in zip(self._parts, masks, strict=True):
            grad_part = grad_low_ATK[..., part.low]
            if grad_x_ND is not None:
                pulled = torch.bmm(grad_part, self._a_AKD[:, part.low])
                grad_x_ND.addcmul_(pulled.view_as(mask), mask)
            grads_a.append(torch.bmm(grad_part.transpose(1, 2), self._apart(x_ND * mask)))
        return grads_a

    def _apart(self, rows: Tensor) -> Tensor:
        """Rows of each adapter [A, T, …]."""
        return rows.view(self._num_adapters, -1, rows.shape[1])


def _part(site: int, outputs: slice, low: slice, pair: Pair, leaf_P: Tensor) -> _AdaptedPart:
    a, b = pair
    place = int(a.storage_offset() - leaf_P.storage_offset())
    return _AdaptedPart(site, outputs, low, place, (a.shape, b.shape))


Rows = list[tuple[GroupAdapter, int, int]]
"""(adapters, first flat row, end); without gradients."""


@dataclass(frozen=True, slots=True)
class TrainedRows:
    """The flat rows of alike adapters in a pass with gradients.

    Attributes:
        start, end: the rows.
        dropouts: of their passes, one for each adapter; empty for none.
        gradient_AP: takes the gradient of each adapter's numbers.
    """

    start: int
    end: int
    dropouts: Sequence[Dropout]
    gradient_AP: Tensor


class Gradients(torch.autograd.Function):
    """Where the gradients of adapters leave the graph: layers write them to their places on the way back.

    As results of every layer they would be hundreds of small tensors. The layers depend on the output, a number
    that nothing is done with; so all have been computed when the backward pass arrives here.
    """

    @staticmethod
    def forward(ctx: Any, rows: Sequence[TrainedRows], *leaves: Tensor) -> Tensor:
        """The number; ``leaves`` are the ``leaf_P`` of all adapters, in the order of their rows."""
        ctx.rows = rows
        return leaves[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the leaves."""
        return None, *(gradient_P for rows in ctx.rows for gradient_P in rows.gradient_AP.unbind())


class RowAdapters:
    """The adapters of a pass on one projection, each on the rows of its run.

    Each run's products have the shapes they would have alone, but for the number of them in a batch, whoever
    shares the pass; only the frozen layers see all rows at once.

    Args:
        parts: adapters and rows; they do not overlap.
        num_rows: of the pass.
    """

    __slots__ = ("_is_whole", "_parts")

    def __init__(self, parts: Sequence[tuple[GroupAdapter, TrainedRows]], num_rows: int) -> None:
        self._parts = list(parts)
        rows = self._parts[0][1]
        self._is_whole = len(self._parts) == 1 and rows.end - rows.start == num_rows

    @property
    def is_empty(self) -> bool:
        """Whether nothing is adapted here."""
        return all(adapter.is_empty for adapter, _ in self._parts)

    def masks(self, x_ND: Tensor) -> list[list[Tensor]]:
        """Dropout factors of each part; empty lists where there is no dropout."""
        return [
            adapter.masks(self._rows(x_ND, rows), rows.dropouts) for adapter, rows in self._parts
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
    ) -> None:
        """``GroupAdapter.backward`` of every part."""
        for (adapter, rows), low, part_masks in zip(self._parts, lows, masks, strict=True):
            grad_x = None if grad_x_ND is None else self._rows(grad_x_ND, rows)
            adapter.backward(
                self._rows(grad_y, rows),
                grad_x,
                self._rows(x_ND, rows),
                low,
                part_masks,
                rows.gradient_AP,
            )

    def _rows(self, tensor: Tensor, rows: TrainedRows) -> Tensor:
        return tensor if self._is_whole else tensor[rows.start : rows.end]
