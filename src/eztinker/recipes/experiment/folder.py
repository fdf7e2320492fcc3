"""The folder of one experiment: settings as resolved, figures, rollouts, state, plots.

::

    config.yaml        every setting, as resolved
    metrics.jsonl      one line per measurement: {"kind": "train", "step": 12, "loss": 1.25, …}
    rollouts/          step_000012.jsonl: what was sampled and how it was scored
    checkpoints.jsonl  checkpoints on the server, oldest first
    state.json         where the experiment stands: its recipe, its run on the server
    *.png              plots

Writes and reads these files; an interrupted program finds them whole. It asks no server. Called by the recipes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from eztinker.errors import InvalidRequestError
from eztinker.recipes.experiment.settings import RecipeConfig
from eztinker.recipes.experiment.trackers import Tracker
from eztinker.rl.durable import write_text

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.jsonl"
CHECKPOINTS_FILE = "checkpoints.jsonl"
STATE_FILE = "state.json"
ROLLOUTS_FOLDER = "rollouts"
_OWN = (CONFIG_FILE, METRICS_FILE, CHECKPOINTS_FILE, STATE_FILE)


class Experiment:
    """An experiment's folder, opened; see the module.

    Attributes:
        folder: where it lies.
        state: JSON values that survive an interruption; ``save_state`` writes them.
        is_continued: whether the folder held this experiment already.
        trackers: get every logged measurement too.
    """

    def __init__(self, folder: Path, state: dict[str, Any], is_continued: bool) -> None:
        self.folder = folder
        self.state = state
        self.is_continued = is_continued
        self.trackers: list[Tracker] = []
        self.tracker_steps = 1
        self._metrics = list(_read_lines(folder / METRICS_FILE))

    @classmethod
    def open(
        cls, folder: str | Path, recipe: str, config: RecipeConfig, *, overwrite: bool = False
    ) -> Experiment:
        """Make the folder, or continue what it holds.

        Args:
            recipe: name of the recipe.
            config: its settings; keys in ``config.may_change`` may differ from the folder's.
            overwrite: start afresh: the folder's own files are removed.

        Raises:
            InvalidRequestError: the folder holds another experiment (``code="experiment_mismatch"``).
        """
        folder = Path(folder)
        if overwrite:
            forget(folder)
        state = {"recipe": recipe}
        is_continued = (folder / STATE_FILE).is_file()
        if is_continued:
            state = _read_json(folder / STATE_FILE)
            _refuse_other(folder, state, recipe, config)
        settings = yaml.safe_dump(config.resolved(), allow_unicode=True, sort_keys=False)
        write_text(folder / CONFIG_FILE, settings)
        experiment = cls(folder, state, is_continued)
        experiment.save_state()
        return experiment

    def save_state(self, **values: Any) -> None:
        """Set values of ``state`` and write it, in one moment."""
        self.state |= values
        write_text(self.folder / STATE_FILE, json.dumps(self.state, ensure_ascii=False, indent=1))

    def abandon(self) -> None:
        """The experiment could not begin: its folder is as if nobody had tried, and free for other settings."""
        forget(self.folder)
        with suppress(OSError):  # it was not empty before
            self.folder.rmdir()

    # Figures ------------------------------------------------------------------------------------------

    def log(self, kind: str, step: int, **values: Any) -> dict[str, Any]:
        """Append a measurement and hand it to the trackers; the line as written.

        Args:
            kind: ``train``, ``eval``, ``rollouts``, …
            step: optimizer steps behind the weights that it is about.
            values: JSON values; a number that is not finite is written as null.
        """
        line = {"kind": kind, "step": step, **{k: _plain(v) for k, v in values.items()}}
        line["time_s"] = round(time.time(), 3)
        with (self.folder / METRICS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._metrics.append(line)
        if kind != "train" or step % self.tracker_steps == 0:
            numbers = {f"{kind}/{k}": v for k, v in values.items() if _is_number(v)}
            for tracker in self.trackers:
                tracker.log(step, numbers)
        return line

    def metrics(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Measurements so far, of one kind if named, in the order they were made."""
        return [line for line in self._metrics if kind is None or line["kind"] == kind]

    def last(self, kind: str) -> dict[str, Any] | None:
        """The newest measurement of a kind."""
        return next((line for line in reversed(self._metrics) if line["kind"] == kind), None)

    def has(self, kind: str, step: int) -> bool:
        """Whether a measurement of this kind was made at this step."""
        return any(line["kind"] == kind and line["step"] == step for line in self._metrics)

    # Rollouts and checkpoints -------------------------------------------------------------------------

    def write_rollouts(self, step: int, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Keep what was sampled for the step that follows ``step``."""
        path = self.rollouts_path(step)
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return path

    def rollouts_path(self, step: int) -> Path:
        """Where the rollouts of a step (or iteration) lie, once they are there."""
        return self.folder / ROLLOUTS_FOLDER / f"step_{step:06d}.jsonl"

    def add_checkpoint(self, name: str, step: int, path: str) -> None:
        """Note a checkpoint of the server."""
        kept = [line for line in self.checkpoints() if line["name"] != name]
        self._write_checkpoints([*kept, {"name": name, "step": step, "path": path}])

    def checkpoints(self) -> list[dict[str, Any]]:
        """Checkpoints noted and not dropped, oldest first."""
        return list(_read_lines(self.folder / CHECKPOINTS_FILE))

    def drop_checkpoint(self, name: str) -> None:
        """Forget a checkpoint that the server no longer has."""
        self._write_checkpoints([line for line in self.checkpoints() if line["name"] != name])

    def _write_checkpoints(self, lines: Sequence[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_text(self.folder / CHECKPOINTS_FILE, text)

    def close(self) -> None:
        """Close the trackers."""
        for tracker in self.trackers:
            tracker.close()
        self.trackers = []


def forget(folder: Path) -> None:
    """Remove the files of an experiment; whatever else lies in its folder stays."""
    for name in _OWN:
        (folder / name).unlink(missing_ok=True)
    for path in (folder / ROLLOUTS_FOLDER).glob("step_*.jsonl"):
        path.unlink()


def _refuse_other(
    folder: Path, state: Mapping[str, Any], recipe: str, config: RecipeConfig
) -> None:
    differences = []
    if state.get("recipe") != recipe:
        differences.append(f"its recipe is {state.get('recipe')!r}, not {recipe!r}")
    else:
        path = folder / CONFIG_FILE
        held = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
        now = config.resolved()
        differences += [
            f"{key} was {held.get(key)!r}, now {value!r}"
            for key, value in now.items()
            if key not in config.may_change and held.get(key) != value
        ]
    if differences:
        raise InvalidRequestError(
            f"{folder} holds another experiment: {'; '.join(differences)}. Choose another output_dir, or start "
            "afresh with overwrite_output_dir=true.",
            code="experiment_mismatch",
            field="output_dir",
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidRequestError(
            f"{path} cannot be read ({error}). Start afresh with overwrite_output_dir=true.",
            code="experiment_mismatch",
            field="output_dir",
        ) from error


def _read_lines(path: Path) -> Iterable[dict[str, Any]]:
    """Lines of a file that were written whole."""
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    if not text.endswith("\n"):  # a crash in the middle of a line
        text = text[: text.rfind("\n") + 1]
        write_text(path, text)
    for line in text.split("\n"):  # a text may hold what splitlines() takes for an end of line
        if line:
            yield json.loads(line)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
