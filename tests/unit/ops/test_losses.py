"""Each loss against its formula written out position by position, values and gradients."""

from __future__ import annotations

import math

import pytest
import torch

from eztinker.errors import AlreadyExistsError, InvalidRequestError, NotFoundError
from eztinker.ops import losses
from eztinker.ops.losses import (
    BUILT_IN,
    LossInputs,
    get_loss_function,
    list_loss_functions,
    register_loss_function,
    resolve_config,
)
from eztinker.types.losses import LOSSES

LENGTHS = [3, 5, 2, 4]
N = sum(LENGTHS)


def make_inputs(dtype=torch.float64) -> tuple[torch.Tensor, LossInputs]:
    generator = torch.Generator().manual_seed(3)

    def rand(low, high):
        return torch.rand(N, generator=generator, dtype=dtype) * (high - low) + low

    p = rand(-3, -0.05).requires_grad_()
    advantages = rand(-2, 2)
    advantages[::4] = 0
    mask = (torch.arange(N) % 3 != 0).to(dtype)
    weights = rand(-1, 2)
    weights[5] = 0
    return p, LossInputs(weights, LENGTHS, rand(-3, -0.05), advantages, mask)


def clip(value, low, high):
    return min(max(value, low), high)


def written_out(name: str, p, x: LossInputs, config) -> torch.Tensor:
    """The published formula, one term at a time."""
    q, a, w = x.logprobs, x.advantages, x.weights
    total = torch.zeros((), dtype=p.dtype)
    starts = [sum(LENGTHS[:i]) for i in range(len(LENGTHS))]
    if name == "dpo":
        for pair in range(2):
            margin = torch.zeros((), dtype=p.dtype)
            for sign, d in ((1, 2 * pair), (-1, 2 * pair + 1)):
                for t in range(starts[d], starts[d] + LENGTHS[d]):
                    margin = margin + sign * w[t] * (p[t] - q[t])
            total = total - torch.log(1 / (1 + torch.exp(-config["beta"] * margin)))
        return total
    for d, start in enumerate(starts):
        places = range(start, start + LENGTHS[d])
        masked = [float(p[t].detach() - q[t]) for t in places if x.sequence_ratio_mask[t] != 0]
        sequence_ratio = math.exp(sum(masked) / len(masked))
        for t in places:
            total = total + w[t] * term(name, p[t], q[t], a[t], sequence_ratio, config)
    return total


def term(name, p, q, a, sequence_ratio, config):
    if name in ("cross_entropy", "weighted_cross_entropy"):
        return -p
    if name == "focal_loss":
        return -config["focal_alpha"] * (1 - torch.exp(p)) ** config["focal_gamma"] * p
    r = torch.exp(p - q)
    if name == "importance_sampling":
        return -r * a
    if name == "dro":
        return -(p * a - 0.5 * config["beta"] * (p - q) ** 2)
    low, high = config["clip_low_threshold"], config["clip_high_threshold"]
    if name == "cispo":
        return -clip(float(r.detach()), low, high) * p * a
    if name == "gspo":
        r = sequence_ratio * torch.exp(p - p.detach())
    inside = low < float(r.detach()) < high
    clipped = r if inside else torch.tensor(clip(float(r.detach()), low, high), dtype=p.dtype)
    return -torch.minimum(r * a, clipped * a)


CONFIGS = {
    "focal_loss": {"focal_alpha": 0.7, "focal_gamma": 1.5},
    "gspo": {"clip_low_threshold": 0.9},
}


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_loss_and_gradient_equal_the_written_out_formula(name):
    p, inputs = make_inputs()
    config = resolve_config(name, CONFIGS.get(name, {}))
    loss = BUILT_IN[name](p, inputs, config)
    (gradient,) = torch.autograd.grad(loss, p)
    expected = written_out(name, p, inputs, config)
    (expected_gradient,) = torch.autograd.grad(expected, p)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-6)
    assert gradient.abs().max() > 0


def test_tables_name_the_same_losses():
    assert set(BUILT_IN) == set(LOSSES)


@pytest.mark.parametrize("name", ["importance_sampling", "ppo", "cispo", "gspo"])
def test_ignored_positions_with_wild_ratios_do_no_harm(name):
    p = torch.tensor([-200.0, -1.0], requires_grad=True)
    inputs = LossInputs(
        weights=torch.ones(2),
        lengths=[2],
        logprobs=torch.tensor([-1000.0, -1.0]),
        advantages=torch.tensor([0.0, 1.0]),
        sequence_ratio_mask=torch.tensor([0.0, 1.0]),
    )
    loss = BUILT_IN[name](p, inputs, resolve_config(name, {}))
    (gradient,) = torch.autograd.grad(loss, p)
    assert torch.isfinite(loss)
    assert gradient[0] == 0
    assert torch.isfinite(gradient).all()


def test_clipping_survives_a_ratio_beyond_float32():
    p = torch.tensor([-1.0], requires_grad=True)
    inputs = LossInputs(torch.ones(1), [1], torch.tensor([-500.0]), torch.tensor([2.0]))
    loss = BUILT_IN["ppo"](p, inputs, resolve_config("ppo", {}))
    (gradient,) = torch.autograd.grad(loss, p)
    assert loss.item() == pytest.approx(-1.2 * 2)
    assert gradient.item() == 0


def test_cross_entropy_takes_several_targets_per_position():
    p = torch.tensor([[-1.0, -2.0], [-0.5, -3.0]], requires_grad=True)
    w = torch.tensor([[0.7, 0.3], [0.0, -1.0]])
    loss = BUILT_IN["cross_entropy"](p, LossInputs(w, [2]), {})
    assert loss.item() == pytest.approx(0.7 + 0.6 - 3.0)


def test_settings_are_checked():
    with pytest.raises(InvalidRequestError, match="no setting 'clip'"):
        resolve_config("ppo", {"clip": 0.2})
    with pytest.raises(InvalidRequestError, match="must be a number"):
        resolve_config("ppo", {"clip_low_threshold": "low"})


def test_built_in_on_logits_equals_torch_cross_entropy():
    logits = torch.randn(2, 6, 11, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 11, (2, 6), generator=torch.Generator().manual_seed(1))
    labels[0, :2] = -100
    ours = get_loss_function("cross_entropy")(logits, labels)
    theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(ours, theirs)
    summed = get_loss_function("cross_entropy")(logits, labels, reduction="sum")
    torch.testing.assert_close(summed, theirs * (labels != -100).sum())


def test_weights_scale_a_built_in_on_logits():
    logits = torch.zeros(1, 3, 4)
    labels = torch.tensor([[0, 1, -100]])
    weights = torch.tensor([[1.0, 3.0, 5.0]])
    total = get_loss_function("weighted_cross_entropy")(logits, labels, weights, reduction="sum")
    assert total.item() == pytest.approx(4 * math.log(4))


def test_registered_function_is_found_and_names_are_unique(monkeypatch):
    monkeypatch.setattr(losses, "_registered", type(losses._registered)())

    def mine(logits, labels, weights=None, **kwargs):
        return logits.sum()

    register_loss_function("mine", mine)
    assert get_loss_function("mine") is mine
    assert "mine" in list_loss_functions()
    for name in ("mine", "ppo"):
        with pytest.raises(AlreadyExistsError):
            register_loss_function(name, mine)
    with pytest.raises(NotFoundError, match="Known: cispo"):
        get_loss_function("nope")
