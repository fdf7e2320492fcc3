"""One layer of the Llama family as two steps of the graph, with gradients written out by hand.

``enter`` leads from the residual stream to rotated queries, keys and values; ``leave`` from the output of
attention through the output projection and the SwiGLU block back to the residual stream. Attention lies
between them and is not known here, nor are runs or requests. Called by ``decoder.py``.

Step by step such a layer is about forty small operations, whose bookkeeping in autograd costs several
times the arithmetic where a pass is small. Base weights are frozen: gradients are those of the residual
stream, of attention and of the adapters' A and B, which leave the graph by a way of their own
(``lean_adapters.Gradients``).

Axes: N flat rows (tokens) of a pass, D hidden size, H heads of queries, keys and values together,
E head size, I inner size of the SwiGLU block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from eztinker.engine.worker.lean_adapters import FrozenLayers, GroupAdapter, RowAdapters, Rows


@dataclass(frozen=True, slots=True)
class Rotation:
    """Rotary position embedding of a pass (Su et al. 2021, arXiv:2104.09864), in transformers' layout:
    number i and number i + E/2 of a head form a pair.

    Attributes:
        cos_N1E, sin_N1E: the sine carries the sign of its half: minus in the first.
    """

    cos_N1E: Tensor
    sin_N1E: Tensor

    def forward_(self, x_NHE: Tensor) -> None:
        """Rotate in place."""
        rotate_(x_NHE, self.cos_N1E, self.sin_N1E)

    def backward_(self, grad_NHE: Tensor) -> None:
        """Rotate back in place."""
        swapped = grad_NHE.roll(grad_NHE.shape[-1] // 2, -1)
        grad_NHE.mul_(self.cos_N1E).addcmul_(swapped, self.sin_N1E, value=-1)


def rotate_(x_NHE: Tensor, cos_N1E: Tensor, sin_N1E: Tensor) -> None:
    """``Rotation.forward_``."""
    swapped = x_NHE.roll(x_NHE.shape[-1] // 2, -1)
    x_NHE.mul_(cos_N1E).addcmul_(swapped, sin_N1E)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x / sqrt(mean(x²) + eps) · weight over the last axis, and the float32 factor 1 / sqrt(…).

    Zhang and Sennrich 2019 (arXiv:1910.07467). As in transformers the factor is taken in float32.
    """
    wide = x.float()
    factor = torch.linalg.vecdot(wide, wide)[..., None].div_(x.shape[-1]).add_(eps).rsqrt_()
    if x.dtype == torch.float32:
        return (x * factor).mul_(weight), factor
    return (wide * factor).to(x.dtype) * weight, factor


