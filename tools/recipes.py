"""``make recipes``: every recipe in full on nano, its promise checked, its figures written into docs/recipes.md.

Runs on one server of its own, one recipe after the other, in a few minutes on two idle cores. The table between the two
marks in the page is replaced; a promise that does not hold ends with exit code 1 and leaves the page alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eztinker import EZTinkerClient
from eztinker.recipes.catalogue import get_recipe
from eztinker.recipes.experiment.settings import make_settings
from eztinker.recipes.terminal import TerminalProgress

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
Figures = dict[str, Any]

MATH = {"dataset_name": "generated-math"}
PAIRS = {"dataset_name": "generated-preference", "max_eval_samples": 200, "lora_r": 8}
ANSWERS = {"max_completion_length": 100, "eval_size": 200, "lora_r": 4}


@dataclass(frozen=True)
class Case:
    """One recipe: its settings, what it must reach, how its figures read.

    Attributes:
        name: in the table.
        settings: for the recipe; a callable gets the figures of the cases before it.
        promise: whether the figures are what the recipe is for.
        shows: one cell of the table.
    """

    name: str
    recipe: str
    settings: Callable[[dict[str, Figures]], dict[str, Any]]
    promise: Callable[[Figures], bool]
    shows: Callable[[Figures], str]


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _accuracy(figures: Figures) -> str:
    before, after = figures["accuracy_before"], figures["accuracy_after"]
    return f"held-out accuracy {_percent(before)} → {_percent(after)}"


def _rises(points: float) -> Callable[[Figures], bool]:
    return lambda f: f["accuracy_after"] >= f["accuracy_before"] + points / 100


def _divergence(figures: Figures) -> str:
    return f"reverse KL per token {figures['reverse_kl_first']:.3f} → {figures['reverse_kl_last']:.3f}; {_accuracy(figures)}"


def _teacher(done: dict[str, Figures]) -> dict[str, Any]:
    return {"teacher_model": done["grpo"]["checkpoint"], "learning_rate": 2e-3, **ANSWERS}


CASES = (
    Case(
        "sft", "sft",
        lambda done: {**MATH, "max_train_samples": 400, "max_eval_samples": 100, "learning_rate": 1e-3,
                      "lr_scheduler_type": "cosine", "warmup_ratio": 0.1, "eval_steps": 25},
        lambda f: f["eval_loss"] < 0.5 * f["eval_loss_before"],
        lambda f: f"held-out loss per token {f['eval_loss_before']:.3f} → {f['eval_loss']:.3f}",
    ),
    Case(
        "rejection_sft", "rejection_sft",
        lambda done: {**MATH, "max_train_samples": 200, "eval_size": 200, "num_train_epochs": 2, "temperature": 1.0,
                      "learning_rate": 2e-3, "lora_dropout": 0.0, "max_completion_length": 100},
        _rises(15), _accuracy,
    ),
    Case(
        "grpo", "grpo",
        lambda done: {"max_steps": 12, "per_device_train_batch_size": 64, "learning_rate": 2e-3, "beta": 0.01, **ANSWERS},
        _rises(15),
        lambda f: f"{_accuracy(f)}; KL {f['kl_last']:.3f} per token",
    ),
    Case(
        "grpo, max_staleness 2, cispo", "grpo",
        lambda done: {"max_steps": 12, "per_device_train_batch_size": 64, "learning_rate": 2e-3, "max_staleness": 2,
                      "loss_fn": "cispo", "advantage": "leave_one_out", **ANSWERS},
        _rises(15), _accuracy,
    ),
    Case(
        "dpo", "dpo",
        lambda done: {**PAIRS, "max_train_samples": 320, "learning_rate": 1e-3},
        lambda f: f["eval_accuracy"] > 0.8,
        lambda f: f"held-out pairs in order {_percent(f['eval_accuracy'])}, margin {f['eval_margin']:.2f}",
    ),
    Case(
        "reward_model", "reward_model",
        lambda done: {**PAIRS, "max_train_samples": 640, "learning_rate": 3e-3, "lr_scheduler_type": "linear"},
        lambda f: f["eval_accuracy"] > 0.8,
        lambda f: f"held-out pairs in order {_percent(f['eval_accuracy_before'])} → {_percent(f['eval_accuracy'])}",
    ),
    Case(
        "rlhf", "rlhf",
        lambda done: {
            "lora_r": 4,
            "sft": {**MATH, "max_train_samples": 48, "max_eval_samples": 32, "learning_rate": 5e-4},
            "reward_model": {"dataset_name": "generated-preference", "max_train_samples": 480, "max_eval_samples": 100,
                             "learning_rate": 3e-3, "lr_scheduler_type": "linear"},
            "rl": {"max_steps": 10, "eval_size": 100, "max_completion_length": 100, "learning_rate": 3e-3},
        },
        lambda f: f["reward_after"] > f["reward_before"] and f["kl_last"] < 0.5,
        lambda f: f"mean reward of held-out answers {f['reward_before']:.2f} → {f['reward_after']:.2f}; "
        f"KL {f['kl_last']:.3f} per token",
    ),
    Case(
        "distillation, on_policy", "distillation",
        lambda done: {**_teacher(done), "mode": "on_policy", "max_steps": 12},
        lambda f: f["reverse_kl_last"] < 0.5 * f["reverse_kl_first"], _divergence,
    ),
    Case(
        "distillation, on_policy_topk", "distillation",
        lambda done: {**_teacher(done), "mode": "on_policy_topk", "teacher_top_k": 4, "max_steps": 12},
        lambda f: f["reverse_kl_last"] < 0.5 * f["reverse_kl_first"], _divergence,
    ),
    Case(
        "distillation, off_policy", "distillation",
        lambda done: {**_teacher(done), "mode": "off_policy", "only_correct": True, "max_train_samples": 200},
        _rises(15), _accuracy,
    ),
)  # fmt: skip


def run_cases(client: EZTinkerClient, folder: Path) -> Iterator[tuple[Case, Figures, float]]:
    """Run every case and yield it with its figures and seconds.

    Raises:
        SystemExit: a promise does not hold.
    """
    done: dict[str, Figures] = {}
    for number, case in enumerate(CASES):
        recipe, started_s = get_recipe(case.recipe), time.monotonic()
        given = case.settings(done) | {"output_dir": folder / f"{number}"}
        figures = recipe.run(make_settings(recipe.config_class, given), client, TerminalProgress())
        done[case.name] = figures
        if not case.promise(figures):
            raise SystemExit(
                f"{case.name} does not show what it is for: {json.dumps(figures, default=str)}"
            )
        yield case, figures, time.monotonic() - started_s


def write_table(rows: list[tuple[str, str, float]]) -> None:
    """Replace the table between the marks of the page."""
    lines = ["| recipe | figures | seconds |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | {shown} | {seconds:.0f} |" for name, shown, seconds in rows]
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(head + BEGIN + "\n" + "\n".join(lines) + "\n" + END + tail, encoding="utf-8")


def main() -> None:
    """Run, check, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--print-only", action="store_true", help="leave the page alone")
    flags = parser.parse_args()
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        EZTinkerClient.embedded("nano", timeout=3600) as client,
    ):
        for case, figures, seconds in run_cases(client, Path(folder)):
            rows.append((case.name, case.shows(figures), seconds))
            print(*rows[-1], sep=" | ", flush=True)
    if not flags.print_only:
        write_table(rows)


if __name__ == "__main__":
    sys.exit(main())
