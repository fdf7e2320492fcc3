"""pass@k: how likely at least one of k answers is right, estimated from more answers than k.

Pure numbers. Called by ``scorecard.py`` and by whoever counts answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from eztinker.errors import InvalidRequestError
from eztinker.rl.evaluation import wilson_interval


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


def mean_with_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean over questions of estimates from 0 to 1, such as pass@k, and a 95 % interval of it.

    The interval is Wilson's with one trial per question. Numbers between 0 and 1 vary at most as much as
    a coin of the same mean, so it is rather too wide than too narrow, and it is honest for one question
    and where all agree.
    """
    if not values:
        raise InvalidRequestError("There is nothing to average.")
    count = len(values)
    total = math.fsum(values)
    return (total / count, *wilson_interval(total, count))
