"""A seeded sample with wanted shares of each question type; types that are short are filled up from the others.

Pure: rows in, rows and a report out. Called by stage 1.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eztinker.dataset.finance import QUESTION_TYPES, RawRow


@dataclass(frozen=True, slots=True)
class Sample:
    """What was drawn.

    Attributes:
        rows: in shuffled order.
        by_type: type -> ``available``, ``wanted``, ``drawn``, ``share``.
        num_refilled: rows taken from other types because a type was short.
    """

    rows: list[RawRow]
    by_type: dict[str, dict[str, Any]]
    num_refilled: int


def stratified_sample(
    kept: Sequence[RawRow],
    others: Sequence[RawRow],
    total: int,
    shares: Mapping[str, float],
    seed: int,
) -> Sample:
    """Draw ``total`` rows, or all there are.

    Args:
        kept: rows that are taken in any case, as far as ``total`` reaches; they count toward the shares.
        others: rows to draw from.
        shares: wanted share of each type; they need not sum to 1.
        seed: of the draw and of the order.
    """
    rng = random.Random(seed)  # noqa: S311  no secret
    first = list(kept)
    if len(first) > total:
        first = rng.sample(first, total)
    pools = {kind: [row for row in others if row.type == kind] for kind in QUESTION_TYPES}
    for pool in pools.values():
        rng.shuffle(pool)
    held = {kind: sum(row.type == kind for row in first) for kind in QUESTION_TYPES}
    goal = min(total, len(first) + len(others))
    wanted = quotas(goal, shares)
    drawn = {kind: min(max(0, wanted[kind] - held[kind]), len(pools[kind])) for kind in pools}
    drawn = _trimmed(drawn, goal - len(first))
    num_drawn = sum(drawn.values())
    drawn = _refilled(drawn, pools, shares, goal - len(first))
    rows = [*first, *(row for kind, pool in pools.items() for row in pool[: drawn[kind]])]
    rng.shuffle(rows)
    report = {
        kind: {
            "available": held[kind] + len(pools[kind]),
            "wanted": wanted[kind],
            "drawn": held[kind] + drawn[kind],
            "share": round((held[kind] + drawn[kind]) / max(1, len(rows)), 4),
        }
        for kind in QUESTION_TYPES
    }
    return Sample(rows, report, sum(drawn.values()) - num_drawn)


def quotas(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers in the proportions of the shares, summing to ``total`` (largest remainders)."""
    whole = sum(shares.values())
    exact = {kind: total * shares.get(kind, 0.0) / whole for kind in QUESTION_TYPES}
    counts = {kind: int(value) for kind, value in exact.items()}
    by_remainder = sorted(exact, key=lambda kind: counts[kind] - exact[kind])
    for kind in by_remainder[: total - sum(counts.values())]:
        counts[kind] += 1
    return counts


def _trimmed(drawn: dict[str, int], room: int) -> dict[str, int]:
    """Less of the largest types where the kept rows have taken more than their share."""
    drawn = dict(drawn)
    while sum(drawn.values()) > room:
        drawn[max(drawn, key=lambda kind: drawn[kind])] -= 1
    return drawn


def _refilled(
    drawn: dict[str, int],
    pools: Mapping[str, Sequence[RawRow]],
    shares: Mapping[str, float],
    goal: int,
) -> dict[str, int]:
    """More of the types that have rows left, in the proportions of their shares, then of any."""
    drawn = dict(drawn)
    while (missing := goal - sum(drawn.values())) > 0:
        left = {kind: len(pools[kind]) - drawn[kind] for kind in pools}
        open_shares = {kind: shares.get(kind, 0.0) for kind in left if left[kind]}
        if sum(open_shares.values()) <= 0:
            open_shares = {kind: float(left[kind]) for kind in left if left[kind]}
        for kind, more in quotas(missing, open_shares).items():
            drawn[kind] += min(more, left[kind])
    return drawn
