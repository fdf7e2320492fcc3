"""Where an interrupted rejection-sampling run stands: a small file beside the buffer.

Holds what the buffer was made with, the run on the server, and the figures of every finished epoch. It decides
whether a found buffer fits; it samples and trains nothing. Called by ``rejection_sft.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eztinker.errors import InvalidRequestError
from eztinker.rl.durable import write_text

STATE_FILE = "rejection_sft_state.json"
BUFFER_FILE = "rejection_buffer.jsonl"
RESULTS_FILE = "rejection_sft_results.json"
PLOT_FILE = "rejection_sft.png"


def epoch_file(epoch: int | str) -> str:
    """Name of the file with the best candidates of an epoch that is not on record yet."""
    return f"rejection_epoch_{epoch}.jsonl"


@dataclass
class RejectionState:
    """Progress of one output folder.

    Attributes:
        made_with: model, data and settings that the buffer and the finished epochs depend on.
        run_id: the run on the server; None before phase 1.
        step: optimizer steps of the run at the end of the last finished epoch.
        epochs: ``training_metrics`` of the finished epochs, in order.
        evaluations: test accuracy before training and after each finished epoch.
    """

    made_with: dict[str, Any]
    run_id: str | None = None
    step: int = 0
    epochs: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write it beside the buffer, in one moment."""
        write_text(folder / STATE_FILE, json.dumps(asdict(self), ensure_ascii=False, indent=1))

    def forget_epochs(self) -> None:
        """Training begins anew from the buffer; the accuracy before it is known already."""
        self.run_id, self.step, self.epochs = None, 0, []
        del self.evaluations[1:]


def open_state(folder: Path, made_with: Mapping[str, Any]) -> RejectionState:
    """The state of an output folder, or a fresh one when the folder holds nothing.

    Raises:
        InvalidRequestError: the folder's buffer was made with something else; each difference is named.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        if (folder / BUFFER_FILE).is_file():
            raise _mismatch(folder, [f"there is no {STATE_FILE} that says what it was made with"])
        return RejectionState(dict(made_with))
    try:
        state = RejectionState(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise _mismatch(folder, [f"{STATE_FILE} cannot be read ({error})"]) from error
    differences = [
        f"{name} was {state.made_with.get(name)!r}, now {value!r}"
        for name, value in made_with.items()
        if state.made_with.get(name) != value
    ]
    if differences:
        raise _mismatch(folder, differences)
    return state


def remove_progress(folder: Path) -> None:
    """Forget buffer, state and results, for a fresh start; other files stay."""
    for name in (BUFFER_FILE, STATE_FILE, RESULTS_FILE, PLOT_FILE):
        (folder / name).unlink(missing_ok=True)
    remove_epoch_files(folder)


def remove_epoch_files(folder: Path) -> None:
    """Forget the candidates of epochs after the first: they are on record, or their weights are gone."""
    for path in folder.glob(epoch_file("*")):
        path.unlink()


def _mismatch(folder: Path, differences: list[str]) -> InvalidRequestError:
    return InvalidRequestError(
        f"The buffer {folder / BUFFER_FILE} does not fit this run: {'; '.join(differences)}. Start afresh with "
        "--reset-buffer, or choose another --output-dir.",
        code="buffer_mismatch",
        field="output_dir",
    )
