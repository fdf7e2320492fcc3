"""The whole finance pipeline on generated questions: stages 1 to 8 on nano, with a scripted teacher and judge.

Questions are of kinds that nano was never shown; what it learns it learns here. Everything else is the recipe ``finance``
as it is, so the demonstration continues after any interruption as it does. Called by ``eztinker recipe finance-demo``
and ``make finance``; needs no network.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

from pydantic import Field

from eztinker.dataset.finance import QuestionType
from eztinker.dataset.generated.accounts import draw_account
from eztinker.dataset.generated.problem import Problem
from eztinker.recipes.experiment.plan import Plan
from eztinker.recipes.experiment.settings import RecipeConfig, make_settings
from eztinker.recipes.finance import ablation, arms, distil, evaluation, filter, grpo, recipe
from eztinker.recipes.finance.recipe import Stage
from eztinker.recipes.finance.scripted import ScriptedJudge, ScriptedTeacher
from eztinker.recipes.terminal import Progress
from eztinker.rl.durable import write_text

NAME = "finance-demo"
TYPES: dict[str, QuestionType] = {
    "zh_better_project": "business_reasoning",
    "zh_order_decision": "business_reasoning",
    "zh_bad_loans": "risk_analysis",
    "zh_stop_loss": "risk_analysis",
}
"""What a kind of question is, where it is more than a calculation."""
QUESTIONS_FILE = "questions.jsonl"


class Config(RecipeConfig):
    """What the demonstration can be told."""

    model_name_or_path: str = Field("nano", min_length=1, description="Base model.")
    output_dir: Path = Field(Path("finance-demo"), description="Data, checkpoints, reports.")
    num_questions: int = Field(1500, ge=20, description="Generated questions.")
    sft_epochs: float = Field(3, gt=0, description="Passes over sft.jsonl.")
    grpo_steps: int = Field(28, ge=1, description="Optimizer steps of each GRPO.")
    grpo_learning_rate: float = Field(5e-4, gt=0, description="Of every GRPO.")
    arms: str = Field(",".join(arms.NAMES), description="Arms of the ablation.")
    seed: int = Field(
        42, ge=0, lt=2**31, description="Of questions, teacher, splits and trainings."
    )


def plan(config: Config, client: Any) -> Plan:
    """What the demonstration would do."""
    facts = {"questions": config.num_questions, "arms": config.arms.split(",")}
    return Plan(NAME, facts, settings=config.resolved())


def draw_problems(num_questions: int, seed: int) -> dict[str, Problem]:
    """So many different questions with their problems, by the seed."""
    rng = random.Random(f"{NAME}/{seed}")  # noqa: S311  not for secrets
    problems: dict[str, Problem] = {}
    while len(problems) < num_questions:
        problem = draw_account(rng)
        problems.setdefault(problem.question, problem)
    return problems


def write_questions(path: Path, problems: dict[str, Problem]) -> None:
    """The questions as stage 1 reads a local file."""
    rows = [
        {
            "id": f"generated_{i}",
            "question": question,
            "gold_answer": problem.answer,
            "type": TYPES.get(problem.kind, "financial_calculation"),
        }
        for i, (question, problem) in enumerate(problems.items())
    ]
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def pipeline_config(config: Config) -> recipe.Config:
    """The settings of the pipeline: a small model takes larger steps, without dropout."""
    seeds = {"seed": config.seed}
    lengths = {"max_new_tokens": 96}
    values: dict[str, Any] = {
        "root": config.output_dir,
        "model": {"base_model": config.model_name_or_path, "quantization": "none"},
        "data": {
            "local_path": config.output_dir / QUESTIONS_FILE,
            "total_samples": config.num_questions,
            **seeds,
        },
        "filter": {"min_reasoning_chars": 10},
        "lora": {"lora_dropout": 0.0},
        "sft": {
            "num_train_epochs": config.sft_epochs,
            "per_device_train_batch_size": 16,
            "gradient_accumulation_steps": 1,
            "learning_rate": 4e-3,
            **seeds,
        },
        "grpo": {
            "max_steps": config.grpo_steps,
            "num_sample_generations": 8,
            "prompts_per_step": 16,
            "temperature": 1.0,
            "learning_rate": config.grpo_learning_rate,
            "kl_coef": 0.02,
            "judge_share": 0.3,
            **lengths,
            **seeds,
        },
        "evaluation": {**lengths, **seeds},
        "wandb": {"enabled": False},
    }
    return make_settings(recipe.Config, values)


def run(config: Config, client: Any, progress: Progress) -> dict[str, Any]:
    """Run the eight stages, or continue.

    Returns:
        For every arm under its name ``format_rate`` and ``accuracy`` with ``_ci95``; ``num_questions`` held out; and the
        paths ``table``, ``plot`` and ``report``.
    """
    started_s = time.monotonic()
    problems = draw_problems(config.num_questions, config.seed)
    path = config.output_dir / QUESTIONS_FILE
    if not path.exists():
        write_questions(path, problems)
    done = recipe.run(pipeline_config(config), client, progress, stages=_scripted(config, problems))
    compared = done["8 ablation"]
    figures: dict[str, Any] = {"num_questions": compared["num_questions"]}
    keys = [name for key in ablation.SHARES for name in (key, f"{key}_ci95")]
    for arm, found in compared["arms"].items():
        figures[arm] = {key: found[key] for key in keys}
    paths = {name: compared[name] for name in ("table", "plot", "report")}
    return {**figures, **paths, "seconds": round(time.monotonic() - started_s, 1)}


def _scripted(config: Config, problems: dict[str, Problem]) -> dict[int, Stage]:
    """The stages that ask a teacher or a judge, with the scripted ones."""
    teacher, judge = ScriptedTeacher(problems, config.seed), ScriptedJudge()
    return {
        2: lambda c, client, progress: distil.run(c, client, progress, teacher=teacher),
        3: lambda c, client, progress: filter.run(c, client, progress, judge=judge),
        5: lambda c, client, progress: grpo.run(c, client, progress, judge=judge),
        6: lambda c, client, progress: evaluation.run(c, client, progress, judge=judge),
        8: lambda c, client, progress: ablation.run(
            c, client, progress, judge=judge, arms=config.arms
        ),
    }
