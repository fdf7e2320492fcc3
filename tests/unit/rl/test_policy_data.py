"""Advantages, weights and KL against a few lines of PyTorch, and the data of policy losses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eztinker.errors import InvalidRequestError
from eztinker.ops.losses import BUILT_IN, LossInputs, resolve_config
from eztinker.rl.advantages import group_advantages, has_signal
from eztinker.rl.policy_data import (
    answer_weights,
    kl_advantages,
    kl_estimates,
    off_policy_figures,
    policy_datum,
)

REWARDS = [1.0, 0.0, 0.25, 1.0]


def test_advantages_equal_the_formulas_in_torch():
    r = torch.tensor(REWARDS, dtype=torch.float64)
    others = torch.stack([r[torch.arange(4) != i].mean() for i in range(4)])
    expected = {
        "centred": r - r.mean(),
        "normalised": (r - r.mean()) / (r.std() + 1e-4),  # as TRL's GRPOTrainer has it
        "leave_one_out": r - others,
    }
    for kind, values in expected.items():
        assert group_advantages(REWARDS, kind) == pytest.approx(values.tolist()), kind


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=16))
def test_advantages_of_a_group_add_up_to_nothing(rewards):
    for kind in ("centred", "normalised", "leave_one_out"):
        assert sum(group_advantages(rewards, kind)) == pytest.approx(0, abs=1e-6)


def test_groups_without_comparison():
    assert not has_signal([0.5, 0.5])
    assert group_advantages([0.5, 0.5], "normalised") == [0.0, 0.0]
    with pytest.raises(InvalidRequestError, match="at least 2"):
        group_advantages([1.0], "centred")


def grpo_loss(
    p: list[torch.Tensor], q: list[torch.Tensor], a: list[float], kind: str, longest: int
):
    """The clipped loss of GRPO as its papers write it, one answer after the other."""
    per_token = []
    for p_i, q_i, a_i in zip(p, q, a, strict=True):
        ratio = torch.exp(p_i - q_i)
        per_token.append(-torch.min(ratio * a_i, ratio.clamp(0.8, 1.2) * a_i))
    if kind == "grpo":
        return torch.stack([loss.mean() for loss in per_token]).mean()
    if kind == "dapo":
        return torch.cat(per_token).mean()
    return torch.stack([loss.sum() / longest for loss in per_token]).mean()


@pytest.mark.parametrize("kind", ["grpo", "dapo", "dr_grpo"])
def test_a_step_has_the_gradient_of_the_papers_loss(kind: str):
    """What is sent, through the service's ``ppo``, against the loss written out; clipped and unclipped tokens."""
    torch.manual_seed(0)
    lengths, advantages, longest = [3, 5, 1], [1.5, -0.5, -1.0], 8
    q = [torch.randn(n, dtype=torch.float64) - 2 for n in lengths]
    p = [(q_i + 0.4 * torch.randn(len(q_i), dtype=torch.float64)).requires_grad_() for q_i in q]
    expected = grpo_loss(p, q, advantages, kind, longest)
    expected_gradients = torch.autograd.grad(expected, p)

    weights = answer_weights(lengths, kind, longest)
    data = [
        policy_datum([7, 8], list(range(n)), q_i.tolist(), [a] * n, w)
        for n, q_i, a, w in zip(lengths, q, advantages, weights, strict=True)
    ]
    rows = [slice(2, None)] * 3  # behind the prompt

    def joined(name: str) -> torch.Tensor:
        return torch.tensor(
            [v for d, r in zip(data, rows, strict=True) for v in d[name][r]], dtype=torch.float64
        )

    inputs = LossInputs(joined("weights"), lengths, joined("logprobs"), joined("advantages"))
    loss = BUILT_IN["ppo"](torch.cat(p), inputs, resolve_config("ppo", {}))
    assert loss.item() == pytest.approx(expected.item())
    for ours, theirs in zip(torch.autograd.grad(loss, p), expected_gradients, strict=True):
        assert torch.allclose(ours, theirs)
    assert all(not any(d["weights"][:2]) for d in data)


def test_the_price_of_leaving_has_the_gradient_of_the_divergence():
    """Expected policy gradient with A = −β(log q − log ref), over all tokens, against autograd through the KL."""
    torch.manual_seed(1)
    logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
    reference = torch.log_softmax(torch.randn(6, dtype=torch.float64), 0)
    beta = 0.3
    log_p = torch.log_softmax(logits, 0)
    divergence = beta * (log_p.exp() * (log_p - reference)).sum()
    (expected,) = torch.autograd.grad(divergence, logits, retain_graph=True)
    advantages = torch.tensor(
        kl_advantages(0.0, log_p.tolist(), reference.tolist(), beta), dtype=torch.float64
    )
    loss = -(log_p.detach().exp() * advantages * log_p).sum()
    (found,) = torch.autograd.grad(loss, logits)
    assert torch.allclose(found, expected)


def test_both_estimates_have_the_divergence_as_their_mean():
    torch.manual_seed(2)
    log_q, log_ref = (torch.log_softmax(torch.randn(5, dtype=torch.float64), 0) for _ in range(2))
    exact = float((log_q.exp() * (log_q - log_ref)).sum())
    sums = [
        kl_estimates([q], [ref]) for q, ref in zip(log_q.tolist(), log_ref.tolist(), strict=True)
    ]
    for which in (0, 1):
        mean = sum(math.exp(q) * s[which] for q, s in zip(log_q.tolist(), sums, strict=True))
        assert mean == pytest.approx(exact)
    assert all(k3 >= 0 for _, k3 in sums)


def test_how_far_a_policy_has_moved():
    data = [policy_datum([1], [2, 3], [-1.0, -2.0], [1.0, 1.0], 0.5)]
    same = off_policy_figures([[None, -1.0, -2.0]], data, (0.8, 1.2))
    assert same == pytest.approx({"ratio_mean": 1, "ratio_max": 1, "off_policy_kl": 0, "effective_share": 1,
                                  "clipped_share": 0})  # fmt: skip
    moved = off_policy_figures([[None, -0.5, -2.0]], data, (0.8, 1.2))
    ratio = math.exp(0.5)
    assert moved["ratio_mean"] == pytest.approx((ratio + 1) / 2)
    assert moved["clipped_share"] == 0.5
    assert moved["effective_share"] == pytest.approx((ratio + 1) ** 2 / (ratio**2 + 1) / 2)
    assert off_policy_figures([[None, None, None]], data, None) == {}
