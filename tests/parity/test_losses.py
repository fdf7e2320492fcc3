"""Every loss of the Tinker wire through the whole worker, against plain PyTorch autograd on the same weights.

The reference is a PEFT model on transformers with the loss written as its formula; values and the
gradients of all adapter matrices agree to 1e-5 in fp32.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eztinker.types.training import Datum
from tests.model_factory import write_model
from tests.parity.test_models import compare_gradients, peft_twin
from tests.worker_harness import Harness, tokens

# PEFT asks transformers by an old name.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)
LENGTHS = (7, 12, 3)
CONFIGS = {
    "importance_sampling": {},
    "ppo": {"clip_low_threshold": 0.9, "clip_high_threshold": 1.1},
    "cispo": {"clip_low_threshold": 0.5, "clip_high_threshold": 1.2},
    "dro": {"beta": 0.3},
    "gspo": {"clip_low_threshold": 0.95, "clip_high_threshold": 1.05},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose matrices are all different from zero, so that every one has a gradient."""
    folder = write_model(tmp_path_factory.mktemp("model"), "qwen2")
    harness = Harness(folder)
    harness.open_run(lora_alpha=8)
    harness.forward_backward([cross_entropy_datum(i, 9) for i in range(2)], reduction="sum")
    harness.optim_step(learning_rate=0.02)
    return harness, peft_twin(harness, folder, tmp_path_factory.mktemp("adapter"))


def cross_entropy_datum(seed: int, length: int, num_targets: int | None = None) -> Datum:
    generator = np.random.default_rng(seed)
    shape = (length,) if num_targets is None else (length, num_targets)
    targets = generator.integers(2, 300, shape)
    weights = generator.normal(size=shape).astype(np.float32)  # of any sign
    return Datum(tokens(seed, length), {"target_tokens": targets, "weights": weights})


def policy_datum(harness, seed: int, length: int) -> Datum:
    """Sampling log-probabilities near the model's own, so that some ratios are clipped and some not."""
    generator = np.random.default_rng(seed)
    targets = generator.integers(2, 300, length)
    ones = np.ones(length, np.float32)
    plain = Datum(tokens(seed, length), {"target_tokens": targets, "weights": ones})
    own = harness.forward([plain], reduction="sum").logprobs[0]
    inputs = {
        "target_tokens": targets,
        "logprobs": (own + generator.normal(scale=0.2, size=length)).astype(np.float32),
        "advantages": generator.normal(size=length).astype(np.float32),
    }
    return Datum(plain.tokens_T, inputs)


def reference_logprobs(twin, datum: Datum) -> torch.Tensor:
    logits = twin(torch.from_numpy(datum.tokens_T.astype(np.int64))[None]).logits[0]
    targets = torch.from_numpy(datum.loss_fn_inputs["target_tokens"])
    targets = targets if targets.ndim == 2 else targets[:, None]
    return torch.log_softmax(logits, -1).gather(1, targets)


def reference_loss(name: str, p: torch.Tensor, inputs, config) -> torch.Tensor:
    """Σ over positions of the published formula; p, q, A [N]."""
    if name == "cross_entropy":
        return -(torch.from_numpy(inputs["weights"]).view(p.shape) * p).sum()
    p = p[:, 0]
    q, a = (torch.from_numpy(inputs[key]) for key in ("logprobs", "advantages"))
    r = torch.exp(p - q)
    if name == "importance_sampling":
        return -(r * a).sum()
    if name == "dro":
        return -(p * a - 0.5 * config["beta"] * (p - q) ** 2).sum()
    low, high = config["clip_low_threshold"], config["clip_high_threshold"]
    if name == "ppo":
        return -torch.minimum(r * a, r.clamp(low, high) * a).sum()
    if name == "cispo":
        return -(r.clamp(low, high).detach() * p * a).sum()
    mask = torch.from_numpy(inputs["sequence_ratio_mask"]) != 0
    s = torch.exp((p.detach() - q)[mask].mean()) * torch.exp(p - p.detach())
    return -torch.minimum(s * a, s.clamp(low, high) * a).sum()


def compare(harness, twin, name: str, data: list[Datum], config) -> None:
    before = harness.run_state().gradient_P
    assert before is None or not before.any()
    result = harness.forward_backward(data, name=name, config=config, reduction="sum")
    twin.zero_grad()
    losses = [
        reference_loss(name, reference_logprobs(twin, d), d.loss_fn_inputs, config) for d in data
    ]
    expected = sum(losses)
    expected.backward()
    size = sum(float(loss.detach().abs()) for loss in losses)
    assert abs(result.loss - expected.item()) <= 1e-5 * max(1.0, size)
    compare_gradients(harness, twin)
    harness.run_state().gradient_P.zero_()


@pytest.mark.parametrize("num_targets", [None, 4])
def test_cross_entropy(trained, num_targets) -> None:
    harness, twin = trained
    data = [cross_entropy_datum(n, n, num_targets) for n in LENGTHS]
    compare(harness, twin, "cross_entropy", data, {})


@pytest.mark.parametrize("name", CONFIGS)
def test_policy_losses(trained, name: str) -> None:
    harness, twin = trained
    data = [policy_datum(harness, n, n) for n in LENGTHS]
    if name == "gspo":
        for datum in data:
            mask = (np.arange(len(datum.tokens_T)) > 1).astype(np.float32)
            datum.loss_fn_inputs["sequence_ratio_mask"] = mask
    compare(harness, twin, name, data, CONFIGS[name])
