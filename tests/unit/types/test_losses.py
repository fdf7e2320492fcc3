"""The table of losses agrees with what the documents promise and with itself."""

from __future__ import annotations

import pytest

from eztinker.types.losses import LOSSES, LossSignature
from eztinker.types.training import LoRAConfig

PER_POSITION = {"weights", "logprobs", "advantages", "sequence_ratio_mask"}


def test_every_documented_loss_has_its_signature() -> None:
    native = {"cross_entropy", "weighted_cross_entropy", "focal_loss", "dpo"}
    tinker = {"cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "gspo"}
    assert LOSSES.keys() == native | tinker


@pytest.mark.parametrize("name", LOSSES)
def test_a_signature_asks_for_known_inputs_once(name: str) -> None:
    signature = LOSSES[name]
    assert {*signature.required, *signature.optional} <= PER_POSITION
    assert not set(signature.required) & set(signature.optional)
    assert signature.group_size == (2 if name == "dpo" else 1)
    low = signature.config.get("clip_low_threshold")
    high = signature.config.get("clip_high_threshold")
    if low is not None and high is not None:
        assert low < high


def test_default_signature_is_one_sequence_with_optional_weights() -> None:
    signature = LossSignature()
    assert (signature.required, signature.optional) == ((), ("weights",))
    assert (signature.group_size, signature.many_targets) == (1, False)


def test_adapter_scaling_is_that_of_the_papers() -> None:
    assert LoRAConfig(r=16, lora_alpha=8).scaling == 0.5
    assert LoRAConfig(r=16, lora_alpha=8, use_rslora=True).scaling == 2.0
