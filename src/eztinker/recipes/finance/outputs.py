"""Outputs of a stage: not overwritten unless asked for, and tied to the inputs that they were made from.

Knows files only. Called by the stages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from eztinker.errors import InvalidRequestError
from eztinker.recipes.experiment.journal import Journal

STALE = "output_stale"
MADE_FROM_FILE = "made_from.json"
"""Beside or in an output: name -> digest of what it was made from."""


def refuse_finished(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace what is there.

    Raises:
        InvalidRequestError: it exists (``code="output_exists"``).
    """
    if path.exists() and not overwrite:
        refuse_present(path, None, {})


def refuse_present(path: Path, held: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """Refuse to replace a finished output, and say whether it is still that of its inputs.

    Args:
        path: the output.
        held: digests of what it was made from; None where nobody knows.
        now: those of what is there now.

    Raises:
        InvalidRequestError: always; ``code="output_stale"`` when an input is another now, else ``output_exists``.
    """
    others = [] if held is None else [name for name in now if held.get(name) != now[name]]
    if others:
        raise InvalidRequestError(
            f"{path} is finished, but was made from another {' and '.join(others)} than is there now. Pass --overwrite "
            "(overwrite=true) to make it anew.",
            code=STALE,
            field="overwrite",
        )
    raise InvalidRequestError(
        f"{path} exists and is finished. Keep it and go on with the next stage, or pass --overwrite (overwrite=true) to "
        "make it anew.",
        code="output_exists",
        field="overwrite",
    )


def refuse_finished_journal(output: Path, statistics: Path, source: Path) -> None:
    """``refuse_present`` for an output that a journal made, unless one is still open.

    Args:
        output: of the journal.
        statistics: its report, whose ``settings`` hold the digest of ``source`` under its name.
        source: what it was made from.
    """
    if not output.exists() or Journal.is_begun(output):
        return
    held = read_json(statistics) or {}
    now = {source.name: digest_of(source)}
    refuse_present(output, held.get("settings"), now)


def read_json(path: Path) -> dict[str, Any] | None:
    """What a file holds; None without one."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def digests_of(paths: Iterable[Path]) -> dict[str, str]:
    """Name -> digest."""
    return {path.name: digest_of(path) for path in paths}


def digest_of(path: Path) -> str:
    """What a file holds, as a short text that differs for other contents."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
