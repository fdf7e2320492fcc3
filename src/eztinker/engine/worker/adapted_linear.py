"""The linear layer that a model of transformers has in our hands: frozen, plus the adapters of the pass.

One base model serves every run: each of its linear layers is replaced once by an ``AdaptedLinear``, and
the adapters of a pass are named in a ``PassState``. Knows no runs and no requests; ``hf_decoder.py`` puts
it in place.

Axes: N flat rows (tokens) of a pass, D input size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any

import torch
from torch import Tensor, nn

from eztinker.engine.worker.attention import Layout
from eztinker.engine.worker.lora import AdapterWeights, Dropout, LinearSite
from eztinker.engine.worker.quantization import QuantizedLinear


@dataclass(slots=True)
class PassState:
    """What the layers of one base model need to know about the pass in progress.

    Attributes:
        layout: how its tokens belong together.
        segments: (adapter or None, first flat row, end) covering the pass.
        dropouts: on the adapters' inputs, one per segment.
        checkpointing: recompute each layer in the backward pass.
        num_attention_calls: counts calls of our attention function.
    """

    layout: Layout | None = None
    segments: list[tuple[AdapterWeights | None, int, int]] = dataclass_field(default_factory=list)
    dropouts: Sequence[Dropout | None] = ()
    checkpointing: bool = False
    num_attention_calls: int = 0


class AdaptedLinear(nn.Module):
    """A frozen linear layer plus scaling·B·A·x of the adapters of the pass."""

    def __init__(self, base: nn.Module, site: LinearSite, state: PassState) -> None:
        super().__init__()
        self.base = base
        self.bias: Tensor | None = getattr(base, "bias", None)
        self.in_features, self.out_features = site.in_features, site.out_features
        self.site = site
        self.state = state

    @property
    def weight(self) -> Tensor:
        """The frozen weight as the model's own code knows it; a quantised one is new memory each time."""
        return self.base.weight  # type: ignore[return-value]

    def frozen(self, x: Tensor) -> Tensor:
        """Output of the frozen layer."""
        if isinstance(self.base, QuantizedLinear):
            return self.base(x)
        weight = self.weight.t() if self.site.is_transposed else self.weight
        return nn.functional.linear(x, weight, self.bias)

    def pulled_back(self, grad: Tensor) -> Tensor:
        """Gradient of the frozen layer's input."""
        if isinstance(self.base, QuantizedLinear):
            return self.base.pulled_back(grad)
        return grad @ (self.weight.t() if self.site.is_transposed else self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Output of the shape of ``x`` with its last axis replaced."""
        if not torch.is_grad_enabled():
            return self._added_in_place(x, self.frozen(x))
        x_rows = x.reshape(-1, self.in_features)
        parts, leaves = self._parts(x_rows)
        y_rows = _Adapted.apply(x_rows, self, parts, *leaves)
        return y_rows.view(*x.shape[:-1], self.out_features)

    def _parts(self, x_rows: Tensor) -> tuple[list[_Part], list[Tensor]]:
        """What each adapter of the pass does here, and its A and B."""
        parts, leaves = [], []
        for (adapter, start, end), dropout in zip(
            self.state.segments, self.state.dropouts, strict=True
        ):
            pair = adapter.pairs[self.site.index] if adapter is not None else None
            if pair is not None:
                rows = x_rows[start:end]
                mask = dropout.mask(rows, self.site.index) if dropout is not None else None
                parts.append(_Part(start, end, adapter.scaling, mask))  # type: ignore[union-attr]
                leaves += pair
        return parts, leaves

    def _added_in_place(self, x: Tensor, y: Tensor) -> Tensor:
        x_rows, y_rows = x.reshape(-1, self.in_features), y.view(-1, self.out_features)
        for adapter, start, end in self.state.segments:
            pair = adapter.pairs[self.site.index] if adapter is not None else None
            if pair is not None:
                low = x_rows[start:end] @ pair[0].t()
                y_rows[start:end].addmm_(low, pair[1].t(), alpha=adapter.scaling)  # type: ignore[union-attr]
        return y


@dataclass(frozen=True, slots=True)
class _Part:
    """One adapter on its rows; mask [rows, in] of its dropout."""

    start: int
    end: int
    scaling: float
    mask: Tensor | None

    def masked(self, x_ND: Tensor) -> Tensor:
        rows = x_ND[self.start : self.end]
        return rows if self.mask is None else rows * self.mask


class _Adapted(torch.autograd.Function):
    """x·Wᵀ + b, and on each part's rows + s·(m∘x)·Aᵀ·Bᵀ, as one step of the graph.

    Gradients are those of x and of every A and B. Written out it is ten steps for each part, whose
    bookkeeping costs more than the products where these are small. The frozen weight is asked for again in
    the backward pass, so that a quantised one is never kept in full.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        layer: AdaptedLinear,
        parts: list[_Part],
        *leaves: Tensor,
    ) -> Tensor:
        y = layer.frozen(x_ND)
        lows = []
        for part, a, b in zip(parts, leaves[::2], leaves[1::2], strict=True):
            lows.append(part.masked(x_ND) @ a.t())
            y[part.start : part.end].addmm_(lows[-1], b.t(), alpha=part.scaling)
        ctx.save_for_backward(x_ND, *leaves, *lows)
        ctx.layer, ctx.parts = layer, parts
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, *saved = ctx.saved_tensors
        num, grad = len(ctx.parts), grads[0]
        leaves, lows = saved[: 2 * num], saved[2 * num :]
        grad_x = ctx.layer.pulled_back(grad) if ctx.needs_input_grad[0] else None
        gradients: list[Tensor] = []
        for part, a, b, low in zip(ctx.parts, leaves[::2], leaves[1::2], lows, strict=True):
            grad_part = grad[part.start : part.end]
            grad_low = (grad_part @ b).mul_(part.scaling)
            if grad_x is not None:
                target = grad_x[part.start : part.end]
                if part.mask is None:
                    target.addmm_(grad_low, a)
                else:
                    target.addcmul_(grad_low @ a, part.mask)
            gradients += grad_low.t() @ part.masked(x_ND), (grad_part.t() @ low).mul_(part.scaling)
        return grad_x, None, None, *gradients
