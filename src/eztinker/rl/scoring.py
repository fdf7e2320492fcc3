"""Token log-probabilities of given answers under a run: reference, teacher, reward model.

``forward`` with the answer's tokens as labels gives them; a run whose adapter was never trained is its base model.
Knows the client. Called by the recipes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eztinker.rl.candidates import JOB_TIMEOUT_S
from eztinker.rl.training import IGNORED_LABEL, in_batches

DATA_PER_REQUEST = 64


def label_logprobs(client: Any, run_id: str, data: Sequence[dict[str, Any]]) -> list[list[float]]:
    """Log-probability of every label that counts, per datum, in order.

    Args:
        data: with ``input_ids`` and ``target_ids``; further inputs are left out.
    """
    plain = [{"input_ids": d["input_ids"], "target_ids": d["target_ids"]} for d in data]
    handles = [
        client.submit_forward(
            run_id, data=list(part), loss_fn="cross_entropy", loss_fn_config={"reduction": "sum"}
        )
        for part in in_batches(plain, DATA_PER_REQUEST)
    ]
    rows = [row for handle in handles for row in handle.result(JOB_TIMEOUT_S)["logprobs"]]
    return [_counting(row, datum["target_ids"]) for row, datum in zip(rows, plain, strict=True)]


def answer_logprobs(
    client: Any, run_id: str, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> list[list[float]]:
    """Log-probability of every token of answers to prompts, per answer."""
    data = [
        {
            "input_ids": [*prompt, *answer],
            "target_ids": [IGNORED_LABEL] * len(prompt) + list(answer),
        }
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return label_logprobs(client, run_id, data)


def _counting(row: Sequence[float | None], labels: Sequence[int]) -> list[float]:
    """Values at labels that count; the first label has no predecessor."""
    return [
        value
        for place, (value, label) in enumerate(zip(row, labels, strict=True))
        if place and label != IGNORED_LABEL and value is not None
    ]
