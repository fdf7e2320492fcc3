"""The likeliest tokens of a teacher at every position of given answers, and training data made of them.

Knows the client and how alternatives of one position become data: one datum for each rank, so that any service whose
labels are one token per position can train on them. Called by the distillation recipe. Axes: T tokens of an answer,
K alternatives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from eztinker.rl.candidates import JOB_TIMEOUT_S
from eztinker.rl.training import IGNORED_LABEL

Top = list[tuple[int, float]]
"""(token id, log-probability) of the likeliest tokens, best first."""


def top_tokens(
    client: Any,
    run_id: str,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    k: int,
) -> list[list[Top]]:
    """The teacher's k likeliest tokens at every position of every answer.

    Args:
        run_id: the teacher.
        prompts: ids before each answer, at least one.
        answers: ids of each answer.
        k: alternatives.
    """
    handles = [
        client.submit_sample(
            [*prompt, *answer],
            max_new_tokens=1,
            temperature=0.0,
            run_id=run_id,
            num_samples=1,
            topk_prompt_logprobs=k,
        )
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    found = []
    for handle, prompt in zip(handles, prompts, strict=True):
        job = client.wait_for_job(handle.job_id, timeout=JOB_TIMEOUT_S, polling_interval=0.05)
        rows = job["result"]["topk_prompt_logprobs"][len(prompt) :]
        found.append([[(int(token), float(log)) for token, log in row] for row in rows])
    return found


def topk_data(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    tops: Sequence[Sequence[Top]],
    weight: float,
) -> list[dict[str, list[Any]]]:
    """Data whose summed cross entropy is weight·Σ_t Σ_k p_tk·(−log π(k | …)), the p_tk of a position adding up to 1.

    Args:
        tops: per answer and position.
        weight: of every position.
    """
    data = []
    for prompt, answer, rows in zip(prompts, answers, tops, strict=True):
        shares = [_shares(row) for row in rows]
        for rank in range(max((len(row) for row in rows), default=0)):
            labels, weights = [IGNORED_LABEL] * len(prompt), [0.0] * len(prompt)
            for row, share in zip(rows, shares, strict=True):
                has_rank = rank < len(row)
                labels.append(row[rank][0] if has_rank else IGNORED_LABEL)
                weights.append(weight * share[rank] if has_rank else 0.0)
            ids = [*prompt, *answer]
            data.append({"input_ids": ids, "target_ids": labels, "weights": weights})
    return data


def _shares(row: Top) -> list[float]:
    mass = [math.exp(log) for _, log in row]
    total = sum(mass)
    return [part / total for part in mass]
