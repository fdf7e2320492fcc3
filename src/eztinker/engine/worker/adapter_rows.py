"""Which rows of a pass have which adapter, and which neighbours are alike: as one batch of small products.

Adapters of one shape on equally many rows each, next to one another, are computed together: the products of
eight runs are eight calls otherwise, which take longer than the arithmetic. What is alike follows from shapes
alone. Knows no layer and no run. Called by ``decoder.py``, which computes so, and by ``micro_batch.py``, which
lays rows out and must tell a replay how they were computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

from eztinker.engine.worker.lora import AdapterWeights, Dropout

Segments = list[tuple[AdapterWeights | None, int, int]]
"""(adapter or None for the bare model, first flat row, end)."""

MAX_BYTES = 2**25
"""Of the adapters computed together: larger ones gain nothing, and are copied side by side for it."""


@dataclass(frozen=True, slots=True)
class AlikeRows:
    """Adapters of one shape on neighbouring stretches of equal length.

    Attributes:
        adapters: one for each stretch.
        start, end: flat rows of all stretches.
        dropouts: on the adapters' inputs, one for each stretch; empty for none.
    """

    adapters: tuple[AdapterWeights, ...]
    start: int
    end: int
    dropouts: tuple[Dropout, ...] = ()

    @property
    def num_each(self) -> int:
        """Rows of one stretch."""
        return (self.end - self.start) // len(self.adapters)


def alike_rows(
    segments: Segments, dropouts: Sequence[Dropout | None] = (), *, may_join: bool = True
) -> list[AlikeRows]:
    """The adapted rows of a pass, in order, with neighbours that are alike taken together.

    Args:
        segments: in order of their rows.
        dropouts: one per segment; empty for none.
        may_join: whether neighbours are taken together at all.
    """
    found: list[AlikeRows] = []
    for (adapter, start, end), dropout in zip(segments, dropouts or repeat(None), strict=False):
        if adapter is None:
            continue
        here = AlikeRows((adapter,), start, end, () if dropout is None else (dropout,))
        if may_join and found and _are_alike(found[-1], here):
            before = found.pop()
            here = AlikeRows(
                before.adapters + here.adapters, before.start, end, before.dropouts + here.dropouts
            )
        found.append(here)
    return found


def _are_alike(before: AlikeRows, here: AlikeRows) -> bool:
    adapter = here.adapters[0]
    return (
        before.end == here.start
        and before.num_each == here.num_each
        and bool(before.dropouts) == bool(here.dropouts)
        and before.adapters[0].shape == adapter.shape
        and (len(before.adapters) + 1) * adapter.leaf_P.nbytes <= MAX_BYTES
    )
