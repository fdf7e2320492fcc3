"""Stage 6: how good a model is on the held-out questions: form, right answers, the judge's marks, by type.

Every question is answered (greedily by default), graded by the answer checker and, if wanted, judged; each answer and each
verdict is written down at once. Writes ``reports/eval_<arm>_<time>.json`` and ``eval_details_<arm>_<time>.jsonl``. Called by
``scripts/6_evaluate.py``, the recipe ``finance`` and the ablation.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eztinker.dataset.finance import RLRow, read_records
from eztinker.errors import InvalidRequestError
from eztinker.grading.finance import grade_finance
from eztinker.grading.reasoning_form import read_form
from eztinker.recipes.experiment.journal import Journal
from eztinker.recipes.finance.answering import (
    Answerer,
    Output,
    ServiceAnswerer,
    check_vllm,
    vllm_answerer,
)
from eztinker.recipes.finance.config import FinanceConfig
from eztinker.recipes.finance.eval_report import report_of
from eztinker.recipes.finance.judging import Judge, JudgeRequest, ModelJudge
from eztinker.recipes.finance.models import ServedModel, adapter_model, base_model
from eztinker.recipes.finance.outputs import digest_of
from eztinker.recipes.terminal import Progress, pick
from eztinker.rl.durable import write_text

NAME = "finance-evaluate"


def run(
    config: FinanceConfig,
    client: Any,
    progress: Progress,
    *,
    eval_sft: bool = False,
    eval_base: bool = False,
    use_vllm: bool = False,
    model_path: str | None = None,
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Evaluate one model: the GRPO adapter, unless another is asked for; its report.

    Args:
        client: of the server; not asked with ``use_vllm`` and without a judge.
        eval_sft: the SFT adapter.
        eval_base: the base model alone.
        use_vllm: a whole model behind vLLM or another OpenAI-compatible server.
        model_path: a whole model, an adapter folder, or ``RUN_ID[@CHECKPOINT]``.
        judge: who gives marks; None takes the model of ``config.judge``, unless ``config.use_judge`` is false.

    Raises:
        InvalidRequestError: arguments that exclude each other; an adapter where a whole model is needed.
        NotFoundError: the adapter is not there (the message says which stage makes it), or the test rows are not.
    """
    check(config, eval_sft=eval_sft, eval_base=eval_base, use_vllm=use_vllm, model_path=model_path)
    rows = test_rows(config)
    if use_vllm:
        with vllm_answerer(config, model_path, progress) as answerer:
            return evaluate(config, client, progress, "vllm", answerer, judge=judge, rows=rows)
    arm = _arm(eval_sft, eval_base, model_path)
    model = arm_model(config, client, arm, model_path)
    return evaluate_model(config, client, progress, arm, model, judge=judge, rows=rows)


def check(
    config: FinanceConfig,
    *,
    eval_sft: bool = False,
    eval_base: bool = False,
    use_vllm: bool = False,
    model_path: str | None = None,
) -> None:
    """Refuse what cannot be evaluated, before a server is started; arguments and errors as of ``run``."""
    if sum((eval_sft, eval_base, model_path is not None or use_vllm)) > 1:
        raise InvalidRequestError(
            "Choose one model: eval_sft, eval_base, or model_path (with or without use_vllm).",
            field="model_path",
            code="ineffective_setting",
        )
    arm = _arm(eval_sft, eval_base, model_path)
    if arm in ("sft", "grpo") and not use_vllm:
        config.adapter("sft" if arm == "sft" else "grpo")
    test_rows(config)
    if use_vllm:
        check_vllm(config, model_path)


def _arm(eval_sft: bool, eval_base: bool, model_path: str | None) -> str:
    return "sft" if eval_sft else "base" if eval_base else "grpo" if model_path is None else "model"


