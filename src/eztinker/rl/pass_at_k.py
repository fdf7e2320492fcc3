"""pass@k: how likely at least one of k answers is right, estimated from more answers than k.

Pure numbers. Called by ``scorecard.py`` and by whoever counts answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from eztinker.errors import InvalidRequestError


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased estimate for one question: 1 − C(n−c, k) / C(n, k) (Chen et al. 2021, arXiv:2107.03374, eq. 1).

    Args:
        num_samples: answers n to the question.
        num_correct: right ones among them, c.
        k: 1 up to n.

    Raises:
        InvalidRequestError: a number is out of range.
    """
    if not (0 <= num_correct <= num_samples and 1 <= k <= num_samples):
        raise InvalidRequestError(
            f"pass@k needs 0 <= correct <= samples and 1 <= k <= samples, got {num_correct} correct of "
            f"{num_samples} and k = {k}.",
            field="k",
        )
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def mean_with_interval(values: Sequence[float], z: float = 1.959964) -> tuple[float, float, float]:
    """Mean over questions and its 95 % interval by the normal approximation, cut to 0 … 1.

    For shares of right answers use ``wilson_interval``; this is for means of estimates such as pass@k.
    """
    if not values:
        raise InvalidRequestError("There is nothing to average.")
    count = len(values)
    mean = sum(values) / count
    variance = sum((value - mean) ** 2 for value in values) / max(1, count - 1)
    half = z * math.sqrt(variance / count)
    return mean, max(0.0, mean - half), min(1.0, mean + half)
