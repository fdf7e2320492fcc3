"""Causal attention of packed sequences in float32 on a CPU, its gradient written out by hand.

SDPA's backward pass computes the scores again and runs at half the speed of products. Here sequences of
middling length keep their probabilities and are products block by block; short ones, and those whose
probabilities would take too much memory, stay with SDPA's kernels. Queries, keys and values come as the
layer has them and their gradients go back in one tensor, without splitting and joining. Knows no adapters
and no requests. Called by ``decoder.py``.

Axes: N flat rows (tokens) of a pass, H query heads, G key-value heads, E head size, T tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from eztinker.engine.worker.attention import PackedLayout, Variant

SHORTEST_KEPT, LONGEST_KEPT = 160, 512
"""Tokens of a sequence whose probabilities are kept: there it pays, and there is room."""
_BLOCK = 64
"""Queries at a time: few scores beyond the diagonal are computed in vain."""

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def can_attend(heads_NHE: Tensor, layout: PackedLayout, variant: Variant) -> bool:
    """Whether a pass is covered; common beginnings are not, where SDPA is as fast."""
    window = variant.sliding_window
    return (
        heads_NHE.dtype == torch.float32
        and heads_NHE.device.type == "cpu"
        and not layout.has_prefixes
        and variant.softcap is None
        and (window is None or max(layout.lengths) <= window)
    )


def packed_attention(heads_NHE: Tensor, num_q: int, lengths: Sequence[int]) -> Tensor:
    """Attention output [N, H·E], scaled by 1/sqrt(E).

    Args:
        heads_NHE: queries, keys and values [N, H + 2·G, E].
        num_q: H.
        lengths: of the sequences, one after another.
    """
    return _PackedAttention.apply(heads_NHE, num_q, _groups(lengths))


@dataclass(frozen=True, slots=True)
class _Group:
    """Sequences of equal length, one after another.

    Attributes:
        start, end: rows.
        length: of each sequence.
    """

    start: int
    end: int
    length: int

    @property
    def is_kept(self) -> bool:
        return SHORTEST_KEPT <= self.length <= LONGEST_KEPT


def _groups(lengths: Sequence[int]) -> list[_Group]:
    """SDPA takes neighbours of equal length in one call."""
    groups, start = [], 0
    for length, members in groupby(lengths):
        end = start + length * len(list(members))
        if SHORTEST_KEPT <= length <= LONGEST_KEPT:
            groups += [_Group(s, s + length, length) for s in range(start, end, length)]
        else:
            groups.append(_Group(start, end, length))
        start = end
    return groups


class _PackedAttention(torch.autograd.Function):
    """``packed_attention``; keeps probabilities or, for SDPA, the sums of the softmax."""

    @staticmethod
    def forward(ctx: Any, heads_NHE: Tensor, num_q: int, groups: Sequence[_Group]) -> Tensor:
        num_rows, _, size = heads_NHE.shape
        out_NHE = heads_NHE.new_empty(num_rows, num_q, size)
        kept: list[Tensor] = []
        for group in groups:
            if group.is_kept:
                kept += _blocks(heads_NHE, out_NHE, group)
            else:
                q, k, v = _batched(heads_NHE, group, num_q)
                out, log_sums = _flash(q, k, v, 0.0, group.length > 1)
                _rows(out_NHE, group).copy_(out.transpose(1, 2))
                kept.append(log_sums)
        ctx.save_for_backward(heads_NHE, out_NHE, *kept)
        ctx.groups = groups
        return out_NHE.view(num_rows, -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        heads_NHE, out_NHE, *kept = ctx.saved_tensors
        grad_out = grads[0].reshape(out_NHE.shape)
        grad_NHE = torch.empty_like(heads_NHE)
        delta_NH = torch.linalg.vecdot(grad_out, out_NHE)
        place = 0
        for group in ctx.groups:
            if group.is_kept:
                num = -(-group.length // _BLOCK)
                _blocks_backward(
                    grad_NHE, grad_out, delta_NH, heads_NHE, kept[place : place + num], group
                )
                place += num
            else:
                _flash_group_backward(grad_NHE, grad_out, heads_NHE, out_NHE, kept[place], group)
                place += 1
        return grad_NHE, None, None


def _rows(tensor_NHE: Tensor, group: _Group) -> Tensor:
    """The rows of a group, sequence by sequence [sequences, T, heads, E]."""
    return tensor_NHE[group.start : group.end].unflatten(0, (-1, group.length))


def _batched(heads_NHE: Tensor, group: _Group, num_q: int) -> Sequence[Tensor]:
    """Queries, keys and values of a group [sequences, heads, T, E]."""
    num_kv = (heads_NHE.shape[1] - num_q) // 2
    return _rows(heads_NHE, group).transpose(1, 2).split((num_q, num_kv, num_kv), dim=1)


def _flash_group_backward(
    grad_NHE: Tensor,
    grad_out: Tensor,
    heads_NHE: Tensor,
    out_NHE: Tensor,
    log_sums: Tensor,
    group: _Group,
) -> None:
    grad, out = (_rows(x, group).transpose(1, 2) for x in (grad_out, out_NHE))
    q, k, v = _batched(heads_NHE, group, out_NHE.shape[1])
    gradients = _flash_backward(grad, q, k, v, out, log_sums, 0.0, group.length > 1)
    targets = _batched(grad_NHE, group, out_NHE.shape[1])
    for target, gradient in zip(targets, gradients, strict=True):
        target.copy_(gradient)


def _keys_values(heads_NHE: Tensor, group: _Group, num_q: int) -> tuple[Tensor, Tensor]:
    """Keys and values [G, T, E] of one sequence."""
    k, v = heads_NHE[group.start : group.end, num_q:].transpose(0, 1).chunk(2)
    return k, v


def _grouped(rows_THE: Tensor, num_kv: int) -> Tensor:
    """Rows of query heads as rows of their key-value head [G, H/G·T, E]."""
    return rows_THE.transpose(0, 1).reshape(num_kv, -1, rows_THE.shape[-1])


def _ungrouped(grouped: Tensor, num_q: int) -> Tensor:
    """The inverse of ``_grouped`` [T, H, E]."""
    return grouped.reshape(num_q, -1, grouped.shape[-1]).transpose(0, 1)


def _blocks(heads_NHE: Tensor, out_NHE: Tensor, group: _Group) -> list[Tensor]:
    """Output of one sequence; the probabilities of each block of queries."""
    num_q, scale = out_NHE.shape[1], heads_NHE.shape[-1] ** -0.5
    k, v = _keys_values(heads_NHE, group, num_q)
    kept = []
    for start in range(group.start, group.end, _BLOCK):
        end = min(group.end, start + _BLOCK)
        num, seen = end - start, end - group.start
        queries = _grouped(heads_NHE[start:end, :num_q], k.shape[0]) * scale
        scores = torch.bmm(queries, k[:, :seen].transpose(1, 2))
        scores.view(-1, num, seen)[..., -num:].masked_fill_(_later(num), -torch.inf)
        kept.append(torch.softmax(scores, dim=-1))
        out_NHE[start:end] = _ungrouped(torch.bmm(kept[-1], v[:, :seen]), num_q)
    return kept


def _blocks_backward(
    grad_NHE: Tensor,
    grad_out: Tensor,
    delta_NH: Tensor,
    heads_NHE: Tensor,
    kept: Sequence[Tensor],
    group: _Group,
) -> None:
    """Gradients of one sequence.

    Dao et al. 2022 (arXiv:2205.14135), appendix B.2: with p the probabilities, o the output and d its
    gradient, the gradient of the scores is p·(d·v - d·o).
    """
    num_q, scale = grad_out.shape[1], heads_NHE.shape[-1] ** -0.5
    k, v = _keys_values(heads_NHE, group, num_q)
    grad_k, grad_v = (torch.zeros(x.shape) for x in (k, v))
    for start, p in zip(range(group.start, group.end, _BLOCK), kept, strict=True):
        end = min(group.end, start + _BLOCK)
        seen = end - group.start
        queries = _grouped(heads_NHE[start:end, :num_q], k.shape[0]) * scale
        grad = _grouped(grad_out[start:end], k.shape[0])
        delta = _grouped(delta_NH[start:end, :, None], k.shape[0])
        grad_v[:, :seen].baddbmm_(p.transpose(1, 2), grad)
        grad_scores = torch.bmm(grad, v[:, :seen].transpose(1, 2)).sub_(delta).mul_(p)
        grad_k[:, :seen].baddbmm_(grad_scores.transpose(1, 2), queries)
        grad_q = torch.bmm(grad_scores, k[:, :seen]).mul_(scale)
        grad_NHE[start:end, :num_q] = _ungrouped(grad_q, num_q)
    grad_NHE[group.start : group.end, num_q:] = torch.cat([grad_k, grad_v]).transpose(0, 1)


@cache
def _later(num: int) -> Tensor:
    """True where a key comes after its query [num, num]."""
    return torch.ones(num, num, dtype=torch.bool).triu_(1)
