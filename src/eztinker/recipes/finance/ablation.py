"""Stage 8, the ablation: what each part of the pipeline is worth, side by side on the same held-out questions.

Base, SFT and SFT+GRPO are what the pipeline left; the other arms leave out the judge's filter, the price on KL, or change
the reward's weights, and are trained here. One table, one plot, one JSON file. Called by ``scripts/8_ablation_study.py``
and the recipe ``finance``.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from eztinker.recipes.finance import grpo
from eztinker.recipes.finance.arms import Arm, chosen_arms, config_of, train_arm
from eztinker.recipes.finance.config import FinanceConfig
from eztinker.recipes.finance.evaluation import arm_model, evaluate_model, test_rows
from eztinker.recipes.finance.judging import Judge
from eztinker.recipes.plots import plot_bars
from eztinker.recipes.terminal import Progress, pick
from eztinker.rl.durable import write_text

NAME = "finance-ablation"
SHARES = {"format_rate": "Format rate", "accuracy": "Answer accuracy"}


def run(
    config: FinanceConfig,
    client: Any,
    progress: Progress,
    *,
    arms: str | None = None,
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Train what is missing, evaluate every arm, compare.

    Args:
        arms: names such as ``base,sft,sft_grpo``; None is all. An arm without the judge's filter is left out, and this
            is said, where stage 3 had no judge.
        judge: who gives marks; None takes the model of ``config.judge``, unless ``config.use_judge`` is false.

    Returns:
        ``arms`` (name -> figures), ``num_questions``, ``report``, ``table``, ``plot`` (paths).

    Raises:
        NotFoundError: a stage has not run; the message says which.
    """
    rows = test_rows(config)
    wanted = chosen_arms(arms)
    left_out = [] if was_judged(config) else [arm for arm in wanted if arm.is_unjudged]
    for arm in left_out:
        progress.say(
            pick(
                f"{arm.name} is left out: stage 3 had no judge, so it would be the pipeline itself.",
                f"略去 {arm.name}：第 3 阶段没有使用评审模型。",
            )
        )
    wanted = [arm for arm in wanted if arm not in left_out]
    for arm in wanted:
        if arm.kind != "base" and not arm.is_trained_here:
            config.adapter(arm.kind)  # before hours of training: is it there?
    figures = {arm.name: _figures(config, arm, client, progress, judge) for arm in wanted}
    return _write(config, figures, len(rows), [arm.name for arm in left_out])


def was_judged(config: FinanceConfig) -> bool:
    """Whether stage 3 asked a judge."""
    path = config.paths.filter_stats
    held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return held.get("settings", {}).get("judge") is not None


def _figures(
    config: FinanceConfig, arm: Arm, client: Any, progress: Progress, judge: Judge | None
) -> dict[str, Any]:
    progress.say(pick(f"Arm {arm.name}: {arm.says}", f"对照组 {arm.name}"))
    own = config_of(config, arm)
    if arm.is_trained_here:
        train_arm(config, arm, client, progress, judge)
    trained = grpo.figures_of(own) if arm.kind == "grpo" else {}
    path = None if arm.kind == "base" else own.adapter(arm.kind)
    model = arm_model(config, client, arm.name if arm.kind == "base" else arm.kind, path)
    report = evaluate_model(config, client, progress, arm.name, model, judge=judge)
    names = ("num_questions", "format_rate", "format_rate_ci95", "accuracy", "accuracy_ci95", "judge",
             "by_type", "report", "details")  # fmt: skip
    part = own.grpo.model_dump(mode="json") if arm.kind == "grpo" else None
    return {
        "says": arm.says,
        **{name: report[name] for name in names if name in report},
        **{name: trained[name] for name in ("reward_last", "kl_last") if name in trained},
        "grpo_settings": part,
    }


# Report -------------------------------------------------------------------------------------------


def _write(
    config: FinanceConfig,
    figures: dict[str, dict[str, Any]],
    num_questions: int,
    left_out: list[str],
) -> dict[str, Any]:
    name = _free_name(config.paths.reports)
    table = table_of(figures)
    plot = plot_bars(
        config.paths.reports / f"ablation_{name}.png",
        {
            title: {arm: (one[key], *one[f"{key}_ci95"]) for arm, one in figures.items()}
            for key, title in SHARES.items()
        },
        title=f"Ablation on {num_questions} held-out questions, 95 % intervals",
    )
    table_path = config.paths.reports / f"ablation_summary_{name}.md"
    report_path = config.paths.reports / f"ablation_summary_{name}.json"
    write_text(table_path, table)
    report: dict[str, Any] = {
        "num_questions": num_questions,
        "arms": figures,
        "left_out": left_out,
        "table": str(table_path),
        "plot": str(plot),
        "settings": config.resolved(),
    }
    write_text(report_path, json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    return {**report, "report": str(report_path)}


def _free_name(folder: Path) -> str:
    """The time as a name that no earlier report has."""
    stamp = datetime.datetime.now().strftime("%Y%m%d_%H%M%S")
    number, name = 1, stamp
    while (folder / f"ablation_summary_{name}.json").exists():
        number += 1
        name = f"{stamp}_{number}"
    return name


def table_of(figures: dict[str, dict[str, Any]]) -> str:
    """The arms as a Markdown table: format rate, accuracy and, where it was asked, the judge's mean mark."""
    is_judged = any(one.get("judge") for one in figures.values())
    head = [
        "arm",
        "format rate",
        "accuracy",
        *(["judge, 0 to 10"] if is_judged else []),
        "KL per token",
    ]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, one in figures.items():
        judged = (one.get("judge") or {}).get("score")
        row = [name, _share(one, "format_rate"), _share(one, "accuracy")]
        row += [("-" if judged is None else f"{judged:.1f}")] if is_judged else []
        rows.append([*row, f"{one['kl_last']:.3f}" if "kl_last" in one else "-"])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _share(figures: dict[str, Any], key: str) -> str:
    low, high = figures[f"{key}_ci95"]
    return f"{figures[key]:.1%} [{100 * low:.1f}, {100 * high:.1f}]"
