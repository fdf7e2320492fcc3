"""Which base model a name meant: its folder, and a fingerprint that another model's files do not have.

A run depends on its base model bit by bit, but knows it by a name, and what a name means can change: a
relative folder, an alias, files that were exchanged. Reads pieces of the files, no tensors. Called by
``recovery.py``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

PIECE_BYTES = 64 * 1024
NUM_PIECES = 32
"""Read from each file, spread over its length: gigabytes are told apart in milliseconds."""


def fingerprint(folder: Path) -> str:
    """A digest of ``config.json`` and of pieces of each weight file, with their names and sizes.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        if not path.is_file():
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            for offset in _offsets(size):
                file.seek(offset)
                digest.update(file.read(PIECE_BYTES))
    return digest.hexdigest()


def _offsets(size: int) -> list[int]:
    """Where the pieces begin; all of a small file, and always the beginning and the end."""
    if size <= PIECE_BYTES * NUM_PIECES:
        return list(range(0, size, PIECE_BYTES))
    last = size - PIECE_BYTES
    return [last * number // (NUM_PIECES - 1) for number in range(NUM_PIECES)]
