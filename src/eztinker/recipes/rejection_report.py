"""The figures of a rejection-sampling run: as JSON, as a table for people, as a plot.

Counts and formats; it asks no server. Made by ``rejection_sft.py``, printed by the doors and ``demo.py``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from eztinker.recipes.plots import plot_training
from eztinker.recipes.rejection_state import PLOT_FILE, RESULTS_FILE
from eztinker.recipes.terminal import pick
from eztinker.recipes.troubleshooting import math_verify_warning, not_rising_advice
from eztinker.rl.buffer import Row
from eztinker.rl.durable import write_text


@dataclass(frozen=True)
class RejectionSFTReport:
    """What a run did.

    Attributes:
        config: the resolved settings, with ``run_id`` and the adapter as the server has it.
        training_metrics: one entry for each epoch; see ``epoch_metrics``.
        evaluations: held-out accuracy before training and after each epoch: ``epoch``, ``accuracy`` (greedy, 0 to
            1), ``ci95`` (Wilson), ``num_correct``, ``num_examples``, ``mean_score`` and, if asked,
            ``sampled_accuracy`` and ``sampled_ci95`` (temperature 1).
        buffer_size: rows of the buffer.
        num_unverified: answers that math-verify should have looked at and could not.
    """

    config: dict[str, Any]
    training_metrics: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    buffer_size: int
    num_unverified: int = 0

    @property
    def run_id(self) -> str:
        """The run on the server."""
        return self.config["run_id"]

    @property
    def losses(self) -> list[float]:
        """Loss of every optimizer step, all epochs in a row."""
        return [loss for epoch in self.training_metrics for loss in epoch["losses"]]

    @property
    def num_trained(self) -> int:
        """Answers that were trained on, over all epochs."""
        return sum(epoch["num_trained"] for epoch in self.training_metrics)

    def as_dict(self) -> dict[str, Any]:
        """Content of ``rejection_sft_results.json``."""
        return {
            "config": self.config,
            "training_metrics": self.training_metrics,
            "evaluation_metrics": {
                "initial": self.evaluations[0],
                "final": self.evaluations[-1],
                "history": self.evaluations,
            },
            "buffer_size": self.buffer_size,
        }

    def save(self, folder: Path) -> Path:
        """Write the JSON file, in one moment."""
        path = folder / RESULTS_FILE
        write_text(path, json.dumps(self.as_dict(), ensure_ascii=False, indent=2) + "\n")
        return path

    def plot(self, folder: Path) -> Path:
        """Draw loss and accuracy."""
        curves: dict[str, list[dict[str, Any]]] = {"greedy": self.evaluations}
        sampled = [
            {"epoch": e["epoch"], "accuracy": e["sampled_accuracy"], "ci95": e["sampled_ci95"]}
            for e in self.evaluations
            if "sampled_accuracy" in e
        ]
        if sampled:
            curves["sampled, temperature 1"] = sampled
        title = f"Rejection-sampling SFT of {self.config['base_model']} ({self.run_id})"
        return plot_training(folder / PLOT_FILE, losses=self.losses, curves=curves, title=title)

    def advice(self) -> list[str]:
        """What a person should know beside the figures; often nothing."""
        before, after = self.evaluations[0], self.evaluations[-1]
        # Free text has no right or wrong to count: there the mean score tells whether it helped.
        name = "mean_score" if self.config["train_on_incorrect"] else "accuracy"
        found = [
            math_verify_warning(self.num_unverified),
            not_rising_advice(before[name], after[name], self.num_trained),
        ]
        return [text for text in found if text]

    def table(self) -> str:
        """One line for each epoch, for the terminal."""
        lines = [self._header(), self._line(None, self.evaluations[0])]
        for metrics, evaluation in zip(self.training_metrics, self.evaluations[1:], strict=True):
            lines.append(self._line(metrics, evaluation))
        return "\n".join(lines)

    def _header(self) -> str:
        of = self.config["num_candidates"]
        cells = (
            pick("epoch", "轮次"),
            pick("test accuracy (95 %)", "测试准确率（95%）"),
            pick("test score", "测试得分"),
            pick("train accuracy", "训练准确率"),
            pick(f"correct of {of}", f"{of} 个中正确"),
            pick("loss", "损失"),
        )
        return "".join(map(_right, cells, _WIDTHS))

    def _line(self, metrics: dict[str, Any] | None, evaluation: dict[str, Any]) -> str:
        low, high = evaluation["ci95"]
        accuracy = f"{evaluation['accuracy']:.0%} ({low:.0%} - {high:.0%})"
        score = f"{evaluation['mean_score']:.2f}"
        if metrics is None:
            cells = (pick("before", "训练前"), accuracy, score)
        else:
            loss = metrics["mean_loss"]
            cells = (
                str(metrics["epoch"]),
                accuracy,
                score,
                f"{metrics['training_accuracy']:.0%}",
                f"{metrics['mean_correct_candidates']:.2f}",
                "-" if loss is None else f"{loss:.3f}",
            )
        return "".join(map(_right, cells, _WIDTHS))


_WIDTHS = (8, 23, 12, 16, 14, 9)


def _right(text: str, width: int) -> str:
    """``text`` at the right of a column; Chinese characters are two columns wide."""
    return " " * (width - cell_len(text)) + text


def epoch_metrics(
    epoch: int, rows: Sequence[Row], losses: Sequence[float], *, num_trained: int
) -> dict[str, Any]:
    """Figures of one epoch, from the best candidates it trained on.

    ``training_accuracy`` is the share of examples whose best candidate is correct, and
    ``mean_correct_candidates`` the mean number of correct ones of N, both with the weights that the candidates
    were sampled from, which are those at the start of the epoch.
    """
    size = len(rows)
    return {
        "epoch": epoch,
        "num_examples": size,
        "training_accuracy": sum(bool(row["is_correct"]) for row in rows) / size,
        "mean_correct_candidates": sum(row["num_correct"] for row in rows) / size,
        "num_candidates": rows[0]["num_candidates"],
        "mean_best_score": sum(row["best_score"] for row in rows) / size,
        "num_trained": num_trained,
        "num_skipped": size - num_trained,
        "num_steps": len(losses),
        "mean_loss": sum(losses) / len(losses) if losses else None,
        "losses": list(losses),
    }
