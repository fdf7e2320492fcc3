"""Learning rates over the steps of a training: warm-up, then constant, linear or cosine.

Pure numbers. The names are those of transformers (``lr_scheduler_type``). Called by the recipes, which send
the rate with each optimizer step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from eztinker.errors import InvalidRequestError

ScheduleName = Literal["constant", "constant_with_warmup", "linear", "cosine"]
SCHEDULES: tuple[str, ...] = get_args(ScheduleName)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Learning rate as a function of the step.

    With W warm-up steps, N steps in all and peak η, step s (from 0) has η·(s+1)/(W+1) while s < W; then η
    (constant), η·(N−s)/(N−W) (linear), or η·(f + (1−f)·½(1 + cos π(s−W)/(N−W))) (cosine, Loshchilov & Hutter
    2016, arXiv:1608.03983). No step has rate 0: the service refuses a step that changes nothing.

    Attributes:
        name: one of ``SCHEDULES``.
        peak: the highest rate, above 0.
        num_steps: optimizer steps in all, at least 1.
        num_warmup_steps: 0 up to below ``num_steps``.
        min_ratio: f, share of the peak that cosine ends at, 0 up to 1.
    """

    name: ScheduleName
    peak: float
    num_steps: int
    num_warmup_steps: int = 0
    min_ratio: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise InvalidRequestError(
                f"lr_scheduler_type must be one of {', '.join(SCHEDULES)}, got {self.name!r}.",
                field="lr_scheduler_type",
            )
        if self.num_steps < 1:
            raise InvalidRequestError(
                f"A training has at least one step, got {self.num_steps}.", field="max_steps"
            )
        if not 0 <= self.num_warmup_steps < self.num_steps:
            raise InvalidRequestError(
                f"warmup_steps must be from 0 to below the {self.num_steps} steps of this training, got "
                f"{self.num_warmup_steps}.",
                field="warmup_steps",
            )

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0; beyond the last step it stays as it was there."""
        step = min(step, self.num_steps - 1)
        if step < self.num_warmup_steps:
            return self.peak * (step + 1) / (self.num_warmup_steps + 1)
        progress = (step - self.num_warmup_steps) / (self.num_steps - self.num_warmup_steps)
        if self.name == "linear":
            return self.peak * (1 - progress)
        if self.name == "cosine":
            wave = 0.5 * (1 + math.cos(math.pi * progress))
            return self.peak * (self.min_ratio + (1 - self.min_ratio) * wave)
        return self.peak

    def rates(self) -> list[float]:
        """Learning rate of every step."""
        return [self.rate(step) for step in range(self.num_steps)]
