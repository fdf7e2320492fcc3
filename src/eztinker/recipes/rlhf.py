"""RLHF from end to end: SFT, then a reward model, then reinforcement learning on it with a price on KL.

Ouyang et al. 2022, arXiv:2203.02155. Each stage is a recipe of its own with its own folder below ``output_dir``; this one
joins them: the policy begins with the SFT adapter, which is also the reference, and the reward model scores. A stage that
is finished is not repeated, one that was interrupted continues.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from eztinker.recipes.catalogue import get_recipe
from eztinker.recipes.experiment.plan import Plan
from eztinker.recipes.experiment.settings import RecipeConfig, make_settings
from eztinker.recipes.terminal import Progress, SilentProgress, pick
from eztinker.rl.durable import write_text

NAME = "rlhf"
STAGES = ("sft", "reward_model", "rl")
STAGES_FILE = "stages.json"
DEFAULT_BETA = 0.05


class RLHFConfig(RecipeConfig):
    """Settings of RLHF: what the stages share, and what each is told (``rl.beta=0.1``)."""

    may_change: ClassVar[frozenset[str]] = frozenset()

    model_name_or_path: str = Field("nano", min_length=1, description="Base model of all stages.")
    output_dir: Path = Field(Path("rlhf"), description="Folder; each stage has one below it.")
    overwrite_output_dir: bool = Field(False, description="Start all stages afresh.")
    lora_r: int = Field(8, ge=1, description="Rank of every adapter.")
    seed: int = Field(0, ge=0, lt=2**31, description="Of all stages.")
    sft: dict[str, Any] = Field(default_factory=dict, description="Settings of the recipe sft.")
    reward_model: dict[str, Any] = Field(
        default_factory=dict, description="Settings of the recipe reward_model."
    )
    rl: dict[str, Any] = Field(
        default_factory=dict, description=f"Settings of the recipe grpo; beta is {DEFAULT_BETA}."
    )

    def check_effect(self) -> None:
        """Every stage's settings are checked before the first one starts."""
        for stage in STAGES:
            stage_settings(self, stage, {"sft": "run@final", "reward_model": "run@final"})


Config = RLHFConfig


def stage_settings(config: RLHFConfig, stage: str, checkpoints: Mapping[str, str]) -> Any:
    """Checked settings of a stage.

    Args:
        checkpoints: of the stages before it.
    """
    shared: dict[str, Any] = {
        "model_name_or_path": config.model_name_or_path,
        "output_dir": config.output_dir / stage,
        "overwrite_output_dir": config.overwrite_output_dir,
        "lora_r": config.lora_r,
        "seed": config.seed,
    }
    if stage == "rl":
        shared |= {
            "reward": "reward_model",
            "reward_model": checkpoints["reward_model"],
            "init_from": checkpoints["sft"],
            "beta": DEFAULT_BETA,
        }
    given: Mapping[str, Any] = getattr(config, stage)
    for key in set(shared) & set(given) - {"beta"}:
        config.refuse(key, f"{stage}.{key} is set for all stages: give {key} without {stage}.")
    return make_settings(_recipe(stage).config_class, shared | dict(given))


def _recipe(stage: str) -> Any:
    return get_recipe("grpo" if stage == "rl" else stage)


def run(config: RLHFConfig, client: Any, progress: Progress | None = None) -> dict[str, Any]:
    """Run all stages, or continue; figures in JSON types.

    Returns:
        The figures of each stage under ``stages``, and of the last one ``run_id``, ``checkpoint``, ``reward_before`` and
        ``reward_after`` (of greedy held-out answers), ``reward_last`` and ``kl_last``.
    """
    progress = progress or SilentProgress()
    path = config.output_dir / STAGES_FILE
    if config.overwrite_output_dir:
        path.unlink(missing_ok=True)
    done: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for number, stage in enumerate(STAGES, start=1):
        checkpoints = {name: figures["checkpoint"] for name, figures in done.items()}
        if stage in done and stage != STAGES[-1]:
            continue
        progress.say(pick(f"Stage {number} of 3: {stage}", f"第 {number} 阶段，共 3 阶段：{stage}"))
        settings = stage_settings(config, stage, checkpoints)
        done[stage] = _recipe(stage).run(settings, client, progress)
        write_text(path, json.dumps(done, ensure_ascii=False, indent=1))
    last = done["rl"]
    names = ("run_id", "checkpoint", "reward_before", "reward_after", "reward_last", "kl_last")
    return {name: last[name] for name in names if name in last} | {"stages": done}


def plan(config: RLHFConfig, client: Any) -> Plan:
    """What the stages would do."""
    facts: dict[str, Any] = {}
    notes: list[str] = []
    shown: list[str] = []
    for stage in STAGES:
        settings = stage_settings(config, stage, {"sft": "sft@final", "reward_model": "rm@final"})
        found = _recipe(stage).plan(settings, client)
        facts |= {f"{stage}: {name}": value for name, value in found.facts.items()}
        notes += found.notes
        shown += [f"({stage})\n{text}" for text in found.first_batch[:1]]
    return Plan(NAME, facts, shown, notes, config.resolved())
