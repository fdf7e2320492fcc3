"""One micro-batch of one run, or of several runs through one model pass.

Each run has its rows, its adapter, its dropout, its loss: what crosses between rows is attention, which
stays inside a sequence. So a run's gradient is the one it would get alone, up to the rounding of products
whose number of rows differs; with the same number of rows, the same place among them and as many adapters
alike beside its own (a *frame*) it is the same to the last bit, whatever the other rows hold. Where there are threads for it a model pass is
computed as two halves side by side (``lanes.py``). Knows no queue; ``pass_group.py`` calls it.

Axes: N flat rows (tokens) of the model pass, D hidden size, P an adapter's numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import itemgetter

import numpy as np
import torch
from torch import Tensor

from eztinker.engine.worker import lanes
from eztinker.engine.worker.adapter_rows import Segments, alike_rows
from eztinker.engine.worker.attention import Layout, PackedLayout, PaddedLayout
from eztinker.engine.worker.devices import is_out_of_memory, threads_for
from eztinker.engine.worker.lora import Dropout
from eztinker.engine.worker.trainer import Frame, RunningPass
from eztinker.errors import NumericalError
from eztinker.ops.packing import Packing, filler, inseparable, join, pack, pack_shared

_FLOPS_PER_NUMBER = 4
"""Of the frozen model and a row: a product forward and one back."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A pass's share of a model pass.

    Attributes:
        members: which sequences of the pass's next micro-batch, by place.
        packing: of these alone.
        first_row: where it begins.
        dropout: of these rows.
    """

    running: RunningPass
    members: list[int]
    packing: Packing
    first_row: int
    dropout: Dropout | None

    @property
    def end_row(self) -> int:
        return self.first_row + self.packing.num_rows

    @property
    def batch(self) -> list[int]:
        """Indices of data."""
        return [self.running.next.batch[place] for place in self.members]


@dataclass(frozen=True, slots=True)
class _Half:
    """What goes through the model in one go: all there is, or a half.

    Attributes:
        packing: of all parts, and of rows that mean nothing in a replay.
        is_lane: to be computed with a half's threads.
        is_shared: several runs' passes are computed together.
        stands_for: rows of a replay on which other runs' adapters were computed together with the one at hand.
    """

    parts: list[_Part]
    packing: Packing
    is_lane: bool
    is_shared: bool = False
    stands_for: tuple[range, ...] = ()

    def adapted(self) -> tuple[Segments, list[Dropout | None]]:
        """Adapters in the order of their rows, and their dropouts; a twin stands for those of other runs."""
        own = [(p.running.adapter, p.first_row, p.end_row, p.dropout) for p in self.parts]
        if self.stands_for:
            twin, dropout = own[0][0].twin(), own[0][3]
            own += [(twin, rows.start, rows.stop, dropout) for rows in self.stands_for]
        in_order = sorted(own, key=itemgetter(1))
        return [(a, start, end) for a, start, end, _ in in_order], [d for *_, d in in_order]

    def frames(self) -> list[list[int]]:
        """Of each part, what a replay has to know."""
        if not self.is_shared:
            return [[] for _ in self.parts]
        num_rows = self.packing.num_rows
        return [
            Frame(first_row, num_rows, self.is_lane, alike.start, len(alike.adapters)).numbers()
            for alike in alike_rows(*self.adapted())
            for first_row in range(alike.start, alike.end, alike.num_each)
        ]


@dataclass(frozen=True, slots=True)
class _Scored:
    """Loss of one part, and its gradients with regard to the hidden states and, by the head, to the adapter."""

    loss: float
    logprobs: list[np.ndarray]
    grad_hidden_ND: Tensor | None
    grad_head_P: Tensor | None


@dataclass(frozen=True, slots=True)
class _Computed:
    """What became of a part.

    Attributes:
        gradient_P: flat; None without gradients.
        frame: as ``Planned`` says.
    """

    part: _Part
    result: _Scored | Exception
    gradient_P: Tensor | None
    frame: list[int]


def compute(passes: Sequence[RunningPass]) -> list[Exception | None]:
    """Compute the next micro-batch of each pass; what failed is a matter of that pass alone.

    Args:
        passes: of one decoder, all with gradients or none, all checkpointing or none.

    Returns:
        For each pass its failure, or None: its micro-batch has been added.

    Raises:
        Exception: memory ran out, or the model itself failed; no pass has changed.
    """
    halves = _lay_out(passes)
    if halves[0].is_lane:
        found = lanes.side_by_side([partial(_computed, half) for half in halves])
    else:
        num_flops = (
            _FLOPS_PER_NUMBER * passes[0].decoder.num_parameters * halves[0].packing.num_rows
        )
        with threads_for(num_flops):
            found = [_computed(halves[0])]
    computed = [part for parts in found for part in parts]
    return [_add(running, [c for c in computed if c.part.running is running]) for running in passes]


def _add(running: RunningPass, parts: Sequence[_Computed]) -> Exception | None:
    """Add what the parts of a pass gave, or say why not."""
    loss, logprobs = 0.0, [np.zeros(0, np.float32)] * len(running.next.batch)
    for computed in parts:
        if isinstance(computed.result, Exception):
            return computed.result
        loss += computed.result.loss
        for place, values in zip(computed.part.members, computed.result.logprobs, strict=True):
            logprobs[place] = values
    gradients = [c.gradient_P for c in parts if c.gradient_P is not None]
    gradient_P = reduce(torch.add, gradients) if gradients else None
    running.add(loss, logprobs, gradient_P, running.next.frame or parts[0].frame)
    return None


def _computed(half: _Half) -> list[_Computed]:
    parts = half.parts
    with torch.set_grad_enabled(parts[0].running.with_gradient):
        hidden_ND = _hidden(half)
        scored = [_scored(part, hidden_ND) for part in parts]
        gradients = _gradients(parts, hidden_ND, scored)
    return [
        _Computed(part, result, gradient_P, frame)
        for part, result, gradient_P, frame in zip(
            parts, scored, gradients, half.frames(), strict=True
        )
    ]


def _lay_out(passes: Sequence[RunningPass]) -> list[_Half]:
    """Where everything lies; a replayed share of a common pass gets the rows and the threads it had."""
    if len(passes) == 1:
        running = passes[0]
        return [_framed(running)] if running.next.frame else _alone(running)
    # Those that are alike lie side by side.
    order = sorted(passes, key=lambda running: (running.adapter.flat_P.numel(), running.num_tokens))
    parts = [_whole(running, may_pad=False) for running in order]
    places = [list(range(len(parts)))]
    if all(_may_divide(running) for running in passes):
        places = lanes.divided([part.packing.num_rows for part in parts])
    halves = [_half([parts[i] for i in half], is_lane=len(places) > 1) for half in places]
    return [replace(half, is_shared=True) for half in halves]


def _alone(running: RunningPass) -> list[_Half]:
    sequences = running.sequences
    if _may_divide(running):
        units = inseparable(
            sequences, may_share=running.dropout is None, group_size=running.loss.group_size
        )
        places = lanes.divided([num_rows for _, num_rows in units])
        if len(places) > 1:
            members = [[m for place in half for m in units[place][0]] for half in places]
            return [_half([_some(running, own)], is_lane=True) for own in members]
    return [_half([_whole(running, may_pad=True)], is_lane=False)]


def _framed(running: RunningPass) -> _Half:
    frame = Frame.of(running.next.frame)
    part = replace(_whole(running, may_pad=False), first_row=frame.first_row)
    rest = frame.num_rows - part.end_row
    packing = join([*filler(frame.first_row), part.packing, *filler(rest)])
    others = frame.others_alike(part.packing.num_rows)
    return _Half([part], packing, frame.is_lane, stands_for=others)


def _half(parts: Sequence[_Part], *, is_lane: bool) -> _Half:
    """Parts one after another."""
    if len(parts) == 1:
        return _Half(list(parts), parts[0].packing, is_lane)
    ends = np.cumsum([part.packing.num_rows for part in parts]).tolist()
    placed = [
        replace(p, first_row=end - p.packing.num_rows) for p, end in zip(parts, ends, strict=True)
    ]
    return _Half(placed, join([part.packing for part in parts]), is_lane)


def _may_divide(running: RunningPass) -> bool:
    return running.decoder.can_run_beside_itself and running.loss.is_built_in


def _whole(running: RunningPass, *, may_pad: bool) -> _Part:
    """All of a micro-batch. Common beginnings are held once; with dropout every sequence has its own numbers
    there."""
    sequences = running.sequences
    shared = pack_shared(sequences) if running.dropout is None else None
    packing = shared or pack(sequences, may_pad=may_pad)
    return _Part(running, list(range(len(sequences))), packing, 0, running.dropout)


def _some(running: RunningPass, members: list[int]) -> _Part:
    """Some sequences of a micro-batch, with the dropout that their rows have in the whole."""
    sequences = [running.sequences[member] for member in members]
    if running.dropout is None:
        packing = pack_shared(sequences) or pack(sequences)
        return _Part(running, members, packing, 0, None)
    whole = pack(running.sequences, may_pad=False)
    rows = torch.from_numpy(np.concatenate([whole.rows_of(member) for member in members]))
    dropout = replace(running.dropout, rows_N=rows, num_rows=whole.num_rows)
    return _Part(running, members, pack(sequences, may_pad=False), 0, dropout)


def _hidden(half: _Half) -> Tensor:
    packing, running = half.packing, half.parts[0].running
    decoder, (segments, dropouts) = running.decoder, half.adapted()
    layout: Layout = (
        PackedLayout(packing.lengths, packing.prefixes) if packing.is_packed else PaddedLayout()
    )
    hidden = decoder.hidden(
        torch.from_numpy(packing.tokens_BT).to(decoder.device),
        torch.from_numpy(packing.positions_BT).to(decoder.device),
        layout,
        segments,
        dropouts=dropouts,
        checkpointing=running.checkpointing,
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
    rows = [part.packing.rows_of(number) for number in range(len(part.members))]
    value, logprobs = loss(own_ND, part.batch, rows)
    number = float(value.detach())
    if not np.isfinite(number):
        raise NumericalError(
            f"The loss is {number}; nothing was added to the run. Look for extreme weights, advantages or "
            "logprobs in the data, or lower the learning rate."
        )
    if not value.requires_grad:
        return _Scored(number, logprobs, None, None)
    grad_hidden, *grads_head = torch.autograd.grad(
        value * loss.factor, [own_ND, *loss.head_leaves], allow_unused=True
    )
    return _Scored(number, logprobs, grad_hidden, *(grads_head or [None]))


def _gradients(
    parts: Sequence[_Part], hidden_ND: Tensor, scored: Sequence[_Scored | Exception]
) -> list[Tensor | None]:
    """Gradient of each part, float32; None without gradients. Rows of a part that failed pull at nothing."""
    if not parts[0].running.with_gradient:
        return [None] * len(parts)
    leaves = [part.running.adapter.leaf_P for part in parts]
    found: Sequence[Tensor | None] = [None] * len(leaves)
    pull_ND = _pull(parts, hidden_ND, scored)
    if pull_ND is not None and hidden_ND.requires_grad:
        found = torch.autograd.grad(hidden_ND, leaves, pull_ND, allow_unused=True)
    gradients: list[Tensor | None] = []
    for leaf_P, gradient_P, result in zip(leaves, found, scored, strict=True):
        by_head_P = result.grad_head_P if isinstance(result, _Scored) else None
        ways = [way_P for way_P in (gradient_P, by_head_P) if way_P is not None]
        gradients.append(reduce(torch.add, ways or [torch.zeros_like(leaf_P)]).float())
    return gradients


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
