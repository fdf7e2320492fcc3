"""The eight stages in one go: ``eztinker recipe finance --stages 1-8``.

A stage whose output is there is not repeated, one that was interrupted continues where it stood; when a stage made
something new, the later ones are done anew on it. Called by the command line and the demonstration.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from eztinker.errors import EZTinkerError
from eztinker.recipes.experiment.plan import Plan
from eztinker.recipes.finance.config import FinanceConfig, read_config_file
from eztinker.recipes.finance.outputs import STALE
from eztinker.recipes.finance.stages import STAGES, read_stages
from eztinker.recipes.terminal import Progress, SilentProgress, pick

NAME = "finance"
_MODULES = {
    1: "prepare",
    2: "distil",
    3: "filter",
    4: "sft",
    5: "grpo",
    6: "evaluation",
    7: "deployment",
    8: "ablation",
}
FINISHED = "output_exists"
Stage = Callable[[FinanceConfig, Any, Progress], dict[str, Any]]


class Config(FinanceConfig):
    """Settings of the pipeline, and which stages of it to run."""

    stages: Annotated[str, BeforeValidator(str)] = Field(
        "1-8", description="Stages to run: 1-8, 4-6, 1-3,6."
    )

    @classmethod
    def read_file(cls, path: Path) -> dict[str, Any]:
        """Values from one YAML mapping, or from a ``configs/config.py`` as the scripts read it."""
        if path.suffix != ".py":
            return super().read_file(path)
        return {name: part.model_dump() for name, part in read_config_file(path).items()}

    def check_effect(self) -> None:
        """The stages can be read."""
        super().check_effect()
        read_stages(self.stages)


def stage_of(number: int) -> Stage:
    """The work of a stage."""
    return importlib.import_module(f"eztinker.recipes.finance.{_MODULES[number]}").run


def run(
    config: Config,
    client: Any,
    progress: Progress | None = None,
    *,
    stages: Mapping[int, Stage] | None = None,
) -> dict[str, Any]:
    """Run the stages that are asked for, or continue; figures in JSON types.

    Args:
        stages: work to do instead of a stage's own, by its number.

    Returns:
        The figures of each stage that ran, under its number and name (``4 sft``).
    """
    progress = progress or SilentProgress()
    figures: dict[str, Any] = {}
    is_fresh = config.overwrite
    numbers = read_stages(config.stages)
    for number in numbers:
        name = f"{number} {STAGES[number]}"
        progress.say(pick(f"Stage {number} of 8: {STAGES[number]}", f"第 {number} 阶段，共 8 阶段"))
        work = (stages or {}).get(number) or stage_of(number)
        try:
            made = _made(work, config.model_copy(update={"overwrite": is_fresh}), client, progress)
            figures[name] = made or {"done_already": True}
            is_fresh = is_fresh or made is not None
        except KeyboardInterrupt:
            progress.say(
                pick(
                    f"Interrupted. The same command again continues in stage {number}.",
                    f"已中断。再次运行同一命令即从第 {number} 阶段继续。",
                )
            )
            raise
    return figures


def _made(work: Stage, config: Config, client: Any, progress: Progress) -> dict[str, Any] | None:
    """Figures of a stage; None when its output is there and still that of its inputs."""
    try:
        return work(config, client, progress)
    except EZTinkerError as error:
        code = error.details.get("code", error.code)
        if code not in (FINISHED, STALE):
            raise
    if code == STALE:
        progress.say(pick("Made from other inputs: done anew.", "输入已变化，重新执行。"))
        return work(config.model_copy(update={"overwrite": True}), client, progress)
    progress.say(pick("Done already.", "已完成。"))
    return None


def plan(config: Config, client: Any) -> Plan:
    """What the stages would do: models, inputs and how much of each is there, outputs."""
    paths, numbers = config.paths, read_stages(config.stages)
    facts: dict[str, Any] = {
        "stages": [f"{number} {STAGES[number]}" for number in numbers],
        "teacher": config.teacher.model_name,
        "judge": config.judge.model_name if config.use_judge else None,
        "model": config.model.base_model,
    }
    for path in (paths.raw, paths.distilled, paths.sft_rows, paths.rl_rows, paths.test_rows):
        facts[f"rows in {path}"] = _num_lines(path)
    made = {"stage 4": paths.sft_lora, "stage 5": paths.grpo_lora, "stage 7": paths.merged_model}
    for stage, folder in made.items():
        facts[stage] = f"{folder}: {'there' if folder.exists() else 'to be made'}"
    return Plan(NAME, facts, settings=config.resolved())


def _num_lines(path: Path) -> int | None:
    """Rows of a file; None when it is not there yet."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8") as file:
        return sum(bool(line.strip()) for line in file)
