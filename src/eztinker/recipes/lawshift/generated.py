"""Cases in LawShift's layout, made on the spot: a toy criminal law, its statutes, and what happens when it changes.

Writes ``training_set.json`` and one test folder for each label code. In the poisoned statutes of a folder the rule
that its cases fall under is rewritten, as LawShift does with real ones: another threshold (V, NV), another term
(TU, TD), life instead of a term (XT), a term instead of life (NX). Practice material, not law. Called by the demo.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eztinker.dataset.generated.legal import CHARGES, LARGE_MONTHS, NOT_GUILTY, draw_legal
from eztinker.dataset.generated.problem import Split
from eztinker.grading.legal import LabelCode
from eztinker.rl.durable import write_text

ARTICLES = {charge.name: f"{900 + i}-0-0" for i, charge in enumerate(CHARGES)}
GENERAL_ID = "999-0-0"
"""Holds for every case and is cited by none, like the general part of a real code."""
GENERAL_TEXT = "系累犯的，加6个月；自首的，减3个月；退赃退赔的，减2个月。"


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to the law of a folder.

    Attributes:
        label: LawShift's code.
        takes: which cases belong into the folder, by the months of their sentence; None: not guilty.
        original: the rule of a charge before the change.
        poisoned: and after it.
    """

    label: LabelCode
    takes: Callable[[int | None], bool]
    original: Callable[[Any], str]
    poisoned: Callable[[Any], str]


def _rule(charge: Any) -> str:
    return charge.article


def _with_threshold(factor: float) -> Callable[[Any], str]:
    def rule(charge: Any) -> str:
        threshold = max(1, int(charge.threshold * factor))
        large = f"满{charge.threshold * max(10, int(10 * factor))}{charge.unit}的，加{LARGE_MONTHS}个月。"
        return f"{charge.name}：满{threshold}{charge.unit}的，处{charge.base_months}个月；{large}"

    return rule


def _with_term(term: str) -> Callable[[Any], str]:
    return lambda charge: f"{charge.name}：满{charge.threshold}{charge.unit}的，{term}。"


def _is_guilty(months: int | None) -> bool:
    return months is not None


def _is_middle(months: int | None) -> bool:
    return months is not None and 36 <= months <= 120


CHANGES: dict[str, Change] = {
    "action_explicit_extend": Change("V", _is_guilty, _rule, _with_threshold(0.5)),
    "action_explicit_reduce": Change("NV", _is_guilty, _rule, _with_threshold(1000)),
    "term_up": Change("TU", _is_middle, _rule, _with_term("处一百二十个月以上有期徒刑")),
    "term_down": Change("TD", _is_middle, _rule, _with_term("处三十六个月以下有期徒刑")),
    "term_extremity_in": Change("XT", _is_middle, _rule, _with_term("处无期徒刑或者死刑")),
    "term_extremity_out": Change(
        "NX", _is_middle, _with_term("处无期徒刑"), _with_term("处三十六个月以上有期徒刑")
    ),
}
"""Name of a folder -> its change."""


def write_generated(
    root: Path, *, num_train: int, num_test: int, num_held_out: int, seed: int
) -> None:
    """Write training set, statutes and test folders below ``root``.

    Args:
        root: made if needed.
        num_train: cases of the training set.
        num_test: cases of each test folder, none of which is in the training set.
        num_held_out: cases of ``held_out.json``: any, under the law as it is, none of the training set.
        seed: of all cases.
    """
    train = _draw("train", num_train, seed, lambda _: True)
    _write(root / "training_set.json", train)
    _write(root / "held_out.json", _draw("test", num_held_out, seed + 1, lambda _: True))
    _write(root / "articles_original.json", _articles(_rule))
    for name, change in CHANGES.items():
        cases = _draw("test", num_test, seed, change.takes)
        if change.label == "NX":
            cases = [{**case, "prison_time": "XT"} for case in cases]
        folder = root / name
        for split in ("original", "poisoned"):
            _write(folder / f"{split}.json", cases)
        _write(folder / "articles_original.json", _articles(change.original))
        _write(folder / "articles_poisoned.json", _articles(change.poisoned))


def _draw(
    split: Split, count: int, seed: int, takes: Callable[[int | None], bool]
) -> list[dict[str, Any]]:
    """Distinct cases of a split of the toy law."""
    rng = random.Random(f"lawshift/{split}/{seed}")  # noqa: S311  an exercise, not a secret
    cases: dict[str, dict[str, Any]] = {}
    while len(cases) < count:
        problem = draw_legal(rng, split)
        charge = problem.kind.removeprefix("legal_")
        verdict, _, months = problem.answer.partition(" | ")
        term = None if verdict == NOT_GUILTY else int(months)
        if takes(term):
            cases.setdefault(problem.question, _case(problem.question, charge, verdict, term))
    return list(cases.values())


def _case(fact: str, charge: str, verdict: str, term: int | None) -> dict[str, Any]:
    return {
        "fact": fact,
        "relevant_articles": [ARTICLES[charge]],
        "charge": verdict,
        "prison_time": 0 if term is None else term,
    }


def _articles(rule: Callable[[Any], str]) -> dict[str, str]:
    texts = {ARTICLES[charge.name]: rule(charge) for charge in CHARGES}
    return {**texts, GENERAL_ID: GENERAL_TEXT}


def _write(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")
