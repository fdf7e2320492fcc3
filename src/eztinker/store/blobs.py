"""Folders of files that appear whole or not at all: snapshots and checkpoints.

A folder is filled under a temporary name by someone else (the worker, which syncs each file), then
published here: manifest with checksums, rename, sync of the parent. Whoever reads one later verifies
it first. Knows nothing of tensors or databases. Called by the engine; all functions block on the
disk, so run them in a thread.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

from eztinker.errors import DiskFullError, EZTinkerError, StorageError

MANIFEST = "eztinker.json"
FORMAT = 1
_TEMPORARY = ".tmp-"
_TRASH = ".trash-"


def new_folder(parent: Path) -> Path:
    """An empty folder below ``parent`` to be filled and then published."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = parent / f"{_TEMPORARY}{uuid.uuid4().hex}"
        folder.mkdir()
    except OSError as error:
        raise _translated(error, parent) from error
    return folder


def publish(
    folder: Path, target: Path, *, files: Mapping[str, str], facts: Mapping[str, Any]
) -> int:
    """Give a filled folder its final name; afterwards it survives a power cut.

    Args:
        folder: made by ``new_folder`` beside ``target``; each file in it is synced.
        target: final name. What lies there already is replaced: the caller has asked the database.
        files: file name -> sha256 in hex, written into the manifest.
        facts: further entries of the manifest (run, step, ...).

    Returns:
        Size in bytes, manifest included.
    """
    manifest = {"format": FORMAT, **facts, "files": dict(files)}
    try:
        _write_synced(folder / MANIFEST, orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
        _sync_folder(folder)
        if target.exists():
            discard(target)
        folder.rename(target)
        _sync_folder(target.parent)
        return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    except OSError as error:
        raise _translated(error, target) from error


def verify(folder: Path) -> dict[str, Any]:
    """Read a published folder's manifest and compare every checksum.

    Raises:
        StorageError: code ``damaged_files``: something is missing or differs.
    """
    try:
        manifest = orjson.loads((folder / MANIFEST).read_bytes())
        for name, expected in manifest["files"].items():
            found = sha256(folder / name)
            if found != expected:
                raise StorageError(
                    f"{name} in {folder.name} is damaged (sha256 {found[:12]}…, expected "
                    f"{expected[:12]}…).",
                    code="damaged_files",
                )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(
            f"{folder.name} is incomplete or unreadable ({type(error).__name__}).",
            code="damaged_files",
        ) from error
    return manifest


def discard(folder: Path) -> None:
    """Remove a folder: out of sight first, so that half of it is never taken for the whole."""
    trash = folder.with_name(f"{_TRASH}{uuid.uuid4().hex}")
    try:
        folder.rename(trash)
    except FileNotFoundError:
        return
    shutil.rmtree(trash, ignore_errors=True)


def sweep(parent: Path, *, keep: Iterable[str] | None = None) -> None:
    """Remove what crashes left below ``parent``: temporary folders, trash, and what is not kept.

    Args:
        keep: full paths to keep; None keeps everything that was published.
    """
    kept = None if keep is None else set(keep)
    if not parent.is_dir():
        return
    for run_folder in parent.iterdir():
        for folder in run_folder.iterdir() if run_folder.is_dir() else ():
            orphaned = kept is not None and str(folder) not in kept
            if folder.name.startswith((_TEMPORARY, _TRASH)) or orphaned:
                shutil.rmtree(folder, ignore_errors=True)


def sha256(path: Path) -> str:
    """Checksum of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _translated(error: OSError, path: Path) -> EZTinkerError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(
            f"No room left to write {path.name}. Free space and try again; nothing was changed.",
            retry_after_s=10.0,
        )
    return StorageError(f"{path.name} could not be written: {error.strerror or error}.")
