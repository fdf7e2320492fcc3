"""Generated preference pairs: a worked answer that is right against a careless or wrong one.

For trying DPO and reward models without files: the questions of ``generated-math``, each with the answer worked out
and an answer that a hurried writer would give (a bare wrong number, a guess, or work that ends in a wrong result).
Made from a seed. Called by the recipes on pairs.
"""

from __future__ import annotations

import random

from eztinker.dataset.generated.problem import Problem
from eztinker.dataset.generated.sets import GeneratedMathDataset
from eztinker.dataset.preference import PreferencePair

NAME = "generated-preference"


def generated_pairs(split: str, size: int, seed: int = 0) -> list[PreferencePair]:
    """Pairs over distinct questions.

    Args:
        split: ``train`` or ``test``; no problem of one occurs in the other.
        size: number of pairs.
        seed: other seeds give other pairs.
    """
    dataset = GeneratedMathDataset(split, size, seed)
    rng = random.Random(f"{NAME}/{split}/{seed}")  # noqa: S311  not for secrets
    return [
        PreferencePair(
            dataset.prompt(problem), dataset.worked_answer(problem), _careless(problem, rng)
        )
        for problem in dataset.problems
    ]


def _careless(problem: Problem, rng: random.Random) -> str:
    wrong = rng.choice(problem.near_misses or (str(int(problem.answer) + rng.randint(1, 9)),))
    ways = (
        f" {wrong}\n#### {wrong}",
        f" It is about {wrong}.\n#### {wrong}",
        f" {problem.solution}\n#### {wrong}",
    )
    return rng.choice(ways)
