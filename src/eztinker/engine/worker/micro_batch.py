"""One micro-batch of one run, or of several runs through one model pass.

Each run has its rows, its adapter, its dropout, its loss: what crosses between rows is attention, which
stays inside a sequence. So a run's gradient is the one it would get alone, up to the rounding of products
whose number of rows differs; with the same number of rows and the same place among them (a *frame*) it is
the same to the last bit, whatever the other rows hold. Knows no queue; ``pass_group.py`` calls it.

Axes: N flat rows (tokens) of the model pass, D hidden size, P an adapter's numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eztinker.engine.worker.attention import Layout, PackedLayout, PaddedLayout
from eztinker.engine.worker.devices import is_out_of_memory
from eztinker.engine.worker.trainer import RunningPass
from eztinker.errors import NumericalError
from eztinker.ops.packing import Packing, filler, join, pack, pack_shared


@dataclass(frozen=True, slots=True)
class _Part:
    """A pass's share of the model pass.

    Attributes:
        packing: of its sequences alone.
        first_row: where it begins.
    """

    running: RunningPass
    packing: Packing
    first_row: int

    @property
    def end_row(self) -> int:
        return self.first_row + self.packing.num_rows


@dataclass(frozen=True, slots=True)
class _Scored:
    """Loss of one part, and its gradients with regard to the hidden states and the head's adapter."""

    loss: float
    logprobs: list[np.ndarray]
    grad_hidden_ND: Tensor | None
    grads_head: Sequence[Tensor | None]


def compute(passes: Sequence[RunningPass]) -> list[Exception | None]:
    """Compute the next micro-batch of each pass; what failed is a matter of that pass alone.

    Args:
        passes: of one decoder, all with gradients or none, all checkpointing or none.

    Returns:
        For each pass its failure, or None: its micro-batch has been added.

    Raises:
        Exception: memory ran out, or the model itself failed; no pass has changed.
    """
    parts, packing = _lay_out(passes)
    with torch.set_grad_enabled(passes[0].with_gradient):
        hidden_ND = _hidden(parts, packing)
        scored = [_scored(part, hidden_ND) for part in parts]
        gradients = _gradients(parts, hidden_ND, scored)
    failures: list[Exception | None] = []
    for part, result, gradient_P in zip(parts, scored, gradients, strict=True):
        if isinstance(result, _Scored):
            frame = [] if len(passes) == 1 else [part.first_row, packing.num_rows]
            frame = part.running.next.frame or frame
            part.running.add(result.loss, result.logprobs, gradient_P, frame)
            failures.append(None)
        else:
            failures.append(result)
    return failures


def _lay_out(passes: Sequence[RunningPass]) -> tuple[list[_Part], Packing]:
    """Where everything lies; a replayed share of a common pass gets the rows it had."""
    if len(passes) == 1:
        frame = passes[0].next.frame
        own = _packed(passes[0], may_pad=not frame)
        if not frame:
            return [_Part(passes[0], own, 0)], own
        first_row, num_rows = frame
        rest = num_rows - first_row - own.num_rows
        framed = join([*filler(first_row), own, *filler(rest)])
        return [_Part(passes[0], own, first_row)], framed
    packings = [_packed(running, may_pad=False) for running in passes]
    first_rows = np.concatenate([[0], np.cumsum([p.num_rows for p in packings])[:-1]]).tolist()
    parts = [_Part(*part) for part in zip(passes, packings, first_rows, strict=True)]
    return parts, join(packings)


def _packed(running: RunningPass, *, may_pad: bool) -> Packing:
    """Common beginnings are held once; with dropout every sequence has its own numbers there."""
    shared = pack_shared(running.sequences) if running.dropout is None else None
    return shared or pack(running.sequences, may_pad=may_pad)


