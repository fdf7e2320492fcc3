"""Optimizer steps over batches of data, sent ahead of their results.

Knows the client; what is in a datum and which are chosen is the caller's affair. Called by the recipes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from eztinker.rl.candidates import JOB_TIMEOUT_S

T = TypeVar("T")

MAX_STEPS_IN_FLIGHT = 32


@dataclass(frozen=True, slots=True)
class TrainedStep:
    """One optimizer step.

    Attributes:
        step: its number in the run, from 1.
        loss: mean over the answer tokens of its batch, before the step.
    """

    step: int
    loss: float


def in_batches(data: Sequence[T], batch_size: int) -> list[Sequence[T]]:
    """``data`` in pieces of ``batch_size``, the last one smaller."""
    return [data[start : start + batch_size] for start in range(0, len(data), batch_size)]


def train_steps(
    client: Any,
    run_id: str,
    batches: Sequence[Sequence[dict[str, Any]]],
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    grad_clip_norm: float | None = None,
) -> Iterator[TrainedStep]:
    """One forward-backward pass and one AdamW step for each batch, in order.

    The server keeps the order of a run's operations, so up to ``MAX_STEPS_IN_FLIGHT`` steps are on their way
    while earlier results are read, and it never waits for the network.
    """
    waiting: deque[tuple[Any, Any]] = deque()
    for batch in batches:
        if len(waiting) >= MAX_STEPS_IN_FLIGHT:
            yield _result(*waiting.popleft())
        passed = client.submit_forward_backward(run_id, data=list(batch))
        stepped = client.submit_optim_step(
            run_id,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            grad_clip_norm=grad_clip_norm,
        )
        waiting.append((passed, stepped))
    while waiting:
        yield _result(*waiting.popleft())


def _result(passed: Any, stepped: Any) -> TrainedStep:
    loss = passed.result(JOB_TIMEOUT_S)["loss"]
    return TrainedStep(stepped.result(JOB_TIMEOUT_S)["step"], loss)
