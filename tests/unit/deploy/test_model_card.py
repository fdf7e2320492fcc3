"""The model card: what it says of weights that were quantised in training."""

from __future__ import annotations

import pytest

from eztinker.deploy.model_card import card

REPORT = {
    "format": "peft",
    "base_model": "nano",
    "quantization": "none",
    "name": "mine",
    "run_id": "run_1",
    "checkpoint": "c",
    "step": 3,
    "vllm": "vllm serve nano",
    "logprobs": {"prompts": [{"num_tokens": 5}], "max_difference": 1e-5, "mean_difference": 1e-6},
}


@pytest.mark.parametrize(
    ("kind", "quantization", "warns"),
    [("peft", "none", False), ("peft", "nf4", True), ("merged", "nf4", False)],
)
def test_a_card_says_when_the_plain_base_model_is_another_than_the_one_trained_on(
    kind: str, quantization: str, warns: bool
) -> None:
    text = card({**REPORT, "format": kind, "quantization": quantization})
    assert ("as nf4 leaves them" in text) == warns
    assert ("--format merged" in text) == warns
