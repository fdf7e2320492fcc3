"""Pictures of a training: loss by step, accuracy by epoch with its interval, as one PNG.

Knows matplotlib (imported when something is drawn, without a display) and plain numbers. Called by recipes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Series = Sequence[Mapping[str, Any]]


def plot_training(
    path: str | Path, *, losses: Sequence[float], curves: Mapping[str, Series], title: str
) -> Path:
    """Draw the loss beside the accuracy.

    Args:
        path: of the PNG; its folder is made if needed.
        losses: one per optimizer step.
        curves: label -> points with ``epoch``, ``accuracy`` and ``ci95`` (low, high), all in 0 to 1.
        title: above both; drawn as plain text.
    """
    # An own Figure instead of pyplot: no display, no global state, safe in any thread.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, parse_math=False)
    left, right = figure.subplots(1, 2)
    _draw_losses(left, losses)
    _draw_curves(right, curves)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    path.write_bytes(picture.getvalue())
    return path


def _draw_losses(axes: Any, losses: Sequence[float]) -> None:
    axes.plot(
        range(1, len(losses) + 1), losses, color="tab:blue", marker="." if len(losses) < 60 else ""
    )
    axes.set(xlabel="optimizer step", ylabel="loss per answer token", title="Loss")
    axes.grid(visible=True, alpha=0.3)


def _draw_curves(axes: Any, curves: Mapping[str, Series]) -> None:
    for label, points in curves.items():
        values = [100 * point["accuracy"] for point in points]
        below = [
            value - 100 * point["ci95"][0] for value, point in zip(values, points, strict=True)
        ]
        above = [
            100 * point["ci95"][1] - value for value, point in zip(values, points, strict=True)
        ]
        epochs = [point["epoch"] for point in points]
        axes.errorbar(epochs, values, yerr=[below, above], marker="o", capsize=4, label=label)
        axes.set_xticks(epochs)
    axes.set(xlabel="epoch (0: before training)", ylabel="%", title="Accuracy on held-out problems")
    axes.set_ylim(0, 100)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
