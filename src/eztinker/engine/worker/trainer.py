"""A training pass on its way: which micro-batch is next, what has been computed so far, what it gives.

``micro_batch.py`` computes the micro-batches, alone or together with those of other runs;
``pass_group.py`` decides which. Nothing of the run changes before ``outcome`` has been taken. Knows no
queue and no messages beyond the plan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from eztinker.engine.worker.decoder_base import Decoder
from eztinker.engine.worker.lora import AdapterWeights, Dropout
from eztinker.engine.worker.pass_loss import PassLoss
from eztinker.errors import NumericalError, OutOfMemoryError
from eztinker.types.operations import PassResult, TrainingPass
from eztinker.types.plans import PassPlan


@dataclass(frozen=True, slots=True)
class PassOutcome:
    """What a pass gives.

    Attributes:
        result: for the caller.
        gradient_P: of the reported loss; None for a forward-only pass.
        plan: as executed.
    """

    result: PassResult
    gradient_P: Tensor | None
    plan: PassPlan


@dataclass(frozen=True, slots=True)
class Planned:
    """A micro-batch to be computed.

    Attributes:
        batch: indices of data.
        frame: the numbers of the ``Frame`` that it had in a pass shared with other runs, for a replay; empty
            otherwise.
    """

    batch: list[int]
    frame: list[int]


@dataclass(frozen=True, slots=True)
class Frame:
    """How a micro-batch lay in a model pass that several runs shared.

    Attributes:
        first_row: where it began.
        num_rows: of the model pass.
        is_lane: whether it was computed with half of the threads.
        alike_row: first row of the stretches whose adapters were computed together with its own.
        num_alike: these stretches, each of as many rows, its own included.
    """

    first_row: int
    num_rows: int
    is_lane: bool
    alike_row: int
    num_alike: int

    @classmethod
    def of(cls, numbers: Sequence[int]) -> Frame:
        """What a plan holds; older ones say less, where nothing was alike or halved."""
        first_row, num_rows, *more = numbers
        is_lane, alike_row, num_alike = [*more, *[0, first_row, 1][len(more) :]]
        return cls(first_row, num_rows, bool(is_lane), alike_row, num_alike)

    def numbers(self) -> list[int]:
        """For a plan."""
        return [self.first_row, self.num_rows, int(self.is_lane), self.alike_row, self.num_alike]

    def others_alike(self, num_rows: int) -> tuple[range, ...]:
        """The other stretches, each of ``num_rows``."""
        starts = [self.alike_row + place * num_rows for place in range(self.num_alike)]
        return tuple(range(s, s + num_rows) for s in starts if s != self.first_row)


class RunningPass:
    """A pass, one micro-batch after another.

    Args:
        decoder: of the run's base model.
        adapter: the run's weights.
        operation: data and loss.
        plan: the micro-batches; halved where memory does not suffice.
        dropout_seed: of the operation; each micro-batch adds its place in the executed plan.

    Attributes:
        loss: of the data.
        checkpointing: layers are recomputed in the backward pass, from now on.

    Raises:
        InvalidRequestError: data that do not fit the model or the loss.
    """

    def __init__(
        self,
        decoder: Decoder,
        adapter: AdapterWeights,
        operation: TrainingPass,
        plan: PassPlan,
        *,
        dropout_seed: int,
    ) -> None:
        self.decoder, self.adapter = decoder, adapter
        self.loss = PassLoss(decoder, adapter, operation)
        self.with_gradient = not operation.forward_only
        self.checkpointing = plan.checkpointing
        self._plan, self._data, self._dropout_seed = plan, operation.data, dropout_seed
        frames = plan.frames or [[]] * len(plan.micro_batches)
        planned = [Planned(list(b), f) for b, f in zip(plan.micro_batches, frames, strict=True)]
        self._waiting = planned[::-1]
        self._executed: list[Planned] = []
        self._gradient_P = torch.zeros_like(adapter.flat_P) if self.with_gradient else None
        self._logprobs: list[np.ndarray] = [np.zeros(0, np.float32)] * len(self._data)
        self._loss_sum = 0.0

    @property
    def is_done(self) -> bool:
        """Whether every micro-batch has been computed."""
        return not self._waiting

    @property
    def may_share(self) -> bool:
        """Whether the next micro-batch may be computed together with other runs'."""
        return self._plan.may_share and not self._waiting[-1].frame

    @property
    def next(self) -> Planned:
        """The micro-batch to be computed now."""
        return self._waiting[-1]

    @property
    def num_tokens(self) -> int:
        """Tokens of the next micro-batch."""
        return sum(self._data[i].num_tokens for i in self.next.batch)

    @property
    def sequences(self) -> list[np.ndarray]:
        """What the model reads in the next micro-batch."""
        return [self._data[i].tokens_T for i in self.next.batch]

    @property
    def dropout(self) -> Dropout | None:
        """Of the next micro-batch."""
        probability = self.adapter.spec.config.lora_dropout
        if not self.with_gradient or probability == 0:
            return None
        return Dropout(probability, self._dropout_seed * 1_000_003 + len(self._executed))

    def add(
        self,
        loss: float,
        logprobs: Sequence[np.ndarray],
        gradient_P: Tensor | None,
        frame: list[int],
    ) -> None:
        """The next micro-batch has been computed."""
        planned = self._waiting.pop()
        self._executed.append(Planned(planned.batch, frame))
        self._loss_sum += loss
        if self._gradient_P is not None and gradient_P is not None:
            self._gradient_P += gradient_P
        for i, values in zip(planned.batch, logprobs, strict=True):
            self._logprobs[i] = values

    def shrink(self) -> None:
        """The next micro-batch did not fit in memory: cut it in half; then recompute layers.

        Raises:
            OutOfMemoryError: neither is left.
        """
        batch = self._waiting.pop().batch
        groups = len(batch) // self.loss.group_size
        if groups >= 2:
            middle = (groups // 2) * self.loss.group_size
            self._waiting += [Planned(batch[middle:], []), Planned(batch[:middle], [])]
        elif self.with_gradient and not self.checkpointing:
            self.checkpointing = True
            self._waiting.append(Planned(batch, []))
        else:
            size = max(self._data[i].num_tokens for i in batch)
            raise OutOfMemoryError(
                f"A datum of {size} tokens does not fit in memory even alone. Use shorter data, a "
                "smaller model or rank, or a machine with more memory."
            )

    def outcome(self) -> PassOutcome:
        """What the finished pass gives.

        Raises:
            NumericalError: a gradient that is not finite.
        """
        num_tokens = self.loss.num_tokens
        result = PassResult(
            loss=self._loss_sum * self.loss.factor,
            num_tokens=num_tokens,
            logprobs=self._logprobs,
            metrics={"loss:sum": self._loss_sum, "num_tokens:sum": float(num_tokens)},
        )
        return PassOutcome(result, self._finite_gradient(), self._executed_plan())

    def _executed_plan(self) -> PassPlan:
        """The plan with what was really done."""
        frames = [planned.frame for planned in self._executed]
        return replace(
            executed_plan(self._plan, [p.batch for p in self._executed], self.decoder.dtype),
            checkpointing=self.checkpointing,
            frames=frames if any(frames) else [],
        )

    def _finite_gradient(self) -> Tensor | None:
        # The extremes are finite exactly if everything is (nan spreads); one pass instead of five.
        if self._gradient_P is None:
            return None
        extremes = torch.stack(torch.aminmax(self._gradient_P)).tolist()
        if not all(math.isfinite(extreme) for extreme in extremes):
            raise NumericalError(
                "The gradient is not finite; nothing was added to the run. Look for extreme weights, "
                "advantages or logprobs in the data, or lower the learning rate."
            )
        return self._gradient_P


def executed_plan(plan: PassPlan, micro_batches: list[list[int]], dtype: torch.dtype) -> PassPlan:
    """The plan with what was really done."""
    return replace(
        plan,
        micro_batches=micro_batches,
        num_threads=torch.get_num_threads(),
        dtype=str(dtype).removeprefix("torch."),
    )
