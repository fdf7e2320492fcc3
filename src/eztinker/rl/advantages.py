"""Advantages of a group of answers to one prompt: how much better each is than its siblings.

Pure numbers. Called by the RL recipes. Axes: G answers of a group.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal, get_args

from eztinker.errors import InvalidRequestError

AdvantageKind = Literal["centred", "normalised", "leave_one_out"]
ADVANTAGE_KINDS: tuple[str, ...] = get_args(AdvantageKind)
EPSILON = 1e-4
"""Keeps a group of nearly equal rewards from large advantages; the value of TRL."""


def group_advantages(rewards_G: Sequence[float], kind: AdvantageKind) -> list[float]:
    """Advantages of one group.

    ``centred``: r_i − mean(r) (Dr. GRPO, Liu et al. 2025, arXiv:2503.20783). ``normalised``: that over the standard
    deviation of the group (GRPO, Shao et al. 2024, arXiv:2402.03300, eq. 3; with the n − 1 in it, as TRL has it).
    ``leave_one_out``: r_i − mean of the others (RLOO, Ahmadian et al. 2024, arXiv:2402.14740, eq. 7).

    Args:
        rewards_G: at least 2 of them.
        kind: one of ``ADVANTAGE_KINDS``.
    """
    if len(rewards_G) < 2:
        raise InvalidRequestError(
            f"A group has at least 2 answers, got {len(rewards_G)}.", field="num_generations"
        )
    mean = statistics.fmean(rewards_G)
    centred = [reward - mean for reward in rewards_G]
    if kind == "centred":
        return centred
    if kind == "normalised":
        deviation = statistics.stdev(rewards_G)
        return [value / (deviation + EPSILON) for value in centred]
    if kind == "leave_one_out":
        others = len(rewards_G) / (len(rewards_G) - 1)
        return [value * others for value in centred]
    raise InvalidRequestError(
        f"advantage must be one of {', '.join(ADVANTAGE_KINDS)}, got {kind!r}.",
        field="advantage",
    )


def has_signal(rewards_G: Sequence[float]) -> bool:
    """Whether the answers of a group differ in reward at all."""
    return max(rewards_G) > min(rewards_G)
