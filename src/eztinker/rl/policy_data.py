"""Training data of policy losses: answers with their log-probabilities, advantages and weights.

Lays lists out as ``forward_backward`` takes them: one entry per token, labels at the place of their token, nothing
counts on the prompt. Also what can be said about how far a policy has moved from the one that sampled. Pure.
Called by the RL recipes. Axes: T tokens of an answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from eztinker.rl.training import IGNORED_LABEL

Normalisation = Literal["grpo", "dapo", "dr_grpo"]


def policy_datum(
    prompt_tokens: Sequence[int],
    tokens_T: Sequence[int],
    logprobs_T: Sequence[float],
    advantages_T: Sequence[float],
    weight: float,
    *,
    has_ratio_mask: bool = False,
) -> dict[str, list[Any]]:
    """One answer for ``importance_sampling``, ``ppo``, ``cispo`` or ``gspo``.

    Args:
        prompt_tokens: ids before the answer, at least one.
        tokens_T: ids of the answer.
        logprobs_T: under the policy that sampled.
        advantages_T: one per token.
        weight: of every token of this answer in the sum.
        has_ratio_mask: also mark the answer's tokens for gspo's sequence ratio.
    """
    before, length = len(prompt_tokens), len(tokens_T)
    datum: dict[str, list[Any]] = {
        "input_ids": [*prompt_tokens, *tokens_T],
        "target_ids": [IGNORED_LABEL] * before + list(tokens_T),
        "weights": [0.0] * before + [weight] * length,
        "logprobs": [0.0] * before + list(logprobs_T),
        "advantages": [0.0] * before + list(advantages_T),
    }
    if has_ratio_mask:
        datum["sequence_ratio_mask"] = [0.0] * before + [1.0] * length
    return datum


def answer_weights(
    lengths: Sequence[int], normalisation: Normalisation, max_new_tokens: int
) -> list[float]:
    """Weight of every token of each answer, so that a sum over all tokens is the loss of a step.

    ``grpo``: mean over answers of the mean over their tokens (arXiv:2402.03300, eq. 3). ``dapo``: mean over all
    tokens (Yu et al. 2025, arXiv:2503.14476, eq. 8). ``dr_grpo``: mean over answers of the sum over their tokens
    divided by the longest that was allowed (arXiv:2503.20783).
    """
    count = len(lengths)
    if normalisation == "grpo":
        return [1.0 / (count * max(1, length)) for length in lengths]
    if normalisation == "dapo":
        return [1.0 / max(1, sum(lengths))] * count
    return [1.0 / (count * max_new_tokens)] * count


def kl_advantages(
    advantage: float, logprobs_T: Sequence[float], reference_T: Sequence[float], beta: float
) -> list[float]:
    """Advantages with the price of leaving the reference: A − β·(log q_t − log ref_t), token by token.

    The policy gradient of the second part is that of β·KL(π ‖ ref), estimated on the sampled tokens (k1 of
    Schulman's http://joschu.net/blog/kl-approx.html, as a part of the reward: Ouyang et al. 2022, arXiv:2203.02155).
    """
    return [advantage - beta * (q - ref) for q, ref in zip(logprobs_T, reference_T, strict=True)]


def kl_estimates(logprobs_T: Sequence[float], reference_T: Sequence[float]) -> tuple[float, float]:
    """Sums over tokens of k1 = log q − log ref and of k3 = ref/q − 1 − log(ref/q), which is never negative."""
    k1 = sum(q - ref for q, ref in zip(logprobs_T, reference_T, strict=True))
    k3 = sum(
        math.expm1(min(ref - q, 50.0)) - (ref - q)
        for q, ref in zip(logprobs_T, reference_T, strict=True)
    )
    return k1, k3


def off_policy_figures(
    trained: Sequence[Sequence[float | None]],
    data: Sequence[dict[str, Any]],
    bounds: tuple[float, float] | None,
) -> dict[str, float]:
    """How far the trained policy p is from the one q that sampled, over all tokens that count.

    Args:
        trained: log p per datum and label, as ``forward_backward`` returns them.
        data: the data of that pass, with ``logprobs`` (log q) and ``weights``.
        bounds: of the ratio p/q in the loss; None where it has none.

    Returns:
        ``ratio_mean``, ``ratio_max``, ``off_policy_kl`` (k3 of q against p), ``effective_share`` (Kish's effective
        sample size of the ratios over their number) and ``clipped_share`` where there are bounds.
    """
    logs = [
        p - q
        for row, datum in zip(trained, data, strict=True)
        for p, q, weight in zip(row, datum["logprobs"], datum["weights"], strict=True)
        if weight and p is not None
    ]
    if not logs:
        return {}
    ratios = [math.exp(min(log, 50.0)) for log in logs]
    total = sum(ratios)
    figures = {
        "ratio_mean": total / len(ratios),
        "ratio_max": max(ratios),
        "off_policy_kl": sum(r - 1 - log for r, log in zip(ratios, logs, strict=True)) / len(logs),
        "effective_share": total * total / sum(r * r for r in ratios) / len(ratios),
    }
    if bounds is not None:
        low, high = bounds
        figures["clipped_share"] = sum(not low <= r <= high for r in ratios) / len(ratios)
    return figures
