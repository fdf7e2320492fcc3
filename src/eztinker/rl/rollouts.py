"""Rollouts: groups of answers sampled for reinforcement learning, with the tokens and log-probabilities they had.

Samples many prompts at once from a run and remembers with which weights. It scores nothing. Called by the RL
recipes. Axes: G answers of a group, T tokens of an answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from eztinker.errors import EZTinkerError, InvalidRequestError
from eztinker.rl.candidates import JOB_TIMEOUT_S, Example, Policy, encode_prompt, seed_of


@dataclass(frozen=True, slots=True)
class RolloutParams:
    """How to sample.

    Attributes:
        num_generations: answers of a group, G.
        temperature: above 0.
        top_p: nucleus mass in (0, 1].
        top_k: likeliest tokens to keep; -1 keeps all.
        max_new_tokens: most tokens of an answer.
        stop: texts that end an answer, beside the model's end tokens.
    """

    num_generations: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rollout:
    """One answer.

    Attributes:
        text: without the prompt and without a stop text.
        tokens_T: ids that were sampled, stop tokens included.
        logprobs_T: of each token under the sampling distribution (temperature applied, before top-k and top-p).
        stop_reason: ``stop`` or ``length``.
        reward: None until scored.
        grade: what the scorer said beside the reward.
        policy_logprobs_T: of each token under the policy itself, where sampling was of another distribution and the
            trainer was asked for them.
    """

    text: str
    tokens_T: list[int]
    logprobs_T: list[float]
    stop_reason: str
    reward: float | None = None
    grade: Mapping[str, Any] = field(default_factory=dict)
    policy_logprobs_T: list[float] | None = None

    def scored(self, reward: float, grade: Mapping[str, Any]) -> Rollout:
        """The same with its reward."""
        return replace(self, reward=reward, grade=dict(grade))


@dataclass(frozen=True, slots=True)
class Group:
    """Answers to one prompt.

    Attributes:
        example: the question.
        prompt_tokens: ids that the answers continue.
        rollouts_G: the answers.
        weights_step: optimizer steps of the run behind the weights that answered.
    """

    example: Example
    prompt_tokens: list[int]
    rollouts_G: list[Rollout]
    weights_step: int

    @property
    def rewards_G(self) -> list[float]:  # noqa: N802  the axis stands in the name
        """Rewards; every rollout must be scored."""
        return [_reward(rollout) for rollout in self.rollouts_G]

    def as_row(self) -> dict[str, Any]:
        """The group in JSON types, as it is kept in ``rollouts/``."""
        row = {**asdict(self.example), "prompt_tokens": self.prompt_tokens}
        rollouts = [asdict(rollout) for rollout in self.rollouts_G]
        return row | {"weights_step": self.weights_step, "rollouts": rollouts}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Group:
        """The group of a row."""
        names = ("example_id", "question", "prompt", "ground_truth")
        rollouts = [Rollout(**rollout) for rollout in row["rollouts"]]
        example = Example(**{name: row[name] for name in names})
        return cls(example, row["prompt_tokens"], rollouts, row["weights_step"])


def read_groups(path: Path) -> list[Group]:
    """The groups of a file in ``rollouts/``."""
    # split("\n"), not splitlines(): U+2028 and its like may stand inside an answer.
    lines = path.read_text(encoding="utf-8").split("\n")
    return [Group.from_row(json.loads(line)) for line in lines if line]


def _reward(rollout: Rollout) -> float:
    if rollout.reward is None:
        raise InvalidRequestError("A rollout has no reward yet: score it first.")
    return rollout.reward


@dataclass(frozen=True, slots=True)
class PendingGroup:
    """A group on its way: what was asked, and the job."""

    example: Example
    prompt_tokens: list[int]
    handle: Any


def submit_groups(
    client: Any,
    policy: Policy,
    tokenizer: Any,
    examples: Sequence[Example],
    params: RolloutParams,
    *,
    seed: int,
    purpose: str,
) -> list[PendingGroup]:
    """Ask for a group of answers to every example; the server decodes all of them together.

    Args:
        seed: equal seeds, purposes and weights give equal answers.
        purpose: what the samples are for, such as ``step 12``; purposes do not share random numbers.
    """
    pending = []
    for example in examples:
        prompt_tokens = encode_prompt(tokenizer, example.prompt, example.question)
        handle = client.submit_sample(
            prompt_tokens,
            max_new_tokens=params.max_new_tokens,
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            num_samples=params.num_generations,
            stop=list(params.stop) or None,
            seed=seed_of(seed, purpose, example.example_id),
            **policy.as_arguments(),
        )
        pending.append(PendingGroup(example, prompt_tokens, handle))
    return pending


def collect_group(client: Any, pending: PendingGroup) -> Group:
    """Wait for a group."""
    job = client.wait_for_job(pending.handle.job_id, timeout=JOB_TIMEOUT_S, polling_interval=0.05)
    result = job["result"]
    rollouts = [
        Rollout(s["text"], s["tokens"], s["logprobs"], s["stop_reason"])
        for s in result["sequences"]
    ]
    return Group(pending.example, pending.prompt_tokens, rollouts, result["step"])


def cancel_groups(pending: Sequence[PendingGroup]) -> None:
    """Tell the server that nobody will read these."""
    for one in pending:
        with suppress(EZTinkerError, TimeoutError):
            one.handle.cancel()
