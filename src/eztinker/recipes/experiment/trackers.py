"""Trackers: a log file for people, TensorBoard, Weights & Biases (offline too) and trackio behind two methods.

Each but the log is an extra of the package and imported only when it was asked for. Nothing leaves this machine unless the
user chose wandb or trackio and configured it so. Called by ``session.py`` when an experiment opens.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from eztinker.errors import UnsupportedError


class Tracker(Protocol):
    """Where measurements go beside ``metrics.jsonl``."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by name at an optimizer step."""
        ...

    def close(self) -> None:
        """Write out everything."""
        ...


class _Log:
    """Lines for people in ``<folder>.log``, beside the experiment's folder; a continued experiment appends."""

    def __init__(self, folder: Path, name: str, project: str, config: Mapping[str, Any]) -> None:
        path = folder.with_name(f"{folder.name}.log")
        self._file = path.open("a", encoding="utf-8")
        settings = json.dumps(dict(config), ensure_ascii=False, sort_keys=True)
        self._write(f"{name}: opened with {settings}")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        shown = (f"{key}={value:.6g}" for key, value in values.items())
        self._write(f"step {step}: {' '.join(shown)}")

    def close(self) -> None:
        self._file.close()

    def _write(self, text: str) -> None:
        self._file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        self._file.flush()


class _TensorBoard:
    """Event files in ``<folder>/logs``."""

    def __init__(self, folder: Path, name: str, project: str, config: Mapping[str, Any]) -> None:
        writer_class = _needed("tensorboard.summary", "tensorboard").Writer
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        self._writer = writer_class(str(folder / "logs"))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.flush()
        self._writer.close()


class _Wandb:
    """A run of Weights & Biases; ``WANDB_MODE=offline`` keeps it in ``<folder>/wandb``."""

    def __init__(self, folder: Path, name: str, project: str, config: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # The id makes a continued experiment the same run.
        self._run = _needed("wandb", "wandb").init(
            project=project,
            name=name,
            id=name,
            resume="allow",
            dir=str(folder),
            config=dict(config),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        # Evaluations share their step with a training line; the step is a value, not wandb's own counter.
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    """A run of trackio, kept on this machine."""

    def __init__(self, folder: Path, name: str, project: str, config: Mapping[str, Any]) -> None:
        self._trackio = _needed("trackio", "trackio")
        self._trackio.init(project=project, name=name, config=dict(config), resume="allow")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._trackio.log({"step": step, **values})

    def close(self) -> None:
        self._trackio.finish()


_KINDS = {"log": _Log, "tensorboard": _TensorBoard, "wandb": _Wandb, "trackio": _Trackio}


def open_trackers(
    names: Sequence[str], folder: Path, name: str, project: str, config: Mapping[str, Any]
) -> list[Tracker]:
    """The trackers of these names.

    Args:
        names: of ``log``, ``tensorboard``, ``wandb``, ``trackio``.
        folder: the experiment's.
        name: of the experiment, the same when it is continued.
        project: groups experiments (wandb, trackio).
        config: settings to show beside the curves.

    Raises:
        UnsupportedError: a package is not installed (``code="missing_extra"``).
    """
    return [_KINDS[kind](folder, name, project, config) for kind in names]


def _needed(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnsupportedError(
            f"report_to {extra} needs the package {extra}, which is not installed: pip install "
            f"'eztinker[{extra}]'. Or leave it out of report_to; metrics.jsonl has every figure.",
            code="missing_extra",
            field="report_to",
        ) from error
