"""Stage 3, evaluation: does a model judge by the law in its prompt, also after the law was changed?

Every folder's cases are judged under the original and under the poisoned statutes; whether an answer succeeds
follows from what the folder's change of law does. Results per folder and in all, with intervals. Called by
``eval/evaluate.py`` and ``eztinker recipe lawshift-eval``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import Field

from eztinker.dataset.lawshift import Folder, find_folders, read_folder, verdict_text
from eztinker.errors import InvalidRequestError
from eztinker.grading.legal import LabelCode, LegalGrade, Split, grade_verdict, succeeds
from eztinker.recipes.experiment.journal import Journal
from eztinker.recipes.experiment.plan import Plan
from eztinker.recipes.experiment.policy import context_length, policy_of
from eztinker.recipes.lawshift.asking import (
    Asked,
    Asker,
    AskingConfig,
    answer_room,
    count_problems,
    longest_prompt,
    room_for_prompt,
)
from eztinker.recipes.terminal import Progress, pick
from eztinker.rl.candidates import (
    Candidate,
    CandidateParams,
    Example,
    Policy,
    sample_candidates,
    whole_text,
)
from eztinker.rl.durable import write_text
from eztinker.rl.pass_at_k import mean_with_interval

NAME = "lawshift-eval"
SPLITS: tuple[Split, ...] = get_args(Split)

NOT_ASKED = {
    "text": "",
    "verdict": None,
    "success": False,
    "is_exact": False,
    "reason": "prompt_too_long",
}
"""Stands for the answer to a case whose statutes do not fit: it counts, as not right."""


class Config(AskingConfig):
    """What the evaluation can be told; the documented names."""

    test_dir: Path = Field(Path("LawShift"), description="A test folder, or a folder of them.")
    output_dir: Path = Field(Path("results"), description="Where results go.")
    num_samples: int = Field(1, ge=1, le=256, description="Answers to each case, averaged.")
    temperature: float = Field(0.0, ge=0, description="0 is greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass.")
    max_samples: int | None = Field(None, ge=1, description="The first so many cases of a folder.")
    overwrite: bool = Field(False, description="Start afresh although results exist.")

    def check_effect(self) -> None:
        """Several greedy answers would all be the same."""
        if self.num_samples > 1 and self.temperature == 0:
            self.refuse(
                "num_samples",
                "num_samples above 1 needs a temperature above 0; greedy answers are alike.",
            )
        if self.temperature == 0:
            self.needs("top_p", False, "at temperature 0")


@dataclass(frozen=True, slots=True)
class Judge:
    """Who answers, and with how much room."""

    policy: Policy
    tokenizer: Any
    context: int | None
    config: Config

    @property
    def room(self) -> int:
        """For a prompt, in tokens."""
        return room_for_prompt(self.config.max_prompt_length, self.context)

    def asked(self, folder: Folder, split: Split) -> list[Asked]:
        """A split's cases as prompts; poisoned statutes are announced as new law."""
        asker = Asker(self.tokenizer, self.room, is_strict=self.config.strict)
        articles = folder.articles[split]
        return [
            asker.ask(case, articles, is_new_law=split == "poisoned")
            for case in folder.cases[split]
        ]

    def params(self, asked: Sequence[Asked]) -> CandidateParams:
        """How to sample, given the longest prompt."""
        config = self.config
        longest = longest_prompt(asked, self.room)
        room = answer_room(config.max_new_tokens, longest, self.context)
        return CandidateParams(
            config.num_samples, config.temperature, room, stop=(), top_p=config.top_p
        )


def plan(config: Config, client: Any) -> Plan:
    """What would be judged."""
    folders = [read_folder(path, config.max_samples) for path in find_folders(config.test_dir)]
    num_cases = sum(len(folder.cases[split]) for folder in folders for split in SPLITS)
    facts = {
        "folders": {folder.name: folder.label for folder in folders},
        "cases": num_cases,
        "answers": num_cases * config.num_samples,
    }
    return Plan(NAME, facts, settings=config.resolved())


