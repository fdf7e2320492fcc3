"""Stage 2: the teacher's reasoning and answer to every question, as ``dataprocessed/distilled.jsonl``.

The form is enforced: an answer without it is asked for again with a reminder, up to ``max_attempts`` times; a question
that never gets it is left out and counted. Each finished question is written down at once, so a killed program goes on
where it stood. Called by ``scripts/2_distill_data.py`` and the recipe ``finance``.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from eztinker.dataset.finance import DistilledRow, RawRow, as_jsonl, read_records
from eztinker.errors import EZTinkerError
from eztinker.grading.reasoning_form import read_form
from eztinker.recipes.experiment.journal import Journal
from eztinker.recipes.finance.config import FinanceConfig
from eztinker.recipes.finance.outputs import digest_of, refuse_finished_journal
from eztinker.recipes.finance.teacher import ModelTeacher, Teacher, TeacherAnswer, TeacherRequest
from eztinker.recipes.terminal import Progress, pick
from eztinker.rl.durable import write_text

NAME = "finance-distil"
STATS_FILE = "distill_stats.json"
SHOWN_FAILURES = 5


def run(
    config: FinanceConfig, client: Any, progress: Progress, *, teacher: Teacher | None = None
) -> dict[str, Any]:
    """Ask for every question that is not answered yet; statistics.

    Args:
        client: of the server; not asked when a teacher is given.
        teacher: who answers; None takes the model of ``config.teacher``.

    Raises:
        InvalidRequestError: the output is finished (``code="output_exists"``) or belongs to other settings.
        EZTinkerError: no answer has the form (``code="nothing_distilled"``; the statistics are written).
    """
    paths = config.paths
    rows = _questions(config)
    statistics_path = paths.distilled.with_name(STATS_FILE)
    if not config.overwrite:
        refuse_finished_journal(paths.distilled, statistics_path, paths.raw)
    teacher = teacher or ModelTeacher(client, config.teacher, config.data.seed)
    settings = {
        "teacher": teacher.identity,
        **config.teacher.model_dump(mode="json", exclude={"model_name", "quantization"}),
        "seed": config.data.seed,
        str(paths.raw.name): digest_of(paths.raw),
    }
    started_s = time.monotonic()
    with Journal.open(
        paths.distilled, settings, overwrite=config.overwrite, keeps_output=True
    ) as journal:
        num_before = len(journal.done)
        if num_before:
            progress.say(
                pick(
                    f"Continuing after {num_before} questions.",
                    f"已完成 {num_before} 个问题，继续。",
                )
            )
        _ask_all(rows, teacher, config.teacher.max_attempts, journal, progress)
        done = [journal.done[i] for i in range(len(rows))]
        seconds = time.monotonic() - started_s
        statistics = _statistics(rows, done, settings, len(rows) - num_before, seconds)
        write_text(statistics_path, json.dumps(statistics, ensure_ascii=False, indent=1) + "\n")
        kept = [_row(row, one) for row, one in zip(rows, done, strict=True) if one["is_complete"]]
        if not kept:
            journal.finish()  # the same answers would come to the same
            raise _nothing(statistics, str(statistics_path))
        write_text(paths.distilled, as_jsonl(kept))
        journal.finish()
    return {**statistics, "output": str(paths.distilled), "statistics": str(statistics_path)}


def check(config: FinanceConfig) -> None:
    """Refuse to begin without questions."""
    _questions(config)


def _questions(config: FinanceConfig) -> list[RawRow]:
    made_by = "stage 1 (python scripts/1_prepare_raw_data.py)"
    return read_records(config.paths.raw, RawRow, made_by=made_by)


def _ask_all(
    rows: Sequence[RawRow],
    teacher: Teacher,
    max_attempts: int,
    journal: Journal,
    progress: Progress,
) -> None:
    """Ask in rounds: in each, the questions whose last answer lacked the form."""
    left = [i for i in range(len(rows)) if i not in journal.done]
    for attempt in range(1, max_attempts + 1):
        requests = [TeacherRequest(i, rows[i].question, attempt) for i in left]
        label = pick(f"distil, attempt {attempt}", f"蒸馏，第 {attempt} 次")
        left = []
        for answer in progress.track(label, teacher.answers(requests), len(requests)):
            reason = answer.refusal or _reason(answer)
            if reason == "complete" or answer.refusal or attempt == max_attempts:
                journal.add(_outcome(answer, reason, attempt))
            else:
                left.append(answer.index)
        left.sort()


def _reason(answer: TeacherAnswer) -> str:
    return "cut_off" if answer.is_cut else read_form(answer.text).reason


def _outcome(answer: TeacherAnswer, reason: str, attempt: int) -> dict[str, Any]:
    return {
        "index": answer.index,
        "is_complete": reason == "complete",
        "reason": reason,
        "attempts": 0 if answer.refusal else attempt,
        "num_tokens": answer.num_tokens,
        "text": answer.text,
    }


def _row(row: RawRow, outcome: dict[str, Any]) -> DistilledRow:
    return DistilledRow(row.id, row.question, row.gold_answer, row.type, outcome["text"])


def _statistics(
    rows: Sequence[RawRow],
    done: Sequence[dict[str, Any]],
    settings: dict[str, Any],
    num_new: int,
    seconds: float,
) -> dict[str, Any]:
    kept = [row.type for row, one in zip(rows, done, strict=True) if one["is_complete"]]
    failed = Counter(one["reason"] for one in done if not one["is_complete"])
    return {
        "num_questions": len(rows),
        "num_distilled": len(kept),
        "num_without_form": len(rows) - len(kept),
        "reasons": dict(failed.most_common()),
        "attempts": dict(sorted(Counter(str(one["attempts"]) for one in done).items())),
        "by_type": dict(sorted(Counter(kept).items())),
        "examples_without_form": [
            {"id": row.id, "reason": one["reason"], "text": one["text"]}
            for row, one in zip(rows, done, strict=True)
            if not one["is_complete"]
        ][:SHOWN_FAILURES],
        "num_tokens_of_last_attempts": sum(one["num_tokens"] for one in done),
        "num_new": num_new,
        "seconds": round(seconds, 1),
        "settings": settings,
    }


def _nothing(statistics: dict[str, Any], path: str) -> EZTinkerError:
    return EZTinkerError(
        f"None of the teacher's {statistics['num_questions']} answers has the form <think>…</think><answer>…</answer>, so "
        f"there is nothing to go on with. Reasons: {statistics['reasons']}. Statistics: {path}. Try a stronger teacher, "
        "more TEACHER_CONFIG.max_new_tokens, or more max_attempts.",
        code="nothing_distilled",
    )
