from __future__ import annotations

import pytest
import torch

from eztinker.engine.worker.optimizer import AdamState, _fused, adamw, gradient_norm
from eztinker.types.training import AdamParams


@pytest.mark.parametrize("clip", [None, 0.5, 1e6])
def test_equals_torch_adamw_over_changing_learning_rates(clip):
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 7), (11, 2), (5,)]
    theirs = [torch.randn(s, generator=generator).requires_grad_() for s in shapes]
    flat = torch.cat([t.detach().flatten() for t in theirs])
    state = AdamState.fresh(flat)
    sizes = [t.numel() for t in theirs]
    optimizer = torch.optim.AdamW(theirs, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
    for step in range(10):
        lr = 0.1 / (step + 1)
        gradients = [torch.randn(s, generator=generator) for s in shapes]
        for tensor, gradient in zip(theirs, gradients, strict=True):
            tensor.grad = gradient.clone()
        optimizer.param_groups[0]["lr"] = lr
        if clip is not None:
            their_norm = torch.nn.utils.clip_grad_norm_(theirs, clip)
        optimizer.step()
        flat_gradient = torch.cat([g.flatten() for g in gradients])
        norm = gradient_norm(flat_gradient, sizes)
        params = AdamParams(lr, 0.1, 0.8, 0.95, 1e-6, clip)
        before = flat.clone()
        new, state = adamw(flat, flat_gradient, state, params, norm)
        assert torch.equal(flat, before)
        flat = new
        if clip is not None:
            torch.testing.assert_close(norm, their_norm)
    expected = torch.cat([t.detach().flatten() for t in theirs])
    torch.testing.assert_close(flat, expected, rtol=0, atol=1e-7)
    assert state.num_steps == 10


def test_the_kernel_for_cuda_is_the_same_step():
    """It runs on the CPU too, where it is not used."""
    generator = torch.Generator().manual_seed(3)
    weights, gradient = (torch.randn(50, generator=generator) for _ in range(2))
    state, other = AdamState.fresh(weights), AdamState.fresh(weights)
    params = AdamParams(1e-2, weight_decay=0.1, grad_clip_norm=None)
    before = weights.clone()
    ours, theirs = weights, weights
    for _ in range(3):
        ours, state = adamw(ours, gradient, state, params, gradient.norm())
        theirs, other = _fused(theirs, gradient, other, params)
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(other.exp_avg_sq_P, state.exp_avg_sq_P, rtol=1e-5, atol=1e-9)
    assert other.num_steps == state.num_steps == 3
    assert torch.equal(weights, before)
