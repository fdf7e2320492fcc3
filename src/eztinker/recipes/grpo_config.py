"""Settings of GRPO, and which of them go together.

Knows the names of the service's policy losses and their bounds, and nothing of sampling or training. Called by
``grpo.py`` and ``grpo_data.py``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eztinker.recipes.rewards import RewardConfig
from eztinker.rl.advantages import AdvantageKind
from eztinker.rl.policy_data import Normalisation
from eztinker.types.losses import LOSSES

PolicyLoss = Literal["importance_sampling", "ppo", "cispo", "gspo"]
_CLIPPED = ("ppo", "cispo", "gspo")


class GRPOConfig(RewardConfig):
    """Settings of GRPO."""

    per_device_train_batch_size: int = Field(32, ge=1, description="Answers per device batch.")
    learning_rate: float = Field(1e-4, gt=0, description="Peak learning rate of AdamW.")
    advantage: AdvantageKind = Field(
        "normalised", description="centred, normalised or leave_one_out."
    )
    loss_fn: PolicyLoss = Field("importance_sampling", description="Policy loss of the service.")
    loss_type: Normalisation = Field(
        "dapo", description="Mean over tokens (dapo), per answer (grpo), constant (dr_grpo)."
    )
    epsilon: float | None = Field(
        None, ge=0, lt=1, description="The ratio is clipped below 1 - epsilon."
    )
    epsilon_high: float | None = Field(
        None, ge=0, description="The ratio is clipped above 1 + epsilon_high."
    )
    beta: float = Field(0.0, ge=0, description="Price of the KL divergence to the reference.")
    ref_model: str | None = Field(
        None, description="Reference RUN_ID@CHECKPOINT; default the weights at the start."
    )
    num_iterations: int = Field(1, ge=1, description="Optimizer steps on each batch of rollouts.")
    max_staleness: int = Field(
        0, ge=0, description="Iterations that rollouts may be older than the weights they train."
    )
    logprobs_from: Literal["sampler", "trainer"] = Field(
        "sampler", description="Whose log-probabilities of the samples the loss takes."
    )
    mask_truncated_completions: bool = Field(
        False, description="Answers cut at max_completion_length are not trained on."
    )

    def check_effect(self) -> None:
        """Groups, bounds and references that do something."""
        super().check_effect()
        if self.num_generations < 2:
            self.refuse(
                "num_generations", "num_generations must be at least 2: a group is compared."
            )
        for key in ("epsilon", "epsilon_high"):
            self.needs(key, self.loss_fn in _CLIPPED, f"with loss_fn {self.loss_fn}")
        self.needs("ref_model", self.beta > 0, "with beta 0")
        is_plain = (self.temperature, self.top_p, self.top_k) == (1.0, 1.0, -1)
        if self.logprobs_from == "sampler" and not is_plain:
            self.refuse(
                "logprobs_from",
                "The sampler's log-probabilities are those of the trained distribution only at temperature 1, top_p 1 "
                "and top_k -1. Use these, or logprobs_from=trainer (one more forward pass per step).",
            )

    @property
    def loss_fn_config(self) -> dict[str, float]:
        """Bounds of the ratio, where they were given."""
        bounds = {}
        if self.epsilon is not None:
            bounds["clip_low_threshold"] = 1 - self.epsilon
        if self.epsilon_high is not None:
            bounds["clip_high_threshold"] = 1 + self.epsilon_high
        return bounds

    @property
    def ratio_bounds(self) -> tuple[float, float] | None:
        """Bounds of a token's ratio in the loss; None where it has none or bounds a sequence's."""
        if self.loss_fn not in ("ppo", "cispo"):
            return None
        known = {**LOSSES[self.loss_fn].config, **self.loss_fn_config}
        low, high = known["clip_low_threshold"], known["clip_high_threshold"]
        return (low or 0.0, high or 0.0)
