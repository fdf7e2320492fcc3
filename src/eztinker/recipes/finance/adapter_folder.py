"""The adapter that a training stage leaves behind: a PEFT folder, replaced in one moment or not at all.

Also says where a stage stands: not begun, half done, or finished. Knows files and the client; no training. Called by
the training stages and the recipe.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eztinker.errors import InvalidRequestError
from eztinker.rl.durable import draft_of, put_in_place, write_text

FINISHED_FILE = "finished.json"
_STATE_FILE = "state.json"


def begin(folder: Path, target: Path, *, overwrite: bool) -> bool:
    """Make sure that a stage may begin or go on.

    Args:
        folder: of its experiment.
        target: the adapter that it makes.
        overwrite: begin afresh.

    Returns:
        Whether the experiment's folder is to be begun afresh.

    Raises:
        InvalidRequestError: the adapter is there and nothing is half done (``code="output_exists"``).
    """
    finished = folder / FINISHED_FILE
    if overwrite:
        finished.unlink(missing_ok=True)
        return True
    is_half_done = (folder / _STATE_FILE).is_file() and not finished.is_file()
    if target.exists() and not is_half_done:
        raise InvalidRequestError(
            f"{target} exists and is finished. Pass --overwrite (overwrite=true) to train it anew.",
            code="output_exists",
            field="overwrite",
        )
    finished.unlink(missing_ok=True)  # the adapter was removed by hand: it is made again
    return False


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
    path = folder / FINISHED_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
