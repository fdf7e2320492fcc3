"""Stage 3: which distilled rows are good enough to train on, and which are held out.

First the rules: the form is complete, the answer right, the reasoning sound, the question not there yet. Then the judge's
four marks, if it is asked. What is left is split into training rows (``sft.jsonl``, ``rl.jsonl``) and ``test.jsonl``;
``filter_stats.json`` says why every other row went. Nothing is written before all is known. Called by
``scripts/3_filter_data.py`` and the recipe ``finance``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from eztinker.dataset.finance import (
    DistilledRow,
    RLRow,
    SFTRow,
    as_jsonl,
    normalised_question,
    read_records,
)
from eztinker.errors import EZTinkerError
from eztinker.grading.amounts import asked_unit
from eztinker.grading.finance import grade_finance
from eztinker.grading.reasoning import reasoning_fault
from eztinker.grading.reasoning_form import read_form
from eztinker.recipes.experiment.journal import Journal
from eztinker.recipes.finance.config import FinanceConfig
from eztinker.recipes.finance.judging import Judge, JudgeRequest, ModelJudge
from eztinker.recipes.finance.outputs import digest_of, refuse_finished_journal
from eztinker.recipes.finance.parts import FilterConfig
from eztinker.recipes.finance.split import split_rows
from eztinker.recipes.terminal import Progress, pick
from eztinker.rendering.finance import MARKS
from eztinker.rl.durable import write_text

NAME = "finance-filter"
KEPT = "kept"
UNREADABLE = "judge_unreadable"
LOW = "judge_score_low"


def run(
    config: FinanceConfig, client: Any, progress: Progress, *, judge: Judge | None = None
) -> dict[str, Any]:
    """Filter and split; statistics.

    Args:
        client: of the server; not asked when a judge is given or none is wanted.
        judge: who gives marks; None takes the model of ``config.judge``, unless ``config.use_judge`` is false.

    Raises:
        InvalidRequestError: the outputs are there (``code="output_exists"``), or half done with other settings.
        EZTinkerError: fewer than two rows are left (``code="nothing_kept"``); earlier outputs are untouched.
    """
    paths = config.paths
    rows = _distilled(config)
    if not config.overwrite:
        refuse_finished_journal(paths.filter_stats, paths.filter_stats, paths.distilled)
    judge = (judge or ModelJudge(client, config.judge)) if config.use_judge else None
    settings = {
        **config.filter.model_dump(mode="json"),
        "test_share": config.data.test_share,
        "seed": config.data.seed,
        "judge": None if judge is None else judge.identity,
        "judge_max_new_tokens": config.judge.max_new_tokens if judge else None,
        paths.distilled.name: digest_of(paths.distilled),
    }
    with Journal.open(
        paths.filter_stats, settings, overwrite=config.overwrite, keeps_output=True
    ) as journal:
        reasons = rule_reasons(rows, config.filter)
        passed = [i for i, reason in enumerate(reasons) if reason == KEPT]
        if judge is not None:
            _judge(rows, passed, judge, journal, progress)
            for i in passed:
                reasons[i] = judged_reason(journal.done[i], config.filter.min_judge_score)
        statistics = _write(config, rows, reasons, journal, settings)
        journal.finish()
    _tell(statistics, progress)
    return {**statistics, "output": str(paths.filter_stats)}


def check(config: FinanceConfig) -> None:
    """Refuse to begin without distilled rows."""
    _distilled(config)


def _distilled(config: FinanceConfig) -> list[DistilledRow]:
    made_by = "stage 2 (python scripts/2_distill_data.py)"
    return read_records(config.paths.distilled, DistilledRow, made_by=made_by)


# Rules ----------------------------------------------------------------------------------------------


def rule_reasons(rows: Sequence[DistilledRow], config: FilterConfig) -> list[str]:
    """For every row ``kept``, or the first rule that it breaks."""
    seen: set[str] = set()
    reasons = []
    for row in rows:
        key = normalised_question(row.question)
        reason = "duplicate_question" if key in seen else rule_reason(row, config)
        if reason == KEPT:
            seen.add(key)
        reasons.append(reason)
    return reasons


def rule_reason(row: DistilledRow, config: FilterConfig) -> str:
    """``kept``, or the first rule that a row breaks by itself: its form, its answer, its reasoning."""
    form = read_form(row.teacher_output)
    if not form.is_complete:
        return f"form: {form.reason}"
    grade = grade_finance(row.teacher_output, row.gold_answer, row.question)
    if not grade.is_correct:
        is_other = grade.strategy in ("no_answer", "unparsable_ground_truth")
        return f"answer: {grade.strategy if is_other else 'wrong'}"
    fault = reasoning_fault(
        form.reasoning,
        form.answer,
        min_chars=config.min_reasoning_chars,
        max_chars=config.max_reasoning_chars,
        asked=asked_unit(row.question),
    )
    return KEPT if fault is None else f"reasoning: {fault}"


# Judge ----------------------------------------------------------------------------------------------


def _judge(
    rows: Sequence[DistilledRow],
    passed: Sequence[int],
    judge: Judge,
    journal: Journal,
    progress: Progress,
) -> None:
    """Marks for every row that passed the rules, each written down at once."""
    requests = [
        JudgeRequest(i, rows[i].question, rows[i].gold_answer, rows[i].teacher_output)
        for i in passed
        if i not in journal.done
    ]
    label = pick("judge", "评审")
    for verdict in progress.track(label, judge.verdicts(requests), len(requests)):
        journal.add(
            {
                "index": verdict.index,
                "marks": verdict.marks,
                "score": verdict.score,
                "reason": verdict.reason,
                "text": verdict.text,
            }
        )


def judged_reason(verdict: dict[str, Any], min_score: float) -> str:
    """``kept``, or why the judge's verdict does not keep a row."""
    if verdict["marks"] is None:
        return UNREADABLE
    return KEPT if verdict["score"] >= min_score else LOW


