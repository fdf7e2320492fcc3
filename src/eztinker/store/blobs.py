"""Folders of files that appear whole or not at all: snapshots and checkpoints.

A folder is filled under a temporary name by someone else (the worker, which syncs each file), then
published here: manifest with checksums, rename, sync of the parent. Whoever reads one later verifies
it first. Knows nothing of tensors or databases. Called by the engine; all functions block on the
disk, so run them in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

from eztinker import failpoints
from eztinker.errors import DiskFullError, EZTinkerError, StorageError

MANIFEST = "eztinker.json"
FORMAT = 1
_TEMPORARY = ".tmp-"
_TRASH = ".trash-"
_REPLACED = ".replaced-"
_DIGEST = "manifest_sha256"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


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
            Should we die meanwhile, ``sweep`` puts it back.
        files: file name -> sha256 in hex, written into the manifest.
        facts: further entries of the manifest (run, step, ...).

    Returns:
        Size in bytes, manifest included.
    """
    manifest = {"format": FORMAT, **facts, "files": dict(files)}
    manifest[_DIGEST] = _digest(manifest)
    try:
        failpoints.reach("manifest.before")
        _write_synced(folder / MANIFEST, orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
        failpoints.reach("manifest.after")
        _sync_folder(folder)
        failpoints.reach("rename.before")
        _take_place(folder, target)
        failpoints.reach("folder.after")
        return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    except OSError as error:
        raise _translated(error, target) from error


def _take_place(folder: Path, target: Path) -> None:
    """Rename ``folder`` to ``target``; what was there stays beside it until that is durable."""
    aside = target.with_name(f"{_REPLACED}{target.name}")
    if target.exists():
        if aside.exists():
            discard(aside)
        target.rename(aside)
    try:
        folder.rename(target)
    except OSError:
        _put_back(aside)
        raise
    failpoints.reach("rename.after")
    # The run's folder may be new too, so its name has to be durable as well.
    _sync_folder(target.parent)
    _sync_folder(target.parent.parent)
    if aside.exists():
        with contextlib.suppress(EZTinkerError):  # the next sweep removes it
            discard(aside)


def _put_back(aside: Path) -> None:
    target = aside.with_name(aside.name.removeprefix(_REPLACED))
    if aside.exists() and not target.exists():
        aside.rename(target)


def verify(folder: Path) -> dict[str, Any]:
    """Read a published folder's manifest and compare every checksum, its own included.

    Raises:
        StorageError: code ``damaged_files``: something is missing or differs; code
            ``state_too_new``: a later version wrote it.
    """
    try:
        manifest = orjson.loads((folder / MANIFEST).read_bytes())
        if manifest.pop(_DIGEST) != _digest(manifest):
            raise StorageError(
                f"The manifest of {folder.name} is damaged (checksum).", code="damaged_files"
            )
        if manifest["format"] > FORMAT:
            raise StorageError(
                f"{folder.name} was written by a newer EZTinker (format {manifest['format']}; this "
                f"one knows up to {FORMAT}). Install that version again.",
                code="state_too_new",
            )
        for name, expected in manifest["files"].items():
            found = sha256(folder / name)
            if found != expected:
                raise StorageError(
                    f"{name} in {folder.name} is damaged (sha256 {found[:12]}…, expected "
                    f"{expected[:12]}…).",
                    code="damaged_files",
                )
    except (OSError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise StorageError(
            f"{folder.name} is incomplete or unreadable ({type(error).__name__}).",
            code="damaged_files",
        ) from error
    return manifest


def discard(folder: Path) -> None:
    """Remove a folder: out of sight first, so that half of it is never taken for the whole."""
    failpoints.reach("discard.before")
    trash = folder.with_name(f"{_TRASH}{uuid.uuid4().hex}")
    try:
        folder.rename(trash)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise _translated(error, folder) from error
        # Not even room for a name: without its manifest it is taken for damaged, not for whole.
        (folder / MANIFEST).unlink(missing_ok=True)
        trash = folder
    failpoints.reach("discard.after")
    shutil.rmtree(trash, ignore_errors=True)


def sweep(parent: Path, *, keep: Iterable[str] | None = None) -> None:
    """Clear up below ``parent`` (``<run>/<name>``) what crashes left, and what is not kept.

    Temporary folders and trash go; a folder whose replacement never came returns to its place.

    Args:
        keep: folders to keep, known by the last two parts of their paths, so that a state folder
            may be moved or named in another way; None keeps everything that was published.
    """
    kept = None if keep is None else {Path(path).parts[-2:] for path in keep}
    for run_folder in _folders(parent):
        if run_folder.name.startswith((_TEMPORARY, _TRASH)):
            shutil.rmtree(run_folder, ignore_errors=True)
            continue
        for aside in run_folder.glob(f"{_REPLACED}*"):
            _put_back(aside)
        for folder in _folders(run_folder):
            orphaned = kept is not None and folder.parts[-2:] not in kept
            if orphaned or folder.name.startswith((_TEMPORARY, _TRASH, _REPLACED)):
                shutil.rmtree(folder, ignore_errors=True)


def _folders(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []


def sha256(path: Path) -> str:
    """Checksum of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(manifest: Mapping[str, Any]) -> str:
    """Checksum of a manifest's entries, whatever their order and layout."""
    return hashlib.sha256(orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS)).hexdigest()


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
    if error.errno in _NO_ROOM:
        return DiskFullError(
            f"No room left to write {path.name}. Free space and try again; nothing was changed.",
            retry_after_s=10.0,
        )
    return StorageError(f"{path.name} could not be written: {error.strerror or error}.")
