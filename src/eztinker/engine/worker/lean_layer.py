"""One layer of the Llama family as two steps of the graph, with gradients written out by hand.

``enter`` leads from the residual stream to rotated queries, keys and values; ``leave`` from the output of
attention through the output projection and the SwiGLU block back to the residual stream. Attention lies
between them and is not known here, nor are runs or requests. Called by ``decoder.py``.

Step by step such a layer is about forty small operations, whose bookkeeping in autograd costs several
times the arithmetic where a pass is small. Base weights are frozen: gradients are those of the residual
stream, of attention and of the adapters' A and B.

Axes: N flat rows (tokens) of a pass, D hidden size, H heads of queries, keys and values together,
E head size, I inner size of the SwiGLU block, K rank times number of projections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from eztinker.engine.worker.lora import AdapterWeights, Dropout


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
        total_NO = torch.addmm(y_NO, x_ND, self.weight.t())
        return total_NO if self.bias is None else total_NO.add_(self.bias)

    def pulled_back(self, grad_NO: Tensor) -> Tensor:
        """Gradient of the input."""
        return grad_NO @ self.weight


class GroupAdapter:
    """What one adapter adds to a projection; parts without an adapter are left out.

    The A of all parts lie one below the other, the B (times the scaling) in the blocks of one matrix that
    is zero elsewhere. That multiplies a few zeros, and is one product instead of one for each part: ranks
    are small, and a product with few columns costs its call.

    Attributes:
        leaves: A and B of each adapted part, in turn; what gradients are taken of.
    """

    __slots__ = ("_a_KD", "_b_OK", "_parts", "_scaling", "leaves")

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
            self._b_OK = self._a_KD.new_zeros(projection.num_outputs, num_low)
            for (_, outputs, low), b in zip(self._parts, self.leaves[1::2], strict=True):
                torch.mul(b.detach(), self._scaling, out=self._b_OK[outputs, low])

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
        y.addmm_(low_NK, self._b_OK.t())
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
        grad_low_NK = grad_y @ self._b_OK
        grad_b_OK = (grad_y.t() @ low_NK).mul_(self._scaling)
        grads_b = [grad_b_OK[outputs, low] for _, outputs, low in self._parts]
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
"""(adapter, first flat row, end); for sampling, where several adapters share a pass."""


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
        swapped = x_NHE.roll(x_NHE.shape[-1] // 2, -1)
        x_NHE.mul_(self.cos_N1E).addcmul_(swapped, self.sin_N1E)

    def backward_(self, grad_NHE: Tensor) -> None:
        """Rotate back in place."""
        swapped = grad_NHE.roll(grad_NHE.shape[-1] // 2, -1)
        grad_NHE.mul_(self.cos_N1E).addcmul_(swapped, self.sin_N1E, value=-1)


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
    """One adapter in one layer, a group for each projection."""

    qkv: GroupAdapter
    out: GroupAdapter
    gate_up: GroupAdapter
    down: GroupAdapter


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


class Enter(torch.autograd.Function):
    """``enter`` of one adapter, with gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        layer: LayerWeights,
        rotation: Rotation,
        adapter: GroupAdapter,
        dropout: Dropout | None,
        *leaves: Tensor,
    ) -> Tensor:
        """Heads [N, H, E]."""
        h_ND, factor = rms_norm(x_ND, layer.norm_in, layer.eps)
        y = layer.qkv(h_ND)
        masks = adapter.masks(h_ND, dropout)
        low = adapter.add_to(y, h_ND, masks)
        y_NHE = y.view(x_ND.shape[0], -1, layer.head_size)
        out_NHE, factor_qk = _rotated(y_NHE, layer, rotation)
        raw = None if factor_qk is None else y_NHE
        ctx.save_for_backward(x_ND, factor, h_ND, low, raw, factor_qk, *masks)
        ctx.layer, ctx.rotation, ctx.adapter = layer, rotation, adapter
        return out_NHE

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x and of the leaves."""
        x_ND, factor, h_ND, low, raw, factor_qk, *masks = ctx.saved_tensors
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
        leaves = ctx.adapter.backward(grad_y, grad_h, h_ND, low, masks)
        if grad_h is not None:
            grad_h = rms_norm_backward(grad_h, x_ND, factor, layer.norm_in)
        return grad_h, None, None, None, None, *leaves


class Leave(torch.autograd.Function):
    """``leave`` of one adapter, with gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        attended: Tensor,
        x_ND: Tensor,
        layer: LayerWeights,
        adapters: LayerAdapters,
        dropout: Dropout | None,
        *leaves: Tensor,
    ) -> Tensor:
        """The next residual stream [N, D]."""
        masks_out = adapters.out.masks(attended, dropout)
        mid_ND = layer.out.added_to(x_ND, attended)
        low_out = adapters.out.add_to(mid_ND, attended, masks_out)
        h_ND, factor = rms_norm(mid_ND, layer.norm_mid, layer.eps)
        masks_both = adapters.gate_up.masks(h_ND, dropout)
        both = layer.gate_up(h_ND)
        low_both = adapters.gate_up.add_to(both, h_ND, masks_both)
        gate, up = both.chunk(2, dim=1)
        inner_NI = silu(gate).mul_(up)
        masks_down = adapters.down.masks(inner_NI, dropout)
        y_ND = layer.down.added_to(mid_ND, inner_NI)
        low_down = adapters.down.add_to(y_ND, inner_NI, masks_down)
        ctx.save_for_backward(
            attended, low_out, mid_ND, factor, h_ND, low_both, both, inner_NI, low_down,
            *masks_out, *masks_both, *masks_down,
        )  # fmt: skip
        ctx.layer, ctx.adapters = layer, adapters
        ctx.num_masks = len(masks_out), len(masks_both)
        return y_ND

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the attention output, of x and of the leaves."""
        (attended, low_out, mid_ND, factor, h_ND, low_both, both, inner_NI, low_down,
         *masks) = ctx.saved_tensors  # fmt: skip
        layer, adapters, (num_out, num_both) = ctx.layer, ctx.adapters, ctx.num_masks
        grad_ND = grads[0]
        masks_out, masks_both = masks[:num_out], masks[num_out : num_out + num_both]
        grad_inner = layer.down.pulled_back(grad_ND)
        leaves_down = adapters.down.backward(
            grad_ND, grad_inner, inner_NI, low_down, masks[num_out + num_both :]
        )
        grad_both = _swiglu_backward(grad_inner, both)
        grad_h = layer.gate_up.pulled_back(grad_both)
        leaves_both = adapters.gate_up.backward(grad_both, grad_h, h_ND, low_both, masks_both)
        grad_mid = rms_norm_backward(grad_h, mid_ND, factor, layer.norm_mid).add_(grad_ND)
        grad_attended = layer.out.pulled_back(grad_mid) if ctx.needs_input_grad[0] else None
        leaves_out = adapters.out.backward(grad_mid, grad_attended, attended, low_out, masks_out)
        grad_x = grad_mid if ctx.needs_input_grad[1] else None
        return grad_attended, grad_x, None, None, None, *leaves_out, *leaves_both, *leaves_down


def _swiglu_backward(grad_NI: Tensor, both: Tensor) -> Tensor:
    """Gradient of silu(gate)·up with regard to gate and up, side by side as they lie in ``both``."""
    gate, up = both.chunk(2, dim=1)
    grad_both = torch.empty_like(both)
    grad_gate, grad_up = grad_both.chunk(2, dim=1)
    torch.mul(grad_NI, silu(gate), out=grad_up)
    torch.ops.aten.silu_backward.grad_input(grad_NI * up, gate, grad_input=grad_gate)
    return grad_both