# Outputs --------------------------------------------------------------------------------------------


def _write(
    config: FinanceConfig,
    rows: Sequence[DistilledRow],
    reasons: Sequence[str],
    journal: Journal,
    settings: dict[str, Any],
) -> dict[str, Any]:
    kept = [row for row, reason in zip(rows, reasons, strict=True) if reason == KEPT]
    if len(kept) < 2:
        journal.finish()  # the same verdicts would come to the same
        raise _nothing(len(rows), len(kept), reasons)
    train, test = split_rows(kept, config.data.test_share, config.data.seed)
    verdicts = dict(sorted(journal.done.items()))
    statistics = {
        "num_distilled": len(rows),
        "num_kept": len(kept),
        "num_train": len(train),
        "num_test": len(test),
        "reasons": dict(Counter(reasons).most_common()),
        "num_passed_rules": sum(reason in (KEPT, UNREADABLE, LOW) for reason in reasons),
        "by_type": _by_type(train, test),
        "judge": judge_figures(list(verdicts.values())) if config.use_judge else None,
        "verdicts": [
            {"id": rows[i].id, **{k: v[k] for k in ("marks", "reason")}}
            for i, v in verdicts.items()
        ],
        "settings": settings,
    }
    paths = config.paths
    sft = [SFTRow(row.id, row.question, row.teacher_output, row.type) for row in train]
    write_text(paths.sft_rows, as_jsonl(sft))
    write_text(paths.rl_rows, as_jsonl(map(_asked, train)))
    write_text(paths.test_rows, as_jsonl(map(_asked, test)))
    write_text(paths.filter_stats, json.dumps(statistics, ensure_ascii=False, indent=1) + "\n")
    return statistics


def _asked(row: DistilledRow) -> RLRow:
    return RLRow(row.id, row.question, row.gold_answer, row.type)


def _by_type(
    train: Sequence[DistilledRow], test: Sequence[DistilledRow]
) -> dict[str, dict[str, int]]:
    counts = {
        name: Counter(row.type for row in part) for name, part in (("train", train), ("test", test))
    }
    kinds = sorted(set(counts["train"]) | set(counts["test"]))
    return {kind: {name: counts[name][kind] for name in counts} for kind in kinds}


def judge_figures(verdicts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many verdicts there are, how many cannot be read, and the mean of each mark of those that can."""
    marks = [one["marks"] for one in verdicts if one["marks"] is not None]
    means = {name: round(fmean(one[name] for one in marks), 4) for name in MARKS} if marks else {}
    return {
        "num_judged": len(verdicts),
        "num_unreadable": len(verdicts) - len(marks),
        "mean_marks": means,
    }


def _nothing(num_rows: int, num_kept: int, reasons: Sequence[str]) -> EZTinkerError:
    told = dict(Counter(reasons).most_common())
    judged = (
        " The judge's verdicts cannot be read: choose a stronger JUDGE_CONFIG.model_name, or pass --no-judge."
        if told.get(UNREADABLE)
        else ""
    )
    return EZTinkerError(
        f"{num_kept} of {num_rows} distilled rows are left, and training and test need at least one each. Reasons: "
        f"{told}.{judged} Nothing was written; what stage 3 made before is untouched. Try a stronger teacher, more "
        "questions, or other FILTER_CONFIG bounds.",
        code="nothing_kept",
    )


def _tell(statistics: dict[str, Any], progress: Progress) -> None:
    facts = {
        name: statistics[name] for name in ("num_distilled", "num_kept", "num_train", "num_test")
    }
    progress.say(
        pick(
            "{num_kept} of {num_distilled} rows kept: {num_train} to train on, {num_test} to test on.",
            "{num_distilled} 行中保留 {num_kept} 行：训练 {num_train} 行，测试 {num_test} 行。",
        ).format(**facts)
    )
    judged = statistics["judge"]
    if judged and judged["num_unreadable"]:
        progress.say(
            pick(
                f"{judged['num_unreadable']} verdicts of the judge could not be read; their rows were left out.",
                f"评审的 {judged['num_unreadable']} 个结论无法读取，对应的行已去掉。",
            )
        )
