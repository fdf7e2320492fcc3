"""The state of one resident run, as a value: adapter, Adam moments, accumulated gradient.

Every change makes a new ``RunState``; the worker holds the current one and swaps it when a job has
succeeded, which is why a failed job leaves nothing behind. Knows no queue and no files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eztinker.engine.worker.base_model import BaseModel
from eztinker.engine.worker.lora import AdapterSpec, AdapterWeights, choose_sites, initial_weights
from eztinker.engine.worker.optimizer import AdamState, adamw, gradient_norm
from eztinker.errors import InvalidRequestError, NumericalError
from eztinker.types.operations import StepResult
from eztinker.types.training import AdamParams, LoRAConfig

_MAX_LEARNING_RATE = 1e38


@dataclass(frozen=True, slots=True, eq=False)
class RunState:
    """A run at one moment.

    Attributes:
        run_id: whose.
        base: the base model it adapts.
        seed: the run's; seeds dropout together with ``step`` and ``num_passes``, which are the same again when an
            interrupted program goes on, as numbers of operations are not.
        weights: the adapter.
        adam: moments and number of steps.
        gradient_P: what passes since the last step added up; None when there was none.
        num_passes: how many those were.
    """

    run_id: str
    base: BaseModel
    seed: int
    weights: AdapterWeights
    adam: AdamState
    gradient_P: Tensor | None = None
    num_passes: int = 0

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.adam.num_steps

    def with_gradient(self, gradient_P: Tensor) -> RunState:
        """After a pass: its gradient added."""
        if self.gradient_P is not None:
            gradient_P = self.gradient_P + gradient_P
        return replace(self, gradient_P=gradient_P, num_passes=self.num_passes + 1)

    def with_weights(self, flat_P: Tensor, adam: AdamState) -> RunState:
        """After a step or a load: other weights, no gradient."""
        weights = AdapterWeights(self.weights.spec, flat_P, self.base.decoder.dtype)
        return replace(self, weights=weights, adam=adam, gradient_P=None, num_passes=0)


def new_run(run_id: str, base: BaseModel, lora: LoRAConfig, seed: int) -> RunState:
    """A run with a fresh adapter.

    Raises:
        InvalidRequestError: unknown target modules.
    """
    decoder = base.decoder
    sites = choose_sites(lora, decoder.sites)
    spec = AdapterSpec(base.name, lora, tuple(sites), len(decoder.sites))
    flat_P = initial_weights(spec, seed if lora.seed is None else lora.seed).to(decoder.device)
    weights = AdapterWeights(spec, flat_P, decoder.dtype)
    return RunState(run_id, base, seed, weights, AdamState.fresh(flat_P))


@torch.no_grad()
def optim_step(run: RunState, params: AdamParams) -> tuple[RunState, StepResult]:
    """Apply the accumulated gradient.

    Raises:
        InvalidRequestError: code ``no_gradient``, or a learning rate beyond float32.
        NumericalError: the gradient's norm or a new weight is not finite; the gradient stays.
    """
    if run.gradient_P is None:
        raise InvalidRequestError(
            f"Run {run.run_id!r} has no gradient: call forward_backward before optim_step.",
            code="no_gradient",
        )
    if not params.learning_rate < _MAX_LEARNING_RATE:
        raise InvalidRequestError(
            f"learning_rate={params.learning_rate:g} is beyond float32.", field="learning_rate"
        )
    norm = gradient_norm(run.gradient_P, run.weights.sizes)
    flat_P, adam = adamw(run.weights.flat_P, run.gradient_P, run.adam, params, norm)
    # One sum over the new weights finds any inf or nan among them and in the norm.
    if not bool((norm + flat_P.sum()).isfinite()):
        raise NumericalError(
            f"The step of run {run.run_id!r} is not finite (gradient norm {float(norm):g}); weights and "
            "gradient are as before. Lower the learning rate or look for extreme data."
        )
    result = StepResult(adam.num_steps, float(norm), params.learning_rate)
    return run.with_weights(flat_P, adam), result