def arm_model(
    config: FinanceConfig, client: Any, arm: str, model_path: str | Path | None = None
) -> ServedModel:
    """The model of an arm, ready to be asked.

    Args:
        arm: ``base``, ``sft``, ``grpo``; any other name needs a path.
        model_path: a whole model, an adapter folder, or ``RUN_ID[@CHECKPOINT]``; None takes the arm's own.
    """
    base, quantization = config.model.base_model, config.model.quantization
    if model_path is not None:
        return adapter_model(client, str(model_path), _base_for(model_path, base), quantization)
    if arm == "base":
        return base_model(client, base, quantization)
    folder = config.adapter("sft" if arm == "sft" else "grpo")
    return adapter_model(client, str(folder), base, quantization)


def _base_for(model_path: str | Path, base: str) -> str | None:
    return base if (Path(model_path) / "adapter_config.json").is_file() else None


def test_rows(config: FinanceConfig) -> list[RLRow]:
    """The held-out questions, as many as are wanted."""
    made_by = "stage 3 (python scripts/3_filter_data.py)"
    rows = read_records(config.paths.test_rows, RLRow, made_by=made_by)
    return rows[: config.evaluation.max_samples]


def evaluate_model(
    config: FinanceConfig,
    client: Any,
    progress: Progress,
    arm: str,
    model: ServedModel,
    *,
    judge: Judge | None = None,
    rows: Sequence[RLRow] | None = None,
) -> dict[str, Any]:
    """Evaluate a model of the service under an arm's name; its report."""
    answerer = ServiceAnswerer(client, model, config.evaluation, config.model.model_max_length)
    return evaluate(config, client, progress, arm, answerer, judge=judge, rows=rows)


def evaluate(
    config: FinanceConfig,
    client: Any,
    progress: Progress,
    arm: str,
    answerer: Answerer,
    *,
    judge: Judge | None = None,
    rows: Sequence[RLRow] | None = None,
) -> dict[str, Any]:
    """Evaluate whoever answers under an arm's name; the report, which is also written.

    Args:
        arm: names the files.
        judge: None takes the model of ``config.judge``, unless ``config.use_judge`` is false.
        rows: None takes the held-out questions.
    """
    rows = test_rows(config) if rows is None else rows
    judge = (judge or ModelJudge(client, config.judge)) if config.use_judge else None
    settings = {
        "arm": arm,
        "model": answerer.identity,
        "judge": None if judge is None else judge.identity,
        "judge_max_new_tokens": config.judge.max_new_tokens if judge else None,
        "model_max_length": config.model.model_max_length,
        **config.evaluation.model_dump(mode="json", exclude={"vllm_url"}),
        config.paths.test_rows.name: digest_of(config.paths.test_rows),
    }
    # Another model or other settings have a journal of their own: nothing half done is in the way.
    mark = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
    output = config.paths.reports / f"eval_{arm}_{mark}"
    output.parent.mkdir(parents=True, exist_ok=True)
    with Journal.open(output, settings, overwrite=config.overwrite) as journal:
        work = _Work(rows, config.evaluation.num_samples, journal, progress, arm)
        work.answer(answerer)
        if judge is not None:
            work.judge(judge)
        details = work.details(is_judged=judge is not None)
        report = report_of(details, settings)
        report |= _write(config.paths.reports, arm, report, details)
        journal.finish()
    _tell(report, progress)
    return report


