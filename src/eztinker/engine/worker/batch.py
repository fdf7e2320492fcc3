"""The rows a base model is generating for, and where each lies in the key-value cache.

Row i of the batch is row i of the cache. Rows of the same adapter lie side by side, so that a decode
step applies each adapter once, and among them those that share a prompt; a row that joins or leaves moves
at most one row of every other such group.
Knows no waiting requests; ``sampler.py`` fills it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eztinker.engine.worker.adapter_rows import Segments
from eztinker.engine.worker.attention import SharedPrompt
from eztinker.engine.worker.drawing import row_params, row_uniforms
from eztinker.engine.worker.kv_cache import KVCache
from eztinker.engine.worker.rows import Row
from eztinker.ops.sampling import RowParams

_STEPS_AHEAD = 16
"""Steps whose random numbers are computed at once: one call costs as much as forty."""


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Random numbers [S, R] of the rows' next steps, by the number of the first row's token."""

    steps: range
    table_SR: Tensor


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows side by side as a pass over them alone sees them: its places count from its first row.

    Attributes:
        rows: of the batch.
        segments, shared: (adapter, first row, end) and shared prompts, of these rows.
        params: how each row is drawn.
    """

    rows: slice
    segments: Segments
    shared: list[SharedPrompt]
    params: RowParams


class Batch:
    """Running rows of one base model."""

    def __init__(self, cache: KVCache, vocab_size: int) -> None:
        self.rows: list[Row] = []
        self._cache = cache
        self._vocab_size = vocab_size
        self._segments: Segments | None = None
        self._stretches: list[Stretch] = []
        self._numbers: _Numbers | None = None

    def insert(self, row: Row) -> int:
        """Put a row beside the others of its adapter; its place. The cache must have room for it."""
        self._changed()
        like = [i for i, other in enumerate(self.rows) if _are_together(row, other)]
        if not like:
            like = [i for i, r in enumerate(self.rows) if r.request.adapter is row.request.adapter]
        place = like[-1] + 1 if like else len(self.rows)
        self.rows.append(row)
        hole = len(self.rows) - 1
        while hole > place:
            first = self._run_start(hole - 1)
            self._move(first, hole)
            hole = first
        self.rows[place] = row
        return place

    def remove(self, place: int) -> None:
        """Take a row out and close the gap."""
        self._changed()
        hole = place
        while True:
            last = self._run_end(hole)
            if last != hole:
                self._move(last, hole)
            if last == len(self.rows) - 1:
                break
            end_of_next = self._run_end(last + 1)
            self._move(end_of_next, last)
            hole = end_of_next
        self.rows.pop()

    def segments(self) -> Segments:
        """(adapter, first row, end) of every stretch of equal adapters."""
        if self._segments is None:
            self._segments = []
            for i, row in enumerate(self.rows):
                adapter = row.request.adapter
                start = i
                if self._segments and self._segments[-1][0] is adapter:
                    start = self._segments.pop()[1]
                self._segments.append((adapter, start, i + 1))
        return self._segments

    def shared_prompts(self) -> list[SharedPrompt]:
        """Rows that share a prompt, and the prompt."""
        shared: list[SharedPrompt] = []
        start = 0
        while start < len(self.rows):
            end = self._run_end(start) + 1
            prompt = self.rows[start].prompt
            if prompt is not None:
                shared.append(SharedPrompt(start, end, prompt))
            start = end
        return shared

    def stretches(self, num: int, device: torch.device) -> list[Stretch]:
        """All rows in so many parts of nearly equal size."""
        if len(self._stretches) != num:
            ends = [len(self.rows) * (i + 1) // num for i in range(num)]
            self._stretches = [
                self._stretch(start, end, device)
                for start, end in zip([0, *ends], ends, strict=False)
            ]
        return self._stretches

    def _stretch(self, start: int, end: int, device: torch.device) -> Stretch:
        rows = self.rows[start:end]
        segments = [
            (adapter, max(first, start) - start, min(last, end) - start)
            for adapter, first, last in self.segments()
            if first < end and last > start
        ]
        shared = [
            SharedPrompt(max(part.start, start) - start, min(part.end, end) - start, part.kv)
            for part in self.shared_prompts()
            if part.start < end and part.end > start
        ]
        params = row_params(rows, self._vocab_size, device)
        return Stretch(slice(start, end), segments, shared, params)

    def uniforms(self, device: torch.device) -> Tensor:
        """The random numbers of the rows' next tokens."""
        # Between two changes of the batch every row grows by one token a step.
        index = len(self.rows[0].tokens)
        if self._numbers is None or index not in self._numbers.steps:
            self._numbers = _Numbers(
                range(index, index + _STEPS_AHEAD),
                torch.from_numpy(row_uniforms(self.rows, _STEPS_AHEAD)).to(device),
            )
        return self._numbers.table_SR[index - self._numbers.steps.start]

    def _changed(self) -> None:
        self._segments = self._numbers = None
        self._stretches = []

    def _move(self, source: int, target: int) -> None:
        self._cache.copy_row(source, target, self.rows[source].num_in_row)
        self.rows[target] = self.rows[source]

    def _run_start(self, place: int) -> int:
        row = self.rows[place]
        while place > 0 and _are_together(self.rows[place - 1], row):
            place -= 1
        return place

    def _run_end(self, place: int) -> int:
        row = self.rows[place]
        while place + 1 < len(self.rows) and _are_together(self.rows[place + 1], row):
            place += 1
        return place


def _are_together(a: Row, b: Row) -> bool:
    return a.request.adapter is b.request.adapter and a.prompt is b.prompt
