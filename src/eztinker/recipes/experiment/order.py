"""Which examples make which step: a seeded order for every epoch, the same on every machine.

Because the order follows from seed and step alone, an interrupted training continues at its step. Pure. Called
by the recipes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from eztinker.rl.training import in_batches


def batch_of_step(num_examples: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Indices of the examples of one step, counted from 0; epochs follow one another without end."""
    per_epoch = -(-num_examples // batch_size)
    epoch, place = divmod(step, per_epoch)
    order = list(range(num_examples))
    random.Random(f"{seed}/{epoch}").shuffle(order)  # noqa: S311  an order, not a secret
    return list(in_batches(order, batch_size)[place])


def stretches(first: int, last: int, *every: int | None) -> Iterator[tuple[int, int]]:
    """Cut the steps ``first`` … ``last`` where something is to be done between two steps.

    Args:
        first: steps done already.
        last: steps in all.
        every: a multiple of each of these ends a stretch; None ends none.

    Yields:
        (steps done before, steps done after) of each stretch, without a gap.
    """
    while first < last:
        ends = [(first // n + 1) * n for n in every if n]
        stop = min([last, *ends])
        yield first, stop
        first = stop


def is_due(step: int, every: int | None) -> bool:
    """Whether something that happens every so many steps happens after this one."""
    return every is not None and step > 0 and step % every == 0
