"""The evaluation harness: answers to held-out questions, graded, with pass@k, intervals and a table by type.

Samples with a policy (a run, a checkpoint or a base model), has the data set grade, and counts. It trains nothing.
Called by the recipes, of which ``recipes/evaluate.py`` is the one behind ``eztinker eval``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eztinker.errors import InvalidRequestError
from eztinker.rl.candidates import CandidateParams, Example, Policy, sample_candidates
from eztinker.rl.evaluation import is_unverified, wilson_interval
from eztinker.rl.pass_at_k import mean_with_interval, pass_at_k


@dataclass(frozen=True, slots=True)
class Answered:
    """One question with all its answers.

    Attributes:
        example: the question.
        kind: its type, for the table; empty when the data set has none.
        texts: answers, in the order of seeds and samples.
        grades: one for each answer, as ``Dataset.evaluate_answer`` gives it.
    """

    example: Example
    kind: str
    texts: list[str]
    grades: list[Mapping[str, Any]]

    @property
    def num_correct(self) -> int:
        """Answers that were right."""
        return sum(bool(grade["is_correct"]) for grade in self.grades)

    def rows(self) -> list[dict[str, Any]]:
        """One JSON row for each answer."""
        facts = {"example_id": self.example.example_id, "question": self.example.question}
        facts |= {"ground_truth": self.example.ground_truth, "type": self.kind}
        return [
            {**facts, "answer": text, **grade}
            for text, grade in zip(self.texts, self.grades, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Scorecard:
    """What an evaluation found.

    Attributes:
        answered: every question with its answers.
        ks: for which k pass@k is reported.
    """

    answered: list[Answered]
    ks: tuple[int, ...] = (1,)

    def figures(self) -> dict[str, Any]:
        """JSON figures over all questions.

        Returns:
            ``accuracy`` (share of right answers), ``ci95`` (Wilson over questions, for one answer each; else of
            the mean over questions), ``pass_at_k`` and ``pass_at_k_ci95`` by k, ``mean_score``, ``num_examples``,
            ``num_answers``, ``num_unreadable`` (answers without anything to compare; they count as wrong),
            ``num_unverified``, and ``by_type`` with the same for every type if there is more than one.
        """
        overall = self._figures(self.answered)
        kinds: dict[str, list[Answered]] = defaultdict(list)
        for one in self.answered:
            kinds[one.kind].append(one)
        if len(kinds) > 1:
            overall["by_type"] = {kind: self._figures(kinds[kind]) for kind in sorted(kinds)}
        return overall

    def _figures(self, answered: Sequence[Answered]) -> dict[str, Any]:
        grades = [grade for one in answered for grade in one.grades]
        num_correct = sum(one.num_correct for one in answered)
        by_k = {
            k: mean_with_interval([pass_at_k(len(o.grades), o.num_correct, k) for o in answered])
            for k in self.ks
        }
        is_single = all(len(one.grades) == 1 for one in answered)
        interval = (
            wilson_interval(num_correct, len(grades))
            if is_single
            else mean_with_interval([o.num_correct / len(o.grades) for o in answered])[1:]
        )
        return {
            "accuracy": num_correct / len(grades),
            "ci95": list(interval),
            "pass_at_k": {str(k): value for k, (value, _, _) in by_k.items()},
            "pass_at_k_ci95": {str(k): [low, high] for k, (_, low, high) in by_k.items()},
            "mean_score": sum(grade["score"] for grade in grades) / len(grades),
            "num_examples": len(answered),
            "num_answers": len(grades),
            "num_unreadable": sum(grade.get("strategy") == "no_answer" for grade in grades),
            "num_unverified": sum(is_unverified(dict(grade)) for grade in grades),
        }

    def table(self) -> list[tuple[str, ...]]:
        """Rows of a table: type, questions, accuracy, interval, pass@k for every k above 1."""
        figures = self.figures()
        lines = [("all", figures), *figures.get("by_type", {}).items()]
        return [
            (
                kind,
                str(row["num_examples"]),
                f"{row['accuracy']:.1%}",
                f"{row['ci95'][0]:.1%} - {row['ci95'][1]:.1%}",
                *(f"{row['pass_at_k'][str(k)]:.1%}" for k in self.ks if k > 1),
            )
            for kind, row in lines
        ]


@dataclass(frozen=True, slots=True)
class EvaluationParams:
    """How to evaluate.

    Attributes:
        sampling: of each answer; ``num_candidates`` answers per question and seed.
        seeds: the whole set is answered once with each.
        ks: for which k pass@k is reported; each at most the answers per question.
    """

    sampling: CandidateParams = field(
        default_factory=lambda: CandidateParams(num_candidates=1, temperature=0.0)
    )
    seeds: tuple[int, ...] = (0,)
    ks: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        most = self.sampling.num_candidates * len(self.seeds)
        if not self.seeds or not self.ks or min(self.ks) < 1 or max(self.ks) > most:
            raise InvalidRequestError(
                f"pass@k needs at least k answers per question: k is {list(self.ks)}, and "
                f"{self.sampling.num_candidates} samples x {len(self.seeds)} seeds are {most}.",
                field="ks",
            )


def evaluate_examples(
    client: Any,
    policy: Policy | str,
    tokenizer: Any,
    dataset: Any,
    examples: Sequence[Example],
    params: EvaluationParams,
    *,
    kind_of: Callable[[Example], str] | None = None,
    track: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Scorecard:
    """Answer and grade every example.

    Args:
        policy: who answers; a run's id is short for its current weights.
        dataset: its ``evaluate_answer`` grades.
        examples: at least one.
        params: how to answer.
        kind_of: type of an example; None takes ``dataset.kind_of`` if there is one.
        track: is handed the answered examples as they come, one per example and seed.

    Raises:
        InvalidRequestError: there is no example (``code="empty_dataset"``).
    """
    if not examples:
        raise InvalidRequestError(
            "There is no example to evaluate.", code="empty_dataset", field="eval_size"
        )
    of_type = kind_of or (lambda example: _kind(dataset, example))
    found = {e.example_id: Answered(e, of_type(e), [], []) for e in examples}
    answers = (
        answered
        for seed in params.seeds
        for answered in sample_candidates(
            client, policy, tokenizer, examples, params.sampling, seed=seed, purpose="evaluation"
        )
    )
    for example, candidates in track(answers):
        one = found[example.example_id]
        for text in map(str, candidates):
            one.texts.append(text)
            one.grades.append(dataset.evaluate_answer(text, example.ground_truth, example.question))
    return Scorecard(list(found.values()), params.ks)


def _kind(dataset: Any, example: Example) -> str:
    """Type of a row: what the data set says under ``type``, ``kind`` or ``level``."""
    row = dataset[example.example_id]
    return next((str(row[name]) for name in ("type", "kind", "level") if name in row), "")