def _hidden(parts: Sequence[_Part], packing: Packing) -> Tensor:
    decoder = parts[0].running.decoder
    layout: Layout = (
        PackedLayout(packing.lengths, packing.prefixes) if packing.is_packed else PaddedLayout()
    )
    hidden = decoder.hidden(
        torch.from_numpy(packing.tokens_BT).to(decoder.device),
        torch.from_numpy(packing.positions_BT).to(decoder.device),
        layout,
        [(part.running.adapter, part.first_row, part.end_row) for part in parts],
        dropouts=[part.running.dropout for part in parts],
        checkpointing=parts[0].running.checkpointing,
    )
    return hidden.reshape(-1, hidden.shape[-1])


def _scored(part: _Part, hidden_ND: Tensor) -> _Scored | Exception:
    try:
        return _score(part, hidden_ND)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return error


def _score(part: _Part, hidden_ND: Tensor) -> _Scored:
    running, loss = part.running, part.running.loss
    own_ND = hidden_ND.detach()[part.first_row : part.end_row]
    own_ND.requires_grad_(running.with_gradient)
    batch = running.next.batch
    rows = [part.packing.rows_of(number) for number in range(len(batch))]
    value, logprobs = loss(own_ND, batch, rows)
    number = float(value.detach())
    if not np.isfinite(number):
        raise NumericalError(
            f"The loss is {number}; nothing was added to the run. Look for extreme weights, advantages or "
            "logprobs in the data, or lower the learning rate."
        )
    if not value.requires_grad:
        return _Scored(number, logprobs, None, [])
    grad_hidden, *grads_head = torch.autograd.grad(
        value * loss.factor, [own_ND, *loss.head_leaves], allow_unused=True
    )
    return _Scored(number, logprobs, grad_hidden, grads_head)


def _gradients(
    parts: Sequence[_Part], hidden_ND: Tensor, scored: Sequence[_Scored | Exception]
) -> list[Tensor | None]:
    """Flat gradient of each part; None without gradients. Rows of a part that failed pull at nothing."""
    if not parts[0].running.with_gradient:
        return [None] * len(parts)
    leaves = [leaf for part in parts for leaf in part.running.adapter.leaves]
    found: list[Tensor | None] = [None] * len(leaves)
    pull_ND = _pull(parts, hidden_ND, scored)
    if pull_ND is not None and hidden_ND.requires_grad:
        found = list(torch.autograd.grad(hidden_ND, leaves, pull_ND, allow_unused=True))
    flat, start = [], 0
    for part, result in zip(parts, scored, strict=True):
        own_leaves = part.running.adapter.leaves
        own = found[start : start + len(own_leaves)]
        start += len(own_leaves)
        if isinstance(result, _Scored):
            _add_head(own, part, result)
        flat.append(_flat(own, own_leaves))
    return flat


def _pull(
    parts: Sequence[_Part], hidden_ND: Tensor, scored: Sequence[_Scored | Exception]
) -> Tensor | None:
    """Gradient of all losses with regard to the hidden states."""
    own = [result.grad_hidden_ND if isinstance(result, _Scored) else None for result in scored]
    if all(gradient is None for gradient in own):
        return None
    first = own[0]
    if first is not None and first.shape == hidden_ND.shape:
        return first
    pull_ND = torch.zeros_like(hidden_ND)
    for part, gradient in zip(parts, own, strict=True):
        if gradient is not None:
            pull_ND[part.first_row : part.end_row] = gradient
    return pull_ND


def _add_head(gradients: list[Tensor | None], part: _Part, scored: _Scored) -> None:
    leaves = part.running.adapter.leaves
    for head_leaf, gradient in zip(part.running.loss.head_leaves, scored.grads_head, strict=False):
        place = next(i for i, leaf in enumerate(leaves) if leaf is head_leaf)
        gradients[place] = gradient


def _flat(gradients: Sequence[Tensor | None], leaves: Sequence[Tensor]) -> Tensor:
    filled = [
        torch.zeros_like(leaf) if gradient is None else gradient
        for gradient, leaf in zip(gradients, leaves, strict=True)
    ]
    return torch.cat([gradient.flatten() for gradient in filled]).float()
