"""The adapter that a training stage leaves behind: a PEFT folder, replaced in one moment or not at all.

Also says where a stage stands: not begun, half done, or finished. Knows files and the client; no training. Called by
the training stages and the recipe.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eztinker.recipes.experiment.folder import forget
from eztinker.recipes.finance.outputs import (
    MADE_FROM_FILE,
    digests_of,
    read_json,
    refuse_present,
)
from eztinker.rl.durable import draft_of, put_in_place, write_text

FINISHED_FILE = "finished.json"
_STATE_FILE = "state.json"


def begin(folder: Path, target: Path, inputs: Sequence[Path] = (), *, overwrite: bool) -> bool:
    """Make sure that a stage may begin or go on.

    Args:
        folder: of its experiment.
        target: the adapter that it makes.
        inputs: files that it is made from; a half-done training of others begins afresh.
        overwrite: begin afresh.

    Returns:
        Whether the experiment's folder is to be begun afresh.

    Raises:
        InvalidRequestError: the adapter is there and nothing is half done (``code="output_exists"``, or
            ``output_stale`` when it was made from other inputs).
    """
    finished, note = folder / FINISHED_FILE, folder / MADE_FROM_FILE
    held, now = read_json(note), digests_of(inputs)
    is_begun = held is not None or (folder / _STATE_FILE).is_file()
    if target.exists() and not overwrite and (finished.is_file() or not is_begun):
        refuse_present(target, held, now)
    is_afresh = overwrite or held not in (None, now)
    if is_afresh:
        forget(
            folder
        )  # before the mark below goes: a kill between them leaves no older training to continue
    finished.unlink(missing_ok=True)  # or the adapter was removed by hand: it is made again
    write_text(note, json.dumps(now, indent=1) + "\n")
    return is_afresh


def bring_home(client: Any, checkpoint: str, target: Path) -> Path:
    """Fetch ``RUN_ID@NAME`` as a PEFT folder; what was there before goes only when the new one is whole."""
    run_id, _, name = checkpoint.rpartition("@")
    draft = draft_of(target)
    client.download_checkpoint(run_id, name, draft)
    put_in_place(draft, target)
    return target


def finish(folder: Path, figures: dict[str, Any]) -> None:
    """Note that the stage is done, with what it reported."""
    write_text(folder / FINISHED_FILE, json.dumps(figures, ensure_ascii=False, indent=1) + "\n")


def finished_figures(folder: Path) -> dict[str, Any]:
    """What a finished stage reported; empty when it was not done here."""
    return read_json(folder / FINISHED_FILE) or {}
