"""Evaluation of a base model, a run or a checkpoint on a data set: accuracy, pass@k, intervals, a table by type.

Trains nothing. Called by ``eztinker eval``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eztinker.dataset.base import get_dataset
from eztinker.errors import InvalidRequestError
from eztinker.recipes.terminal import Progress, pick
from eztinker.rl.candidates import CandidateParams, Policy, examples_of
from eztinker.rl.durable import write_text
from eztinker.rl.scorecard import EvaluationParams, Scorecard, evaluate_examples
from eztinker.rl.training_run import find_run


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What is evaluated, on what, and how.

    Attributes:
        policy: who answers.
        dataset: name in the registry of data sets.
        data_path: file or folder of the data set; None: where the data set looks by itself.
        split: of the data set.
        max_samples: questions, the first ones of the split; None: all.
        num_samples: answers to each question.
        temperature: 0 is greedy.
        max_new_tokens: most tokens of an answer.
        ks: for which k pass@k is reported.
        seed: of the samples, and of a generated data set.
        answers: JSONL file for every answer with its grade; None: not written.
    """

    policy: Policy
    dataset: str
    data_path: Path | None = None
    split: str = "test"
    max_samples: int | None = 100
    num_samples: int = 1
    temperature: float = 0.0
    max_new_tokens: int = 256
    ks: tuple[int, ...] = (1,)
    seed: int = 0
    answers: Path | None = None


def run_evaluation(options: EvaluationOptions, client: Any, progress: Progress) -> Scorecard:
    """Answer and grade.

    Raises:
        InvalidRequestError: several answers were asked for, which greedy decoding would make all alike; the
            file of answers exists.
    """
    _check(options)
    dataset = get_dataset(options.dataset, **_dataset_arguments(options))
    examples = examples_of(dataset, options.max_samples)
    params = EvaluationParams(
        CandidateParams(options.num_samples, options.temperature, options.max_new_tokens),
        seeds=(options.seed,),
        ks=options.ks,
    )

    def track(answered: Iterable[Any]) -> Iterable[Any]:
        return progress.track(pick("answering", "作答"), answered, len(examples))

    card = evaluate_examples(
        client, options.policy, _tokenizer(client, options.policy), dataset, examples, params, track=track
    )  # fmt: skip
    if options.answers is not None:
        rows = (row for one in card.answered for row in one.rows())
        write_text(
            options.answers, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        )
    return card


def _check(options: EvaluationOptions) -> None:
    if options.num_samples > 1 and options.temperature == 0:
        raise InvalidRequestError(
            f"{options.num_samples} answers at temperature 0 would all be the same. Give a temperature above 0, "
            "or one sample.",
            field="temperature",
        )
    if options.answers is not None and options.answers.exists():
        raise InvalidRequestError(
            f"{options.answers} exists. Name another file, or remove it.", field="answers"
        )


def _dataset_arguments(options: EvaluationOptions) -> dict[str, Any]:
    given: dict[str, Any] = {"split": options.split, "max_samples": options.max_samples}
    if options.data_path is not None:
        given["data_path"] = options.data_path
    elif options.dataset.startswith("generated-"):
        given["seed"] = options.seed
    return given


def _tokenizer(client: Any, policy: Policy) -> Any:
    """Of the base model behind the policy."""
    if policy.run_id is None:
        return client.get_tokenizer(policy.base_model)
    return client.get_tokenizer(find_run(client, policy.run_id)["base_model"])
