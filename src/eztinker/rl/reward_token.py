"""A reward read from a token: r(x, y) = log p(token | x, y), the log-probability of one token after the answer.

So a reward model is a run like any other: no second head, no other route, and its checkpoints are ordinary adapters.
The pairwise loss of Bradley and Terry, −log σ(r_chosen − r_rejected) (Ouyang et al. 2022, arXiv:2203.02155, eq. 1),
is then the service's ``dpo`` loss with β = 1, no reference and a single label. Scores are at most 0 and have no
lower bound; only their differences mean anything. Called by the recipes and scorers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eztinker.errors import InvalidRequestError
from eztinker.rl.candidates import JOB_TIMEOUT_S
from eztinker.rl.scoring import DATA_PER_REQUEST
from eztinker.rl.training import IGNORED_LABEL, in_batches

CANDIDATES = ("Yes", " Yes", "yes", " yes", "1")


def reward_token_id(tokenizer: Any, text: str | None = None) -> int:
    """Id of the token that is read.

    Args:
        tokenizer: of the base model.
        text: the token as text; None takes the first of ``CANDIDATES`` that is a single token.

    Raises:
        InvalidRequestError: the text is not one token.
    """
    for candidate in CANDIDATES if text is None else (text,):
        ids = list(tokenizer.encode(candidate, add_special_tokens=False))
        if len(ids) == 1:
            return ids[0]
    raise InvalidRequestError(
        f"reward_token must be a text of exactly one token, got {text!r}. Name another, such as a digit.",
        field="reward_token",
    )


def reward_datum(tokens: Sequence[int], reward_token: int) -> dict[str, list[Any]]:
    """A sequence with the token behind it as its only label, and no reference."""
    before = len(tokens)
    return {
        "input_ids": [*tokens, reward_token],
        "target_ids": [IGNORED_LABEL] * before + [reward_token],
        "weights": [0.0] * before + [1.0],
        "logprobs": [0.0] * (before + 1),
    }


def reward_scores(
    client: Any, run_id: str, sequences: Sequence[Sequence[int]], reward_token: int
) -> list[float]:
    """Scores of sequences under a reward model."""
    handles = [
        client.submit_evaluate(
            run_id,
            [{"prompt_ids": list(s), "response_ids": [reward_token]} for s in part],
        )
        for part in in_batches(sequences, DATA_PER_REQUEST)
    ]
    return [score for handle in handles for score in handle.result(JOB_TIMEOUT_S)["log_probs"]]
