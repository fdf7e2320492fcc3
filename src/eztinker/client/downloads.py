"""A checkpoint from the server as a folder on this machine, compared with its checksums.

Knows the manifest that every checkpoint carries (``eztinker.json``); asks no server itself. Called by
``download_checkpoint`` of the two clients.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import orjson

from eztinker.errors import AlreadyExistsError, ServerError

MANIFEST = "eztinker.json"


def check_free(folder: str | os.PathLike[str]) -> Path:
    """The folder, which must not exist.

    Raises:
        AlreadyExistsError: code ``folder_exists``.
    """
    path = Path(folder)
    if path.exists():
        raise AlreadyExistsError(
            f"{path} exists. Name another folder, or remove it.",
            code="folder_exists",
            field="folder",
        )
    return path


def store_checkpoint(files: Mapping[str, bytes], folder: Path) -> Path:
    """Write the files as ``folder``, whole or not at all.

    Args:
        files: name -> content, the manifest among them.
        folder: must not exist; its parents are made.

    Raises:
        ServerError: code ``damaged_files``: a file differs from its checksum, or a name is no plain one.
    """
    _verify(files)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        for name, content in files.items():
            (draft / name).write_bytes(content)
        draft.chmod(0o755)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _verify(files: Mapping[str, bytes]) -> None:
    expected = orjson.loads(files[MANIFEST])["files"] if MANIFEST in files else {}
    for name, content in files.items():
        is_whole = name == MANIFEST or expected.get(name) == hashlib.sha256(content).hexdigest()
        if name != Path(name).name or name.startswith(".") or not is_whole:
            raise ServerError(
                f"The file {name[:100]!r} of the checkpoint did not arrive as it was saved. Try again.",
                code="damaged_files",
            )
