"""The recipes by name: where each one's settings, plan and work are found.

``RECIPES`` names modules, which are imported when asked for. A recipe module has ``Config`` (a ``RecipeConfig``),
``run(config, client, progress) -> dict`` and ``plan(config, client) -> Plan``. Called by the command line and the
doors.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eztinker.errors import NotFoundError
from eztinker.recipes.experiment.plan import Plan
from eztinker.recipes.experiment.settings import RecipeConfig

RECIPES: dict[str, tuple[str, str]] = {
    "distillation": (
        "eztinker.recipes.distillation",
        "a student learns from a teacher's texts or probabilities",
    ),
    "dpo": ("eztinker.recipes.dpo", "direct preference optimisation on pairs"),
    "finance": (
        "eztinker.recipes.finance.recipe",
        "finance reasoning: distil, filter, SFT, GRPO, evaluate, deploy, ablate",
    ),
    "finance-demo": (
        "eztinker.recipes.finance.demo",
        "the eight stages on generated questions, with a scripted teacher and judge",
    ),
    "grpo": ("eztinker.recipes.grpo", "reinforcement learning with group-relative advantages"),
    "rejection_sft": (
        "eztinker.recipes.rejection_recipe",
        "sample, keep the best answer, train on it",
    ),
    "reward_model": ("eztinker.recipes.reward_model", "a model that scores, from pairs"),
    "rlhf": (
        "eztinker.recipes.rlhf",
        "SFT, reward model and reinforcement learning, one after the other",
    ),
    "sft": ("eztinker.recipes.sft", "supervised fine-tuning on given answers"),
    "lawshift-sample": (
        "eztinker.recipes.lawshift.sample",
        "legal judgment: keep the right answers",
    ),
    "lawshift-sft": (
        "eztinker.recipes.lawshift.sft",
        "legal judgment: train on them, each question once",
    ),
    "lawshift-eval": ("eztinker.recipes.lawshift.evaluation", "legal judgment under changed law"),
    "lawshift-demo": ("eztinker.recipes.lawshift.demo", "the three in one go on generated cases"),
}
"""Name -> (module, one line that says what it does)."""


@dataclass(frozen=True)
class Recipe:
    """A recipe, loaded.

    Attributes:
        config_class: its settings.
        run: does the work with settings, client and progress (and what a recipe offers to recipes built on it);
            returns figures in JSON types.
        plan: says what ``run`` would do.
    """

    name: str
    config_class: type[RecipeConfig]
    run: Callable[..., dict[str, Any]]
    plan: Callable[[Any, Any], Plan]


def get_recipe(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        NotFoundError: there is none; the message has the nearest name.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise NotFoundError(
            f"No recipe named {name!r}.{hint} Known: {', '.join(sorted(RECIPES))}.",
            code="recipe_not_found",
            field="NAME",
        )
    module = importlib.import_module(RECIPES[name][0])
    return Recipe(name, module.Config, module.run, module.plan)