@dataclass(frozen=True)
class _Work:
    """An evaluation under way: what is answered and judged already is in the journal."""

    rows: Sequence[RLRow]
    num_samples: int
    journal: Journal
    progress: Progress
    arm: str

    def answer(self, answerer: Answerer) -> None:
        """Answer what is not answered yet; a question's item has its place as index."""
        left = {i: row.prompt for i, row in enumerate(self.rows) if i not in self.journal.done}
        label = f"{self.arm}: {pick('answers', '回答')}"
        for place, outputs in self.progress.track(label, answerer.outputs(left), len(left)):
            texts = [{"text": one.text, "reason": one.reason} for one in outputs]
            self.journal.add({"index": place, "outputs": texts})

    def judge(self, judge: Judge) -> None:
        """Judge what is not judged yet; a verdict's index follows the questions'."""
        requests = [
            JudgeRequest(index, row.prompt, row.gold_answer, output.text)
            for index, row, output in self._each()
            if index not in self.journal.done and output.text.strip()
        ]
        label = f"{self.arm}: {pick('judge', '评审')}"
        for one in self.progress.track(label, judge.verdicts(requests), len(requests)):
            self.journal.add({"index": one.index, "marks": one.marks, "score": one.score, "reason": one.reason})  # fmt: skip

    def _each(self) -> list[tuple[int, RLRow, Output]]:
        """Index of the verdict, row and output of every answer."""
        return [
            (len(self.rows) + i * self.num_samples + n, row, Output(**output))
            for i, row in enumerate(self.rows)
            for n, output in enumerate(self.journal.done[i]["outputs"])
        ]

    def details(self, *, is_judged: bool) -> list[dict[str, Any]]:
        """One line for each answer, graded; an empty answer has no verdict and score 0."""
        lines = []
        for index, row, output in self._each():
            line = graded(row, output)
            if is_judged:
                held = self.journal.done.get(index)
                empty = {"marks": {}, "score": 0.0, "reason": "no answer"}
                found = empty if held is None else held
                line["judge"] = {name: found[name] for name in empty}
            lines.append(line)
        return lines


def graded(row: RLRow, output: Output) -> dict[str, Any]:
    """An answer with its grades; one that was cut off has no form, whatever it holds so far."""
    form = read_form(output.text)
    is_cut = output.reason == "length"
    grade = grade_finance("" if is_cut else output.text, row.gold_answer, row.prompt)
    return {
        "id": row.id,
        "type": row.type,
        "prompt": row.prompt,
        "gold_answer": row.gold_answer,
        "output": output.text,
        "is_formed": form.is_complete and not is_cut,
        "form": output.reason if output.reason not in ("stop",) else form.reason,
        "is_correct": grade.is_correct,
        "strategy": grade.strategy,
        "given": grade.pred_answer,
    }


def _write(
    folder: Path, arm: str, report: dict[str, Any], details: Sequence[dict[str, Any]]
) -> dict[str, str]:
    """Both files, under the first free name of this second."""
    stamp = datetime.datetime.now().strftime("%Y%m%d_%H%M%S")
    number, name = 1, f"{arm}_{stamp}"
    while (folder / f"eval_{name}.json").exists():
        number += 1
        name = f"{arm}_{stamp}_{number}"
    paths = {
        "report": str(folder / f"eval_{name}.json"),
        "details": str(folder / f"eval_details_{name}.jsonl"),
    }
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in details)
    write_text(paths["details"], text)
    write_text(paths["report"], json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    return paths


def _tell(report: dict[str, Any], progress: Progress) -> None:
    """Shares with their intervals, and what the judge could not say."""
    for name, label in (
        ("format_rate", pick("form", "格式")),
        ("accuracy", pick("right answers", "答案正确")),
    ):
        low, high = report[f"{name}_ci95"]
        progress.say(f"{report['arm']}: {label} {report[name]:.1%} [{low:.1%}, {high:.1%}]")
    judged = report.get("judge")
    if judged and judged["score"] is not None:
        low, high = judged["ci95"]
        label = pick("judge", "评审")
        progress.say(f"{report['arm']}: {label} {judged['score']:.2f} [{low:.2f}, {high:.2f}] / 10")
    if judged and judged["num_unreadable"]:
        unread, all_of = judged["num_unreadable"], judged["num_judged"]
        progress.say(
            pick(
                f"{unread} of {all_of} verdicts of the judge could not be read; they are in no mean.",
                f"评审的 {all_of} 个结论中有 {unread} 个无法读取，不计入平均。",
            )
        )
