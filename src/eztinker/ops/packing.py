"""Sequences of different length as one pass: padded rows when little is wasted, else one packed row.

Plain index arithmetic on numpy arrays. Knows no attention and no loss; called by
the files of ``engine/worker/`` that feed a decoder.

Axes: B rows of the pass, T positions of a row, N = B·T flat rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

# Padded rows share one attention call per layer; packed sequences need one each. Up to this share of
# padding the fewer calls win.
_MAX_PADDING = 1.15
# A shorter beginning is computed as often as it occurs: each stretch costs a call of attention per layer.
MIN_PREFIX = 16
# Share of the tokens that must be saved for the same reason.
_MIN_SAVING = 0.15
# Short, so that attention within a filler costs nothing.
_FILLER_LENGTH = 64


@dataclass(frozen=True, slots=True)
class Packing:
    """Where every sequence lies.

    A sequence is one stretch of neighbouring tokens, or two where it begins like others: a stretch that
    is held once for all of them, then its own.

    Attributes:
        tokens_BT: int64 ids; padding repeats the sequence's last token.
        positions_BT: int64 position of each token in its sequence.
        lengths: of the stretches, in order.
        starts: flat index (row-major over B, T) of each stretch's first token.
        is_packed: one row that holds all stretches one after another; else one row each.
        prefixes: of each stretch, the stretch that comes before it in its sequence, or -1; empty for
            none at all.
        sequences: of each sequence, its stretches; empty where each is one stretch, in order.
    """

    tokens_BT: np.ndarray
    positions_BT: np.ndarray
    lengths: list[int]
    starts: list[int]
    is_packed: bool
    prefixes: list[int] = field(default_factory=list)
    sequences: list[list[int]] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        """Flat rows, N."""
        return self.tokens_BT.size

    def rows_of(self, sequence: int) -> np.ndarray:
        """Flat row of each position of a sequence."""
        stretches = self.sequences[sequence] if self.sequences else [sequence]
        return np.concatenate(
            [np.arange(self.starts[s], self.starts[s] + self.lengths[s]) for s in stretches]
        )

    def places(self) -> list[tuple[int, int, int]]:
        """(row, first position, length) of each stretch."""
        width = self.tokens_BT.shape[1]
        return [
            (start // width, start % width, length)
            for start, length in zip(self.starts, self.lengths, strict=True)
        ]


def pack(sequences: Sequence[np.ndarray], *, may_pad: bool = True) -> Packing:
    """Lay out sequences of at least one token each; one packed row unless ``may_pad``."""
    lengths = [len(sequence) for sequence in sequences]
    width, total = max(lengths), sum(lengths)
    if may_pad and len(sequences) * width <= _MAX_PADDING * total:
        rows = [np.pad(s, (0, width - len(s)), mode="edge") for s in sequences]
        positions = np.broadcast_to(np.arange(width), (len(rows), width))
        starts = [width * i for i in range(len(rows))]
        return Packing(np.stack(rows).astype(np.int64), positions.copy(), lengths, starts, False)
    tokens = np.concatenate(sequences).astype(np.int64)[None]
    positions = np.concatenate([np.arange(length) for length in lengths])[None]
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).tolist()
    return Packing(tokens, positions, lengths, starts, True)


def pack_shared(sequences: Sequence[np.ndarray]) -> Packing | None:
    """One packed row in which neighbours that begin alike hold their common beginning once.

    Returns:
        None where that saves too little.
    """
    groups = _groups_by_prefix(sequences)
    num_tokens = sum(len(sequence) for sequence in sequences)
    saved = sum((len(members) - 1) * length for members, length in groups)
    if saved < _MIN_SAVING * num_tokens:
        return None
    parts: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    prefixes: list[int] = []
    stretches: list[list[int]] = []
    for members, length in groups:
        own_prefix: list[int] = []
        if length:
            own_prefix = [len(parts)]
            parts.append(sequences[members[0]][:length])
            positions.append(np.arange(length))
            prefixes.append(-1)
        for i in members:
            stretches.append([*own_prefix, len(parts)])
            parts.append(sequences[i][length:])
            positions.append(np.arange(length, len(sequences[i])))
            prefixes.append(own_prefix[0] if own_prefix else -1)
    lengths = [len(part) for part in parts]
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).tolist()
    tokens_1N = np.concatenate(parts).astype(np.int64)[None]
    positions_1N = np.concatenate(positions)[None]
    return Packing(tokens_1N, positions_1N, lengths, starts, True, prefixes, stretches)


def inseparable(
    sequences: Sequence[np.ndarray], *, may_share: bool, group_size: int
) -> list[tuple[list[int], int]]:
    """Neighbours that a division must leave together, and about how many rows they take.

    Args:
        sequences: of one pass.
        may_share: those that begin alike belong together.
        group_size: so many neighbours belong together in any case.
    """
    groups = (
        _groups_by_prefix(sequences) if may_share else [([i], 0) for i in range(len(sequences))]
    )
    units: list[tuple[list[int], int]] = []
    for members, shared in groups:
        num_rows = sum(len(sequences[i]) for i in members) - (len(members) - 1) * shared
        if members[0] % group_size and units:
            members, num_rows = units[-1][0] + members, units.pop()[1] + num_rows
        units.append((members, num_rows))
    return units


def common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    """Number of equal tokens at the beginning of both."""
    width = min(len(a), len(b))
    different = np.flatnonzero(a[:width] != b[:width])
    return int(different[0]) if different.size else width


def _groups_by_prefix(sequences: Sequence[np.ndarray]) -> list[tuple[list[int], int]]:
    """Neighbours that begin alike and how many tokens they share; 0 for one alone.

    Every member keeps a token of its own. A neighbour joins while it shares at least half of what the
    others do.
    """
    groups: list[tuple[list[int], int]] = []
    for i, sequence in enumerate(sequences):
        if groups:
            members, shared = groups[-1]
            first = sequences[members[0]]
            now = min(common_prefix(first, sequence), len(first) - 1, len(sequence) - 1)
            if now >= max(MIN_PREFIX, shared / 2):
                members.append(i)
                groups[-1] = members, min(now, shared or now)
                continue
        groups.append(([i], 0))
    return groups


def join(packings: Sequence[Packing]) -> Packing:
    """Packed rows one after another as one."""
    starts: list[int] = []
    prefixes: list[int] = []
    sequences: list[list[int]] = []
    first_row = 0
    for packing in packings:
        first = len(starts)
        own_prefixes = packing.prefixes or [-1] * len(packing.lengths)
        own_sequences = packing.sequences or [[i] for i in range(len(packing.lengths))]
        prefixes += [p + first if p >= 0 else -1 for p in own_prefixes]
        sequences += [[s + first for s in stretches] for stretches in own_sequences]
        starts += [start + first_row for start in packing.starts]
        first_row += packing.num_rows
    return Packing(
        np.concatenate([packing.tokens_BT for packing in packings], axis=1),
        np.concatenate([packing.positions_BT for packing in packings], axis=1),
        [length for packing in packings for length in packing.lengths],
        starts,
        True,
        prefixes if any(p >= 0 for p in prefixes) else [],
        sequences,
    )


def filler(num_rows: int) -> list[Packing]:
    """Rows that mean nothing and stand where another run's were; none for 0."""
    if num_rows == 0:
        return []
    zeros = np.zeros((1, num_rows), np.int64)
    starts = list(range(0, num_rows, _FILLER_LENGTH))
    lengths = [min(_FILLER_LENGTH, num_rows - start) for start in starts]
    return [Packing(zeros, zeros, lengths, starts, True)]
