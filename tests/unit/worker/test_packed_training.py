"""Training with packed copies of the weights against training without them."""

from __future__ import annotations

import pytest
import torch

from eztinker.engine.memory_model import copies_bytes as predicted_bytes
from eztinker.engine.model_shape import read_shape
from eztinker.engine.worker import decoder
from eztinker.types.commands import OpenRun
from eztinker.types.training import LoRAConfig
from tests.worker_harness import Harness, datum


def trained(folder, num_copies: int = 2) -> tuple[Harness, list]:
    """A run with a step behind it, so that B is not zero, and one more pass; its log-probabilities."""
    harness = Harness(folder, num_copies)
    harness.do(OpenRun(harness.job_id(), "r", "m", LoRAConfig(r=3, lora_dropout=0.0), 1))
    data = [datum(1, 12), datum(2, 20), datum(3, 1)]
    harness.forward_backward(data)
    harness.optim_step(learning_rate=1e-2)
    return harness, harness.forward_backward(data).logprobs


def copies_bytes(harness: Harness) -> int:
    base = harness.worker._residents.base_models["m"]
    return base.decoder.held_bytes - base.decoder.size_bytes


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="weights cannot be packed here"
)
def test_packed_weights_give_the_same_gradients_and_are_counted(qwen2_folder):
    packed, packed_logprobs = trained(qwen2_folder)
    plain, plain_logprobs = trained(qwen2_folder, num_copies=1)
    for ours, expected in zip(packed_logprobs, plain_logprobs, strict=True):
        assert ours == pytest.approx(expected, abs=1e-5)
    gradient_P, expected_P = (h.run_state("r").gradient_P for h in (packed, plain))
    assert float((gradient_P - expected_P).norm()) <= 1e-5 * float(expected_P.norm())
    assert copies_bytes(packed) > 1.5 * copies_bytes(plain) > 0, "two copies, one for sampling"


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="weights cannot be packed here"
)
def test_copies_are_as_many_and_as_large_as_was_predicted(qwen2_folder, monkeypatch):
    """Fewer only where the machine has no room for those that the budget allows."""
    shape = read_shape(qwen2_folder)
    for num_copies in (0, 1, 2, 3):
        held = copies_bytes(Harness(qwen2_folder, num_copies))
        assert held == pytest.approx(
            predicted_bytes(shape, "none", "float32", num_copies), rel=0.02
        )
    base = Harness(qwen2_folder, 0).worker._residents.base_models["m"]
    size_bytes = base.decoder.size_bytes
    monkeypatch.setattr(decoder, "free_memory_bytes", lambda device: 4.0 * size_bytes - 1)
    assert copies_bytes(Harness(qwen2_folder)) == 0
