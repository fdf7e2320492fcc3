"""Folders appear whole or not at all, and no damage to one goes unseen."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import orjson
import pytest

from eztinker.errors import DiskFullError, StorageError
from eztinker.store import blobs

CONTENT = {"adapter.bin": b"\x00\x01weights", "optimizer.bin": b"", "notes.txt": "名".encode()}
FACTS = {"run_id": "run_1", "step": 3}


def fill(parent: Path, content: dict[str, bytes] = CONTENT) -> tuple[Path, dict[str, str]]:
    folder = blobs.new_folder(parent)
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return folder, {name: blobs.sha256(folder / name) for name in content}


def published(target: Path, content: dict[str, bytes] = CONTENT) -> Path:
    folder, files = fill(target.parent, content)
    blobs.publish(folder, target, files=files, facts=FACTS)
    return target


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_published_folder_verifies_and_tells_its_facts(tmp_path: Path) -> None:
    folder, files = fill(tmp_path / "run_1")
    size_bytes = blobs.publish(folder, tmp_path / "run_1" / "3", files=files, facts=FACTS)
    manifest = blobs.verify(tmp_path / "run_1" / "3")
    assert {key: manifest[key] for key in FACTS} == FACTS
    assert manifest["files"] == files
    assert names(tmp_path / "run_1") == {"3"}
    files_on_disk = list((tmp_path / "run_1" / "3").iterdir())
    assert size_bytes == sum(file.stat().st_size for file in files_on_disk)


def test_nothing_is_visible_before_it_is_published(tmp_path: Path) -> None:
    folder, _ = fill(tmp_path / "run_1")
    assert folder.name.startswith(".")
    with pytest.raises(StorageError) as caught:
        blobs.verify(folder)
    assert caught.value.code == "damaged_files"


def test_a_flipped_bit_in_any_byte_of_any_file_is_seen(tmp_path: Path) -> None:
    """The manifest included: its facts are read back too."""
    folder = published(tmp_path / "run_1" / "3")
    assert blobs.MANIFEST in names(folder)
    for file in folder.iterdir():
        data = file.read_bytes()
        for index in range(len(data)):
            flipped = bytes([data[index] ^ (1 << index % 8)])
            file.write_bytes(data[:index] + flipped + data[index + 1 :])
            with pytest.raises(StorageError) as caught:
                blobs.verify(folder)
            assert caught.value.code == "damaged_files"
        file.write_bytes(data)
    blobs.verify(folder)


def test_every_missing_or_added_tail_is_seen(tmp_path: Path) -> None:
    folder = published(tmp_path / "run_1" / "3")
    for file in folder.iterdir():
        data = file.read_bytes()
        for damaged in (*(data[:length] for length in range(len(data))), data + b"}"):
            file.write_bytes(damaged)
            with pytest.raises(StorageError):
                blobs.verify(folder)
        file.unlink()
        with pytest.raises(StorageError):
            blobs.verify(folder)
        file.write_bytes(data)
    blobs.verify(folder)


@pytest.mark.parametrize("text", [b"", b"null", b"[]", b"{}", b'{"files": {"a": 1}}', b"\xff"])
def test_a_manifest_of_another_shape_is_damage(tmp_path: Path, text: bytes) -> None:
    folder = published(tmp_path / "run_1" / "3")
    (folder / blobs.MANIFEST).write_bytes(text)
    with pytest.raises(StorageError) as caught:
        blobs.verify(folder)
    assert caught.value.code == "damaged_files"


def test_a_folder_of_a_later_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "FORMAT", blobs.FORMAT + 1)
    folder = published(tmp_path / "run_1" / "3")
    monkeypatch.undo()
    with pytest.raises(StorageError, match="newer"):
        blobs.verify(folder)


def test_publishing_replaces_what_lies_there(tmp_path: Path) -> None:
    target = published(tmp_path / "run_1" / "best", {"old.bin": b"old"})
    published(target, {"new.bin": b"new"})
    assert blobs.verify(target)["files"].keys() == {"new.bin"}
    assert names(target.parent) == {"best"}


@pytest.mark.parametrize(("crash_at", "survivor"), [(0, "old"), (1, "old"), (2, "new")])
def test_a_crash_while_replacing_leaves_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: int, survivor: str
) -> None:
    """Die at each rename of a replacement; after the sweep one of the two is whole in its place."""
    target = published(tmp_path / "checkpoints" / "run_1" / "best", {"old.bin": b"old"})
    folder, files = fill(target.parent, {"new.bin": b"new"})
    really_rename = Path.rename
    renames = []

    class Crash(BaseException):
        pass

    def rename(self: Path, new: Path) -> Path:
        if len(renames) == crash_at:
            raise Crash
        renames.append(new)
        return really_rename(self, new)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(Crash):
        blobs.publish(folder, target, files=files, facts=FACTS)
    monkeypatch.undo()
    blobs.sweep(tmp_path / "checkpoints")
    assert names(target.parent) == {"best"}
    assert blobs.verify(target)["files"].keys() == {f"{survivor}.bin"}


def test_a_failed_replacement_leaves_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = published(tmp_path / "run_1" / "best", {"old.bin": b"old"})
    folder, files = fill(target.parent, {"new.bin": b"new"})
    really_rename = Path.rename

    def rename(self: Path, new: Path) -> Path:
        if self == folder:
            raise OSError(errno.ENOSPC, "No space left on device")
        return really_rename(self, new)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(DiskFullError):
        blobs.publish(folder, target, files=files, facts=FACTS)
    assert blobs.verify(target)["files"].keys() == {"old.bin"}


def test_everything_that_a_power_cut_could_take_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest, the folder's names, its own name, and the name of its new parent."""
    synced: list[int] = []
    really_sync = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        really_sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    target = published(tmp_path / "snapshots" / "run_1" / "3")
    expected = (target / blobs.MANIFEST, target, target.parent, target.parent.parent)
    assert {path.stat().st_ino for path in expected} <= set(synced)