def rms_norm_backward(grad: Tensor, x: Tensor, factor: Tensor, weight: Tensor) -> Tensor:
    """Gradient of ``rms_norm`` with regard to x."""
    wide = x.float()
    grad_w = (grad * weight).float()
    pull = torch.linalg.vecdot(grad_w, wide)[..., None].mul_(factor**3).div_(-x.shape[-1])
    return (grad_w * factor).addcmul_(wide, pull).to(x.dtype)


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Frozen weights of one layer.

    Attributes:
        norm_in, norm_mid: of the two normalisations [D].
        norm_qk_HE: of queries and keys, one row per head; None where the family has none.
        qkv, out, gate_up, down: projections.
        num_rotated: heads of queries and keys.
        head_size: E.
        eps: of the normalisations.
    """

    norm_in: Tensor
    norm_mid: Tensor
    norm_qk_HE: Tensor | None
    qkv: FrozenLayers
    out: FrozenLayers
    gate_up: FrozenLayers
    down: FrozenLayers
    num_rotated: int
    head_size: int
    eps: float


@dataclass(frozen=True, slots=True)
class LayerAdapters:
    """Alike adapters in one layer, a group for each projection."""

    qkv: GroupAdapter
    out: GroupAdapter
    gate_up: GroupAdapter
    down: GroupAdapter


@dataclass(frozen=True, slots=True)
class TrainedAdapters:
    """All adapters of a pass in one layer.

    Attributes:
        way_out: what ``Gradients`` gave: by it their gradients leave the graph.
    """

    way_out: Tensor
    qkv: RowAdapters
    out: RowAdapters
    gate_up: RowAdapters
    down: RowAdapters

    def way_out_of(self, *groups: RowAdapters) -> Tensor | None:
        """None where nothing is adapted: then nothing has to be pulled back so far."""
        return None if all(group.is_empty for group in groups) else self.way_out


def enter(x_ND: Tensor, layer: LayerWeights, rotation: Rotation, rows: Rows) -> Tensor:
    """Queries and keys, rotated, and values [N, H, E]; without gradients."""
    h_ND, _ = rms_norm(x_ND, layer.norm_in, layer.eps)
    y = layer.qkv(h_ND)
    for adapter, start, end in rows:
        adapter.add_to(y[start:end], h_ND[start:end])
    return _rotated(y.view(x_ND.shape[0], -1, layer.head_size), layer, rotation)[0]


def leave(
    attended: Tensor, x_ND: Tensor, layer: LayerWeights, out: Rows, gate_up: Rows, down: Rows
) -> Tensor:
    """The next layer's residual stream [N, D]; without gradients."""
    x_ND = layer.out.added_to(x_ND, attended)
    for adapter, start, end in out:
        adapter.add_to(x_ND[start:end], attended[start:end])
    h_ND, _ = rms_norm(x_ND, layer.norm_mid, layer.eps)
    both = layer.gate_up(h_ND)
    for adapter, start, end in gate_up:
        adapter.add_to(both[start:end], h_ND[start:end])
    gate, up = both.chunk(2, dim=1)
    inner_NI = silu(gate).mul_(up)
    x_ND = layer.down.added_to(x_ND, inner_NI)
    for adapter, start, end in down:
        adapter.add_to(x_ND[start:end], inner_NI[start:end])
    return x_ND


def _rotated(
    y_NHE: Tensor, layer: LayerWeights, rotation: Rotation
) -> tuple[Tensor, Tensor | None]:
    """Normalised and rotated heads, in place where nothing is normalised; the factor of the norm."""
    if layer.norm_qk_HE is None:
        rotation.forward_(y_NHE[:, : layer.num_rotated])
        return y_NHE, None
    normed, factor = rms_norm(y_NHE[:, : layer.num_rotated], layer.norm_qk_HE, layer.eps)
    rotation.forward_(normed)
    return torch.cat([normed, y_NHE[:, layer.num_rotated :]], dim=1), factor


@dataclass(slots=True)
class _Saved:
    """Tensors on their way to the backward pass; what adapters keep is a list of lists."""

    tensors: list[Tensor | None]
    nested: list[list[int]]

    @classmethod
    def of(cls, flat: Sequence[Tensor | None], *lists: Sequence[Sequence[Tensor | None]]) -> _Saved:
        tensors, nested = list(flat), []
        for parts in lists:
            nested.append([len(part) for part in parts])
            tensors += [tensor for part in parts for tensor in part]
        return cls(tensors, nested)

    def back(self, tensors: Sequence[Tensor], num_flat: int) -> list[Any]:
        rest = iter(tensors[num_flat:])
        lists = [[[next(rest) for _ in range(n)] for n in sizes] for sizes in self.nested]
        return [*tensors[:num_flat], *lists]