def run(config: Config, client: Any, progress: Progress) -> dict[str, Any]:
    """Judge everything that is not judged yet; the figures of all folders.

    Writes ``<folder>_results.json`` for every folder, ``summary.json`` and ``summary.md``.
    """
    folders = [read_folder(path, config.max_samples) for path in find_folders(config.test_dir)]
    policy, base = policy_of(client, config.model_path, config.base_model)
    judge = Judge(policy, client.get_tokenizer(base), context_length(client, base), config)
    results = [_folder_results(judge, folder, client, progress) for folder in folders]
    summary = {
        "model": config.model_path,
        "folders": {one["folder"]: one["accuracy"] for one in results},
        "labels": {one["folder"]: one["label"] for one in results},
        "total": {split: _total(results, split) for split in SPLITS},
        "by_label": _by_label(results),
    }
    write_text(config.output_dir / "summary.json", _json(summary))
    write_text(config.output_dir / "summary.md", summary_table(summary))
    return {**summary, "summary": str(config.output_dir / "summary.md")}


def _folder_results(
    judge: Judge, folder: Folder, client: Any, progress: Progress
) -> dict[str, Any]:
    config = judge.config
    output = config.output_dir / f"{folder.name}_results.json"
    settings = {k: v for k, v in config.resolved().items() if k not in ("test_dir", "output_dir")}
    if output.exists() and not config.overwrite:
        return _finished(output, settings)
    with Journal.open(output, settings, overwrite=config.overwrite) as journal:
        asked: dict[Split, list[Asked]] = {s: judge.asked(folder, s) for s in SPLITS}
        predictions = {
            split: _predictions(judge, folder, split, asked, client, journal, progress)
            for split in SPLITS
        }
        results = {
            "folder": folder.name,
            "label": folder.label,
            "accuracy": {split: figures(predictions[split]) for split in SPLITS},
            "problems": {split: count_problems(asked[split]) for split in SPLITS},
            "settings": settings,
            "predictions": predictions,
        }
        write_text(output, _json(results))
        journal.finish()
    return results


