"""Outputs of a stage: not overwritten unless asked for, and tied to the inputs that they were made from.

Knows files only. Called by the stages.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from eztinker.errors import InvalidRequestError


def refuse_finished(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace what is there.

    Raises:
        InvalidRequestError: it exists (``code="output_exists"``).
    """
    if path.exists() and not overwrite:
        raise InvalidRequestError(
            f"{path} exists. Keep it and go on with the next stage, or pass --overwrite (overwrite=true) to make it "
            "anew.",
            code="output_exists",
            field="overwrite",
        )


def digest_of(path: Path) -> str:
    """What a file holds, as a short text that differs for other contents."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
