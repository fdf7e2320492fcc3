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


def plot_panels(
    path: str | Path,
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float | None]]]],
    *,
    title: str,
    x_label: str = "optimizer step",
) -> Path | None:
    """Draw curves side by side.

    Args:
        path: of the PNG; its folder is made if needed.
        panels: title of a panel -> label of a curve -> its points (x, y); points without y are left out.
        title: above all; drawn as plain text.
        x_label: below every panel.

    Returns:
        The path; None when there is no point to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = {
        name: curves for name, curves in panels.items() if any(map(_drawable, curves.values()))
    }
    if not drawn:
        return None
    figure = Figure(figsize=(5 * len(drawn), 4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, parse_math=False)
    all_axes = figure.subplots(1, len(drawn), squeeze=False)[0]
    for axes, (name, curves) in zip(all_axes, drawn.items(), strict=True):
        for label, points in curves.items():
            shown = _drawable(points)
            mark = "." if len(shown) < 60 else ""
            axes.plot([x for x, _ in shown], [y for _, y in shown], marker=mark, label=label)
        axes.set(xlabel=x_label, title=name)
        axes.grid(visible=True, alpha=0.3)
        if len(curves) > 1:
            axes.legend()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    path.write_bytes(picture.getvalue())
    return path


def plot_bars(
    path: str | Path,
    panels: Mapping[str, Mapping[str, tuple[float, float, float]]],
    *,
    title: str,
) -> Path:
    """Draw shares as bars with their intervals, one panel beside the other.

    Args:
        path: of the PNG; its folder is made if needed.
        panels: title of a panel -> label of a bar -> share, low and high end of its interval, all in 0 to 1.
        title: above all; drawn as plain text.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(panels), 4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, parse_math=False)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, bars) in zip(all_axes, panels.items(), strict=True):
        values = [100 * value for value, _, _ in bars.values()]
        below = [100 * max(0.0, value - low) for value, low, _ in bars.values()]
        above = [100 * max(0.0, high - value) for value, _, high in bars.values()]
        axes.bar(list(bars), values, yerr=[below, above], capsize=4, color="tab:blue", alpha=0.8)
        axes.set(ylabel="%", title=name, ylim=(0, 105))
        axes.tick_params(axis="x", labelrotation=30)
        axes.grid(visible=True, axis="y", alpha=0.3)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    path.write_bytes(picture.getvalue())
    return path


def _drawable(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if y is not None]


def curve(lines: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float | None]]:
    """Points (step, value) of one figure in lines of ``metrics.jsonl``."""
    return [(line["step"], line.get(key)) for line in lines]