def test_discard_removes_and_is_idempotent(tmp_path: Path) -> None:
    target = published(tmp_path / "run_1" / "3")
    blobs.discard(target)
    blobs.discard(target)
    assert names(target.parent) == set()


def test_discard_takes_the_folder_out_of_sight_before_it_empties_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = published(tmp_path / "snapshots" / "run_1" / "3")
    monkeypatch.setattr(shutil, "rmtree", lambda *_args, **_kwargs: None)  # the process dies here
    blobs.discard(target)
    monkeypatch.undo()
    assert not target.exists()
    blobs.sweep(tmp_path / "snapshots", keep=[])
    assert names(target.parent) == set()


def test_sweep_removes_leftovers_and_keeps_what_was_published(tmp_path: Path) -> None:
    target = published(tmp_path / "checkpoints" / "run_1" / "best")
    fill(target.parent)
    blobs.sweep(tmp_path / "checkpoints")
    assert names(target.parent) == {"best"}
    blobs.verify(target)


def test_sweep_removes_what_no_row_names(tmp_path: Path) -> None:
    kept = published(tmp_path / "snapshots" / "run_1" / "3")
    published(tmp_path / "snapshots" / "run_1" / "9")
    published(tmp_path / "snapshots" / "run_2" / "3")
    blobs.sweep(tmp_path / "snapshots", keep=[str(kept)])
    assert names(kept.parent) == {"3"}
    assert not (tmp_path / "snapshots" / "run_2" / "3").exists()


def test_sweep_knows_a_kept_folder_by_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default state folder is relative, the rows of snapshots hold absolute paths."""
    kept = published(tmp_path / "snapshots" / "run_1" / "3")
    monkeypatch.chdir(tmp_path)
    blobs.sweep(Path("snapshots"), keep=[str(kept)])
    blobs.verify(kept)


def test_sweep_spares_the_snapshots_of_a_state_folder_that_was_moved(tmp_path: Path) -> None:
    kept = published(tmp_path / "before" / "snapshots" / "run_1" / "3")
    (tmp_path / "before").rename(tmp_path / "after")
    blobs.sweep(tmp_path / "after" / "snapshots", keep=[str(kept)])
    blobs.verify(tmp_path / "after" / "snapshots" / "run_1" / "3")


def test_sweep_finishes_the_removal_of_a_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(tmp_path / "snapshots" / "run_1" / "3")
    monkeypatch.setattr(shutil, "rmtree", lambda *_args, **_kwargs: None)
    blobs.discard(tmp_path / "snapshots" / "run_1")
    monkeypatch.undo()
    assert len(names(tmp_path / "snapshots")) == 1
    blobs.sweep(tmp_path / "snapshots", keep=[])
    assert names(tmp_path / "snapshots") == set()


def test_sweep_of_nothing_is_nothing(tmp_path: Path) -> None:
    blobs.sweep(tmp_path / "missing", keep=[])
    (tmp_path / "file").touch()
    blobs.sweep(tmp_path, keep=[])
    assert names(tmp_path) == {"file"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    folder, files = fill(tmp_path / "run_1")

    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", fail)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(DiskFullError) as caught:
        blobs.new_folder(tmp_path / "run_1")
    assert caught.value.retry_after_s is not None
    with pytest.raises(DiskFullError):
        blobs.publish(folder, tmp_path / "run_1" / "3", files=files, facts={})


def test_a_full_disk_at_the_manifest_is_told_and_nothing_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, files = fill(tmp_path / "run_1")

    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DiskFullError):
        blobs.publish(folder, tmp_path / "run_1" / "3", files=files, facts={})
    assert not (tmp_path / "run_1" / "3").exists()


def test_other_disk_errors_are_storage_errors(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        blobs.new_folder(tmp_path / "file")
    with pytest.raises(StorageError):
        blobs.discard(tmp_path / "file" / "below")
    folder, files = fill(tmp_path / "run_1")
    shutil.rmtree(folder)
    with pytest.raises(StorageError, match="3"):
        blobs.publish(folder, tmp_path / "run_1" / "3", files=files, facts={})


def test_a_manifest_is_readable_json(tmp_path: Path) -> None:
    folder = published(tmp_path / "run_1" / "3")
    manifest = orjson.loads((folder / blobs.MANIFEST).read_bytes())
    assert manifest["format"] == blobs.FORMAT
    assert manifest["step"] == 3
