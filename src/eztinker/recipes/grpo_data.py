"""What GRPO learns from: scored answers with their advantages, weights and log-probabilities, and figures about them.

Asks the server for log-probabilities, of the reference too where leaving it has a price; samples and trains nothing.
Called by ``grpo.py``, once for each iteration.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

from eztinker.errors import InvalidRequestError
from eztinker.recipes.experiment.session import Session, frozen_run, lora_of
from eztinker.recipes.grpo_config import GRPOConfig
from eztinker.rl.advantages import group_advantages, has_signal
from eztinker.rl.policy_data import answer_weights, kl_advantages, kl_estimates, policy_datum
from eztinker.rl.rollouts import Group, Rollout
from eztinker.rl.scorers import Scorer
from eztinker.rl.scoring import answer_logprobs
from eztinker.rl.training_run import find_run


class GRPOData:
    """Training data of one training; the reference is there from the start where ``beta`` is above 0."""

    def __init__(self, session: Session, config: GRPOConfig, scorer: Scorer) -> None:
        self._session, self._config, self._scorer = session, config, scorer
        self._reference = _reference(session, config) if config.beta else None

    def of(
        self, iteration: int, groups: list[Group]
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Training data of the groups of an iteration, and figures about them."""
        config = self._config
        if config.logprobs_from == "trainer":
            groups = self._with_policy_logprobs(iteration, groups)
        rollouts = [(group, r) for group in groups for r in group.rollouts_G]
        prompts, answers = [g.prompt_tokens for g, _ in rollouts], [r.tokens_T for _, r in rollouts]
        logprobs = [r.policy_logprobs_T or r.logprobs_T for _, r in rollouts]
        advantages = [
            a for group in groups for a in group_advantages(group.rewards_G, config.advantage)
        ]
        figures = self._figures_of(iteration, groups)
        if self._reference is None:
            per_token = [[a] * len(t) for a, t in zip(advantages, answers, strict=True)]
        else:
            references = answer_logprobs(self._session.client, self._reference, prompts, answers)
            pairs = list(zip(logprobs, references, strict=True))
            per_token = [
                kl_advantages(a, q, ref, config.beta)
                for a, (q, ref) in zip(advantages, pairs, strict=True)
            ]
            figures |= _kl_figures(pairs)
        data = [
            policy_datum(prompt, tokens, q, a, weight, has_ratio_mask=config.loss_fn == "gspo")
            for prompt, tokens, q, a, weight in zip(
                prompts,
                answers,
                logprobs,
                per_token,
                self._weights([r for _, r in rollouts]),
                strict=True,
            )
        ]
        return _with_signal(data), figures

    def _weights(self, rollouts: list[Rollout]) -> list[float]:
        """Of every token of each answer; 0 of those that were cut off, where they are not to count."""
        config = self._config
        lengths = [len(r.tokens_T) for r in rollouts]
        weights = answer_weights(lengths, config.loss_type, config.max_completion_length)
        if not config.mask_truncated_completions:
            return weights
        cut = [r.stop_reason == "length" for r in rollouts]
        return [0.0 if is_cut else w for w, is_cut in zip(weights, cut, strict=True)]

    def _with_policy_logprobs(self, iteration: int, groups: list[Group]) -> list[Group]:
        """The groups with the log-probabilities of the weights before this iteration, computed once and kept."""
        if all(r.policy_logprobs_T is not None for group in groups for r in group.rollouts_G):
            return groups
        prompts = [group.prompt_tokens for group in groups for _ in group.rollouts_G]
        answers = [r.tokens_T for group in groups for r in group.rollouts_G]
        found = iter(answer_logprobs(self._session.client, self._session.run_id, prompts, answers))
        groups = [
            replace(
                group,
                rollouts_G=[replace(r, policy_logprobs_T=next(found)) for r in group.rollouts_G],
            )
            for group in groups
        ]
        self._session.experiment.write_rollouts(iteration, (one.as_row() for one in groups))
        return groups

    def _figures_of(self, iteration: int, groups: list[Group]) -> dict[str, Any]:
        rewards = [reward for group in groups for reward in group.rewards_G]
        rollouts = [r for group in groups for r in group.rollouts_G]
        start = self._session.experiment.state["start_step"]
        return {
            "reward": statistics.fmean(rewards),
            "reward_std": statistics.pstdev(rewards),
            "groups_with_signal": statistics.fmean(has_signal(g.rewards_G) for g in groups),
            "completion_length": statistics.fmean(len(r.tokens_T) for r in rollouts),
            "truncated_share": statistics.fmean(r.stop_reason == "length" for r in rollouts),
            "sampling_entropy": _entropy(rollouts),
            "staleness": iteration * self._config.num_iterations
            - min(g.weights_step - start for g in groups),
            **self._scorer.figures_of([r.grade for r in rollouts]),
        }


def _reference(session: Session, config: GRPOConfig) -> str:
    """The run whose weights are the reference: those at the start, or a checkpoint that was named."""
    checkpoint = config.ref_model or config.init_from
    lora = {}
    if checkpoint is not None:
        source = checkpoint.rpartition("@")[0]
        lora = lora_of(find_run(session.client, source))
    return frozen_run(
        session,
        "reference",
        config.model_name_or_path,
        checkpoint,
        quantization=config.run_arguments["quantization"],
        **lora,
    )


def _entropy(rollouts: Any) -> float:
    """Mean of −log q over the sampled tokens: an estimate of the policy's entropy per token."""
    logs = [value for r in rollouts for value in r.logprobs_T]
    return -statistics.fmean(logs) if logs else 0.0


def _kl_figures(pairs: list[tuple[list[float], list[float]]]) -> dict[str, float]:
    sums = [kl_estimates(q, ref) for q, ref in pairs]
    num_tokens = max(1, sum(len(q) for q, _ in pairs))
    return {
        "kl": sum(k3 for _, k3 in sums) / num_tokens,
        "kl_per_answer": sum(k1 for k1, _ in sums) / len(sums),
    }


def _with_signal(data: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The data that have a gradient; if none has, one of them, so that the step is taken all the same."""
    kept = [d for d in data if any(d["advantages"]) and any(d["weights"])]
    weighted = [d for d in data if any(d["weights"])]
    if not weighted:
        raise InvalidRequestError(
            "Every answer of this step was cut at max_completion_length, and mask_truncated_completions leaves none of "
            "them. Raise max_completion_length.",
            field="max_completion_length",
        )
    return kept or weighted[:1]
