"""Training and test rows: seeded, each type in its share, no question on both sides.

Pure. Called by stage 3.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from eztinker.dataset.finance import DistilledRow, normalised_question
from eztinker.errors import InvalidRequestError


def split_rows(
    rows: Sequence[DistilledRow], test_share: float, seed: int
) -> tuple[list[DistilledRow], list[DistilledRow]]:
    """Split rows of different questions.

    Args:
        rows: at least two, no question twice.
        test_share: of all rows, and of each type as nearly as whole rows allow; at least one row on each side.
        seed: of the choice and of the order.

    Raises:
        InvalidRequestError: fewer than two rows, or a question that stands twice.
    """
    keys = {normalised_question(row.question) for row in rows}
    if len(rows) < 2 or len(keys) < len(rows):
        raise InvalidRequestError(
            f"Expected at least two rows of different questions, got {len(rows)} rows of {len(keys)} questions."
        )
    rng = random.Random(seed)  # noqa: S311  no secret
    shuffled = sorted(rows, key=lambda row: row.id)
    rng.shuffle(shuffled)
    # By the share of its type that lies before it, so that any beginning holds the types in their shares.
    sizes = Counter(row.type for row in shuffled)
    passed: Counter[str] = Counter()
    ordered: list[tuple[float, int, DistilledRow]] = []
    for number, row in enumerate(shuffled):
        ordered.append(((passed[row.type] + 0.5) / sizes[row.type], number, row))
        passed[row.type] += 1
    ordered.sort(key=lambda one: one[:2])
    num_test = min(max(1, round(test_share * len(rows))), len(rows) - 1)
    test = [row for _, _, row in ordered[:num_test]]
    train = [row for _, _, row in ordered[num_test:]]
    rng.shuffle(train)
    rng.shuffle(test)
    return train, test
