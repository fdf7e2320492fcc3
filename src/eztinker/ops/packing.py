"""Sequences of different length as one pass: padded rows when little is wasted, else one packed row.

Plain index arithmetic on numpy arrays. Knows no attention and no loss; called by
``engine/worker/trainer.py`` and ``sampler.py``.

Axes: B rows of the pass, T positions of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Padded rows share one attention call per layer; packed sequences need one each. Up to this share of
# padding the fewer calls win.
_MAX_PADDING = 1.15


@dataclass(frozen=True, slots=True)
class Packing:
    """Where every sequence lies.

    Attributes:
        tokens_BT: int64 ids; padding repeats the sequence's last token.
        positions_BT: int64 position of each token in its sequence.
        lengths: of the sequences, in order.
        starts: flat index (row-major over B, T) of each sequence's first token.
        is_packed: one row that holds all sequences one after another; else one row each.
    """

    tokens_BT: np.ndarray
    positions_BT: np.ndarray
    lengths: list[int]
    starts: list[int]
    is_packed: bool

    def places(self) -> list[tuple[int, int, int]]:
        """(row, first position, length) of each sequence."""
        width = self.tokens_BT.shape[1]
        return [
            (start // width, start % width, length)
            for start, length in zip(self.starts, self.lengths, strict=True)
        ]


def pack(sequences: Sequence[np.ndarray]) -> Packing:
    """Lay out sequences of at least one token each."""
    lengths = [len(sequence) for sequence in sequences]
    width, total = max(lengths), sum(lengths)
    if len(sequences) * width <= _MAX_PADDING * total:
        rows = [np.pad(s, (0, width - len(s)), mode="edge") for s in sequences]
        positions = np.broadcast_to(np.arange(width), (len(rows), width))
        starts = [width * i for i in range(len(rows))]
        return Packing(np.stack(rows).astype(np.int64), positions.copy(), lengths, starts, False)
    tokens = np.concatenate(sequences).astype(np.int64)[None]
    positions = np.concatenate([np.arange(length) for length in lengths])[None]
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).tolist()
    return Packing(tokens, positions, lengths, starts, True)