def _finished(output: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Results of an earlier call, if they are of the same settings."""
    results = json.loads(output.read_text(encoding="utf-8"))
    held = results["settings"]
    if {**held, "overwrite": None} != {**settings, "overwrite": None}:
        raise InvalidRequestError(
            f"{output} holds results of other settings. Name another --output_dir, or pass --overwrite.",
            code="experiment_mismatch",
            field="output_dir",
        )
    return results


def _predictions(
    judge: Judge,
    folder: Folder,
    split: Split,
    asked_by_split: Mapping[Split, list[Asked]],
    client: Any,
    journal: Journal,
    progress: Progress,
) -> list[dict[str, Any]]:
    asked = asked_by_split[split]
    if not asked:
        raise InvalidRequestError(
            f"{folder.name}/{split}.json holds no case.", code="empty_dataset", field="test_dir"
        )
    first = 0 if split == SPLITS[0] else len(asked_by_split[SPLITS[0]])
    left = [i for i in range(len(asked)) if first + i not in journal.done]
    fitting = [i for i in left if asked[i].fits]
    answers = _answers(judge, asked, fitting, f"{folder.name}/{split}", client)
    for index in left:
        if not asked[index].fits:
            journal.add({"index": first + index, "answers": [NOT_ASKED]})
    label = f"{folder.name} {pick(split, {'original': '原法', 'poisoned': '新法'}[split])}"
    for index, candidates in progress.track(label, answers, len(fitting)):
        judged = [_judged(judge, asked[index], c, folder.label, split) for c in candidates]
        journal.add({"index": first + index, "answers": judged})
    return [
        {
            "case_id": one.case.case_id,
            "expected": verdict_text(one.case.verdict),
            "success": _share(journal.done[first + i]["answers"], "success"),
            "answers": journal.done[first + i]["answers"],
        }
        for i, one in enumerate(asked)
    ]


def _answers(
    judge: Judge, asked: Sequence[Asked], left: Sequence[int], purpose: str, client: Any
) -> Iterator[tuple[int, list[Candidate]]]:
    examples = [Example(i, "", asked[i].prompt, "") for i in left]
    for example, candidates in sample_candidates(
        client, judge.policy, judge.tokenizer, examples, judge.params(asked), seed=judge.config.seed, purpose=purpose
    ):  # fmt: skip
        yield example.example_id, candidates


def _judged(
    judge: Judge, asked: Asked, candidate: Candidate, label: LabelCode, split: Split
) -> dict[str, Any]:
    text = whole_text(judge.tokenizer, candidate)
    grade: LegalGrade = grade_verdict(text, asked.case.verdict)
    found = None if candidate.stop_reason == "length" else grade.verdict
    return {
        "text": text,
        "verdict": None if found is None else verdict_text(found),
        "success": succeeds(label, split, found),
        "is_exact": found is not None and grade.is_correct,
        "reason": "cut_off" if candidate.stop_reason == "length" else grade.reason,
    }


# Figures ------------------------------------------------------------------------------------------


def figures(predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures of a split.

    Returns:
        ``accuracy``: mean over cases of the share of answers that succeed, with ``ci95``; ``exact``: the same for
        charge and term as the court decided; ``num_cases``; ``reasons``: how the answers compare with the court.
    """
    accuracy, low, high = mean_with_interval([one["success"] for one in predictions])
    exact = [_share(one["answers"], "is_exact") for one in predictions]
    reasons = Counter(answer["reason"] for one in predictions for answer in one["answers"])
    return {
        "accuracy": accuracy,
        "ci95": [low, high],
        "exact": sum(exact) / len(exact),
        "exact_ci95": list(mean_with_interval(exact)[1:]),
        "num_cases": len(predictions),
        "reasons": dict(reasons.most_common()),
    }


def _share(answers: Sequence[dict[str, Any]], key: str) -> float:
    return sum(bool(answer[key]) for answer in answers) / len(answers)


def _total(results: Sequence[dict[str, Any]], split: Split) -> dict[str, Any]:
    return figures([one for result in results for one in result["predictions"][split]])


def _by_label(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    labels = dict.fromkeys(result["label"] for result in results)
    return {
        label: {
            split: _total([one for one in results if one["label"] == label], split)
            for split in SPLITS
        }
        for label in labels
    }


def summary_table(summary: dict[str, Any]) -> str:
    """``summary.md``: original, poisoned and their difference, for every folder, label and in all."""
    lines = [
        f"# LawShift: {summary['model']}",
        "",
        "| folder | label | cases | original | poisoned | difference | charge and term (original) |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
        *(_line(name, summary["labels"][name], row) for name, row in summary["folders"].items()),
        *(_line("all of this label", label, row) for label, row in summary["by_label"].items()),
        _line("**all**", "", summary["total"]),
    ]
    return "\n".join(lines) + "\n"


def _line(name: str, label: str, row: dict[str, Any]) -> str:
    original, poisoned = row["original"], row["poisoned"]
    cells = [
        name,
        label,
        f"{original['num_cases']} + {poisoned['num_cases']}",
        _with_interval(original["accuracy"], original["ci95"]),
        _with_interval(poisoned["accuracy"], poisoned["ci95"]),
        f"{poisoned['accuracy'] - original['accuracy']:+.1%}",
        _with_interval(original["exact"], original["exact_ci95"]),
    ]
    return f"| {' | '.join(cells)} |"


def _with_interval(value: float, ci95: Sequence[float]) -> str:
    return f"{value:.1%} [{ci95[0]:.1%}, {ci95[1]:.1%}]"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"
