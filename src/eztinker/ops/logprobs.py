"""The vocabulary head, applied in chunks: log-probabilities of targets without a full logits tensor.

Pure tensor functions with backward; they know no model beyond the head's weight. Called by
``engine/worker/trainer.py`` (targets) and ``engine/worker/sampler.py`` (prompt log-probabilities).

Axes: N positions, K targets per position, D hidden size, V vocabulary.

For one position with logits z = W·h + b and p = z_t − log Σ exp z the gradient is
∂p/∂h = W_t − softmax(z)·W. The second term depends on the position only, not on what is later done with
p, so the forward pass computes it while the chunk of logits is at hand: two matrix products per chunk
instead of three, and [N, D] to remember instead of [N, V].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from eztinker.ops.packed_linear import is_better_turned, packed_linear, turned_linear

_CHUNK_ELEMENTS = 4 * 1024 * 1024
"""Logits of one chunk, in float32 elements."""


@dataclass(frozen=True, slots=True)
class Head:
    """A vocabulary head: logits = cap(scale·(W·h + b + lora_scale·B·A·h)) / temperature.

    Attributes:
        weight_VD: W.
        bias_V: b.
        softcap: c in c·tanh(z / c) (Gemma 2); None leaves z alone.
        scale: factor on the logits (Cohere, Granite).
        lora: (A [r, D], B [V, r], scaling) of an adapted head.
        temperature: divides the logits last.
        packed_VD: W laid out for faster products (``packed_linear.py``), or None.
        packed_back_DV: W transposed, laid out in the same way; then both serve passes with gradients too.
        turned_DV: W transposed, for very few rows, beside ``packed_VD``; or None.
    """

    weight_VD: Tensor
    bias_V: Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0
    lora: tuple[Tensor, Tensor, float] | None = None
    temperature: float = 1.0
    packed_VD: Tensor | None = None
    packed_back_DV: Tensor | None = None
    turned_DV: Tensor | None = None

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Float32 logits [N, V]."""
        logits_NV = self.plain_product(hidden_ND, may_pack=not torch.is_grad_enabled())
        if self.lora is not None:
            a, b, scaling = self.lora
            logits_NV = logits_NV + scaling * ((hidden_ND @ a.t()) @ b.t())
        logits_NV = logits_NV.float()
        if self.scale != 1.0:
            logits_NV = logits_NV * self.scale
        if self.softcap is not None:
            logits_NV = self.softcap * torch.tanh(logits_NV / self.softcap)
        return logits_NV if self.temperature == 1.0 else logits_NV / self.temperature

    def plain_product(self, hidden_ND: Tensor, *, may_pack: bool) -> Tensor:
        """W·h + b [N, V]; a packed product has no gradient of its own."""
        if self.packed_VD is None or not may_pack:
            return torch.nn.functional.linear(hidden_ND, self.weight_VD, self.bias_V)
        if self.turned_DV is not None and is_better_turned(len(hidden_ND), self.turned_DV):
            return turned_linear(hidden_ND, self.turned_DV, self.bias_V)
        return packed_linear(hidden_ND, self.packed_VD, self.bias_V)

    def pulled_back(self, grad_NV: Tensor) -> Tensor:
        """Gradient [N, D] of h in W·h, without one of its own."""
        if self.packed_back_DV is None:
            return grad_NV @ self.weight_VD
        return packed_linear(grad_NV, self.packed_back_DV, None)

    @property
    def is_plain(self) -> bool:
        """Whether logits are W·h + b and nothing more."""
        factors_are_one = self.scale == 1.0 and self.temperature == 1.0
        return factors_are_one and self.softcap is None and self.lora is None


def target_logprobs(hidden_ND: Tensor, targets_NK: Tensor, head: Head) -> Tensor:
    """log softmax of the head's logits at the targets, differentiable in hidden (and the head's adapter).

    Args:
        hidden_ND: last hidden states, any float dtype.
        targets_NK: int64 ids [N] or [N, K].
        head: the vocabulary head.

    Returns:
        float32 of the targets' shape.
    """
    targets = targets_NK if targets_NK.ndim == 2 else targets_NK[:, None]
    if head.is_plain:
        p = _PlainTargetLogprobs.apply(hidden_ND, targets, head)
    else:
        chunks = zip(
            hidden_ND.split(_rows_per_chunk(head)),
            targets.split(_rows_per_chunk(head)),
            strict=True,
        )
        parts = [checkpoint(_gathered, h, t, head, use_reentrant=False) for h, t in chunks]
        p = torch.cat(parts) if parts else hidden_ND.new_zeros(targets.shape, dtype=torch.float32)
    return p if targets_NK.ndim == 2 else p[:, 0]


def top_logprobs(hidden_ND: Tensor, head: Head, k: int) -> tuple[Tensor, Tensor]:
    """The k likeliest ids and their log-probabilities per position, best first: two tensors [N, k]."""
    ids, values = [], []
    for h in hidden_ND.split(_rows_per_chunk(head)):
        logits = head.logits(h)
        top = logits.topk(k, dim=-1)
        ids.append(top.indices)
        values.append(top.values - logits.logsumexp(-1, keepdim=True))
    return torch.cat(ids), torch.cat(values)


def _rows_per_chunk(head: Head) -> int:
    return max(16, _CHUNK_ELEMENTS // head.weight_VD.shape[0])


def _gathered(hidden_ND: Tensor, targets_NK: Tensor, head: Head) -> Tensor:
    logits = head.logits(hidden_ND)
    return logits.gather(1, targets_NK) - logits.logsumexp(-1, keepdim=True)


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities, and log Σ exp [N, 1] from the likeliest one's: exp(max) over Σ exp, at least 1/V.

    ``logsumexp`` would read and write the whole chunk three times more.
    """
    probabilities = torch.softmax(logits, dim=-1)
    likeliest = probabilities.amax(dim=-1, keepdim=True)
    return probabilities, logits.amax(dim=-1, keepdim=True).sub_(likeliest.log_())


class _PlainTargetLogprobs(torch.autograd.Function):
    """``target_logprobs`` of a plain head; gradient to the hidden states only (the head is frozen)."""

    @staticmethod
    def forward(ctx, hidden_ND: Tensor, targets_NK: Tensor, head: Head) -> Tensor:
        needs_grad = hidden_ND.requires_grad
        rows = _rows_per_chunk(head)
        p = torch.empty(targets_NK.shape, dtype=torch.float32, device=hidden_ND.device)
        mean_row_ND = torch.empty_like(hidden_ND) if needs_grad else None
        may_pack = not needs_grad or head.packed_back_DV is not None
        for start in range(0, hidden_ND.shape[0], rows):
            part = slice(start, start + rows)
            logits = head.plain_product(hidden_ND[part], may_pack=may_pack).float()
            probabilities, logsumexp = _softmax(logits)
            torch.sub(logits.gather(1, targets_NK[part]), logsumexp, out=p[part])
            if mean_row_ND is not None:
                mean_row_ND[part] = head.pulled_back(probabilities.to(hidden_ND.dtype))
        if mean_row_ND is not None:
            ctx.save_for_backward(targets_NK, head.weight_VD, mean_row_ND)
        return p

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None, None]:
        targets_NK, weight_VD, mean_row_ND = ctx.saved_tensors
        grad_NK = grads[0].to(mean_row_ND.dtype)
        target_rows = weight_VD[targets_NK]  # [N, K, D]
        grad_hidden = torch.bmm(grad_NK[:, None, :], target_rows)[:, 0]
        return (
            grad_hidden.addcmul_(mean_row_ND, grad_NK.sum(1, keepdim=True), value=-1),
            None,
            None,
        )
