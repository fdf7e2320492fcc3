"""AdamW on one flat vector, as a function from old state to new.

Nothing is changed in place: a step that fails leaves everything as it was, a snapshot being written
keeps what it holds, and a sampler keeps its weights. Equal to ``torch.optim.AdamW`` number by number.
Knows no adapter and no job; called by ``trainer.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eztinker.types.training import AdamParams


@dataclass(frozen=True, slots=True, eq=False)
class AdamState:
    """Moments of a run and the number of steps behind them; float32 [P]."""

    exp_avg_P: Tensor
    exp_avg_sq_P: Tensor
    num_steps: int = 0

    @classmethod
    def fresh(cls, like_P: Tensor) -> AdamState:
        """Zero moments."""
        return cls(torch.zeros_like(like_P), torch.zeros_like(like_P))


def gradient_norm(gradient_P: Tensor, sizes: Sequence[int]) -> Tensor:
    """Global L2 norm: the norm of the tensors' norms, as ``torch.nn.utils.clip_grad_norm_`` has it."""
    norms = torch._foreach_norm(gradient_P.split(list(sizes)))  # pyright: ignore[reportPrivateImportUsage]
    return torch.linalg.vector_norm(torch.stack(norms))


def adamw(
    weights_P: Tensor, gradient_P: Tensor, state: AdamState, params: AdamParams, norm: Tensor
) -> tuple[Tensor, AdamState]:
    """New weights and state (Loshchilov & Hutter 2017, arXiv:1711.05101, algorithm 2).

    Args:
        weights_P, gradient_P: float32.
        state: before the step.
        params: of this step.
        norm: of the gradient, for clipping: gradients are scaled by min(1, bound / (norm + 1e-6)).
    """
    step = state.num_steps + 1
    if params.grad_clip_norm is not None:
        gradient_P = gradient_P * (params.grad_clip_norm / (norm + 1e-6)).clamp_max(1.0)
    if weights_P.is_cuda:
        return _fused(weights_P, gradient_P, state, params)
    exp_avg_P = torch.lerp(state.exp_avg_P, gradient_P, 1 - params.beta1)
    exp_avg_sq_P = state.exp_avg_sq_P * params.beta2
    exp_avg_sq_P.addcmul_(gradient_P, gradient_P, value=1 - params.beta2)
    step_size = params.learning_rate / (1 - params.beta1**step)
    root = (1 - params.beta2**step) ** 0.5
    denominator_P = (exp_avg_sq_P.sqrt() / root).add_(params.eps)
    decayed_P = weights_P * (1 - params.learning_rate * params.weight_decay)
    new_P = decayed_P.addcdiv_(exp_avg_P, denominator_P, value=-step_size)
    return new_P, AdamState(exp_avg_P, exp_avg_sq_P, step)


def _fused(
    weights_P: Tensor, gradient_P: Tensor, state: AdamState, params: AdamParams
) -> tuple[Tensor, AdamState]:
    """The same in one kernel, on copies: nothing is changed in place for anyone else."""
    new_P, exp_avg_P, exp_avg_sq_P = (
        tensor.clone() for tensor in (weights_P, state.exp_avg_P, state.exp_avg_sq_P)
    )
    step = torch.tensor(float(state.num_steps + 1), device=weights_P.device)
    torch._fused_adamw_(  # pyright: ignore[reportPrivateImportUsage]
        [new_P],
        [gradient_P],
        [exp_avg_P],
        [exp_avg_sq_P],
        [],
        [step],
        amsgrad=False,
        lr=params.learning_rate,
        beta1=params.beta1,
        beta2=params.beta2,
        weight_decay=params.weight_decay,
        eps=params.eps,
        maximize=False,
    )
    return new_P, AdamState(exp_avg_P, exp_avg_sq_P, state.num_steps + 1)
