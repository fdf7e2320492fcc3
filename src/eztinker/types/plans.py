"""How a pass is executed: the plan that is logged with its result and that a replay follows.

Knows no tensor. Made by ``engine/planning.py``, completed by the worker (``engine/worker/trainer.py``), kept by
``store/log.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PassPlan:
    """How one pass is cut into micro-batches; logged, so that a replay computes the same bits.

    Attributes:
        micro_batches: indices into the operation's data; together each index exactly once.
        num_threads: torch threads; 0 before the worker has filled in its own number.
        dtype: compute type; empty before the worker has filled it in.
        checkpointing: recompute activations in the backward pass.
        may_share: micro-batches may go through the model together with those of other runs.
        frames: after such sharing, of each micro-batch (its first flat row, flat rows of the model pass, 1 if
            that was computed with half of the threads, first row and number of the stretches whose adapters were
            computed with its own), empty for one that was alone; a replay lays it out in the same way, which
            gives the same bits.
    """

    micro_batches: list[list[int]]
    num_threads: int = 0
    dtype: str = ""
    checkpointing: bool = False
    may_share: bool = False
    frames: list[list[int]] = field(default_factory=list)
