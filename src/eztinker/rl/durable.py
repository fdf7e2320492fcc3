"""Text files that are whole or absent, also after a crash in the middle of writing; folders replaced by whole ones.

Knows no format. Called by ``buffer.py`` and by the recipes for their results.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def write_text(path: str | Path, text: str) -> None:
    """Replace the file at ``path`` in one moment; its folder is made if needed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def draft_of(target: Path) -> Path:
    """Where to make a folder that will take the place of ``target``; what an interrupted program left there goes."""
    draft = target.with_name(f".{target.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    return draft


def put_in_place(draft: Path, target: Path) -> None:
    """Give a folder that is whole its name; what stood there goes only then."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    draft.rename(target)
    shutil.rmtree(old, ignore_errors=True)
