"""How a pass is cut into micro-batches: a pure function of lengths and a budget.

The plan is logged with the job, so that a replay computes the same sums in the same order. Knows
nothing of tensors. Called by ``actions.py`` and ``recovery.py``.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from eztinker.types.losses import LOSSES
from eztinker.types.operations import TrainingPass
from eztinker.types.plans import PassPlan

_MIN_ALIKE = 16
"""Tokens that answers to one prompt share at least."""


def plan_training(
    operation: TrainingPass,
    *,
    budget_tokens: int,
    may_share: bool = False,
    checkpointing: bool = False,
) -> PassPlan:
    """The plan of a training pass; data that its loss compares stay in one micro-batch.

    Args:
        operation: data and loss.
        budget_tokens: as in ``plan_pass``.
        may_share: micro-batches may go through the model together with those of other runs.
        checkpointing: recompute layers in the backward pass.
    """
    signature = LOSSES.get(operation.loss.name)
    plan = plan_pass(
        [datum.num_tokens for datum in operation.data],
        budget_tokens=budget_tokens,
        group_size=signature.group_size if signature else 1,
        cluster_of=_clusters([datum.tokens_T for datum in operation.data]),
    )
    return replace(plan, may_share=may_share, checkpointing=checkpointing)


def longest_group(operation: TrainingPass) -> int:
    """Tokens of the longest data that must stay in one micro-batch."""
    signature = LOSSES.get(operation.loss.name)
    size = signature.group_size if signature else 1
    lengths = [datum.num_tokens for datum in operation.data]
    return max(sum(lengths[i : i + size]) for i in range(0, len(lengths), size))


def _clusters(tokens_D: Sequence[np.ndarray]) -> list[int]:
    """Equal numbers for neighbours that begin alike: answers to one prompt."""
    clusters = list(range(len(tokens_D)))
    for i in range(1, len(tokens_D)):
        before, tokens = tokens_D[i - 1], tokens_D[i]
        if min(len(before), len(tokens)) >= _MIN_ALIKE and np.array_equal(
            before[:_MIN_ALIKE], tokens[:_MIN_ALIKE]
        ):
            clusters[i] = clusters[i - 1]
    return clusters


def plan_pass(
    num_tokens_D: Sequence[int],
    *,
    budget_tokens: int,
    group_size: int = 1,
    cluster_of: Sequence[int] | None = None,
) -> PassPlan:
    """Pack data into micro-batches of at most ``budget_tokens`` tokens, alike in size.

    Args:
        num_tokens_D: length of each datum.
        budget_tokens: most tokens in a micro-batch; a longer group gets one of its own.
        group_size: so many neighbours stay together (2 for pairs).
        cluster_of: a number for each datum; those with the same one are laid side by side, as long as the
            budget allows, so that a beginning they share is computed once.

    Returns:
        Micro-batches of indices into the data, each index exactly once.
    """
    groups = [
        range(start, min(start + group_size, len(num_tokens_D)))
        for start in range(0, len(num_tokens_D), group_size)
    ]
    clusters = cluster_of or range(len(num_tokens_D))
    sizes = {group.start: sum(num_tokens_D[index] for index in group) for group in groups}
    largest: dict[int, int] = {}
    for group in groups:
        cluster = clusters[group.start]
        largest[cluster] = max(largest.get(cluster, 0), sizes[group.start])
    num_tokens = sum(min(size, budget_tokens) for size in sizes.values())
    num_batches = max(1, math.ceil(num_tokens / budget_tokens))
    micro_batches: list[list[int]] = [[] for _ in range(num_batches)]
    filled = [0] * num_batches
    place, before = 0, None
    # Large ones first, each to where there is least, which makes the micro-batches alike: they divide better
    # among threads. Ties keep the caller's order, so plans are stable.
    for group in sorted(groups, key=lambda g: (-largest[clusters[g.start]], clusters[g.start])):
        size = sizes[group.start]
        if clusters[group.start] != before or filled[place] + size > budget_tokens:
            place = filled.index(min(filled))
        if filled[place] and filled[place] + size > budget_tokens:
            place = len(filled)
            micro_batches.append([])
            filled.append(0)
        micro_batches[place].extend(group)
        filled[place] += size
        before = clusters[group.start]
    return PassPlan(micro_batches=[batch for batch in micro_batches if batch])