class Enter(torch.autograd.Function):
    """``enter`` with gradients, each run's rows with its adapter."""

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        layer: LayerWeights,
        rotation: Rotation,
        adapters: RowAdapters,
        way_out: Tensor | None,
    ) -> Tensor:
        """Heads [N, H, E]."""
        h_ND, factor = rms_norm(x_ND, layer.norm_in, layer.eps)
        y = layer.qkv(h_ND)
        masks = adapters.masks(h_ND)
        lows = adapters.add_to(y, h_ND, masks)
        y_NHE = y.view(x_ND.shape[0], -1, layer.head_size)
        out_NHE, factor_qk = _rotated(y_NHE, layer, rotation)
        raw = None if factor_qk is None else y_NHE
        saved = _Saved.of([x_ND, factor, h_ND, raw, factor_qk], [lows], masks)
        ctx.save_for_backward(*saved.tensors)
        saved.tensors = []
        ctx.saved, ctx.layer, ctx.rotation, ctx.adapters = saved, layer, rotation, adapters
        return out_NHE

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of x; those of the adapters are written to their places."""
        x_ND, factor, h_ND, raw, factor_qk, (lows,), masks = ctx.saved.back(ctx.saved_tensors, 5)
        layer, num_rotated = ctx.layer, ctx.layer.num_rotated
        grad_NHE = grads[0].clone(memory_format=torch.contiguous_format)
        grad_qk = grad_NHE[:, :num_rotated]
        ctx.rotation.backward_(grad_qk)
        if raw is not None:
            grad_qk.copy_(
                rms_norm_backward(grad_qk, raw[:, :num_rotated], factor_qk, layer.norm_qk_HE)
            )
        grad_y = grad_NHE.view(x_ND.shape[0], -1)
        grad_h = layer.qkv.pulled_back(grad_y) if ctx.needs_input_grad[0] else None
        ctx.adapters.backward(grad_y, grad_h, h_ND, lows, masks)
        if grad_h is not None:
            grad_h = rms_norm_backward(grad_h, x_ND, factor, layer.norm_in)
        return grad_h, None, None, None, None


class Leave(torch.autograd.Function):
    """``leave`` with gradients, each run's rows with its adapter."""

    @staticmethod
    def forward(
        ctx: Any,
        attended: Tensor,
        x_ND: Tensor,
        layer: LayerWeights,
        adapters: TrainedAdapters,
        way_out: Tensor | None,
    ) -> Tensor:
        """The next residual stream [N, D]."""
        masks_out = adapters.out.masks(attended)
        mid_ND = layer.out.added_to(x_ND, attended)
        lows_out = adapters.out.add_to(mid_ND, attended, masks_out)
        h_ND, factor = rms_norm(mid_ND, layer.norm_mid, layer.eps)
        masks_both = adapters.gate_up.masks(h_ND)
        both = layer.gate_up(h_ND)
        lows_both = adapters.gate_up.add_to(both, h_ND, masks_both)
        gate, up = both.chunk(2, dim=1)
        inner_NI = silu(gate).mul_(up)
        masks_down = adapters.down.masks(inner_NI)
        y_ND = layer.down.added_to(mid_ND, inner_NI)
        lows_down = adapters.down.add_to(y_ND, inner_NI, masks_down)
        saved = _Saved.of(
            [attended, mid_ND, factor, h_ND, both, inner_NI],
            [lows_out, lows_both, lows_down],
            masks_out,
            masks_both,
            masks_down,
        )
        ctx.save_for_backward(*saved.tensors)
        saved.tensors = []
        ctx.saved, ctx.layer, ctx.adapters = saved, layer, adapters
        return y_ND

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the attention output and of x; those of the adapters are written to their places."""
        attended, mid_ND, factor, h_ND, both, inner_NI, lows, *masks = ctx.saved.back(
            ctx.saved_tensors, 6
        )
        lows_out, lows_both, lows_down = lows
        masks_out, masks_both, masks_down = masks
        layer, adapters, grad_ND = ctx.layer, ctx.adapters, grads[0]
        grad_inner = layer.down.pulled_back(grad_ND)
        adapters.down.backward(grad_ND, grad_inner, inner_NI, lows_down, masks_down)
        grad_both = _swiglu_backward(grad_inner, both)
        grad_h = layer.gate_up.pulled_back(grad_both)
        adapters.gate_up.backward(grad_both, grad_h, h_ND, lows_both, masks_both)
        grad_mid = rms_norm_backward(grad_h, mid_ND, factor, layer.norm_mid).add_(grad_ND)
        grad_attended = layer.out.pulled_back(grad_mid) if ctx.needs_input_grad[0] else None
        adapters.out.backward(grad_mid, grad_attended, attended, lows_out, masks_out)
        grad_x = grad_mid if ctx.needs_input_grad[1] else None
        return grad_attended, grad_x, None, None, None


def _swiglu_backward(grad_NI: Tensor, both: Tensor) -> Tensor:
    """Gradient of silu(gate)·up with regard to gate and up, side by side as they lie in ``both``."""
    gate, up = both.chunk(2, dim=1)
    grad_both = torch.empty_like(both)
    grad_gate, grad_up = grad_both.chunk(2, dim=1)
    torch.mul(grad_NI, silu(gate), out=grad_up)
    torch.ops.aten.silu_backward.grad_input(grad_NI * up, gate, grad_input=grad_gate)
    return grad_both
