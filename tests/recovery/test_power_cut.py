"""Pull the plug: what was acknowledged, and every listed snapshot and checkpoint, is on the disk.

A server's state lies on an ext4 image. Between two acknowledged requests the image is copied as it
is, without what the system still holds in memory; the copy is what a machine would find after a power
cut. Killing processes cannot show a missing fsync; this can.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from eztinker import EZTinkerClient
from eztinker.store import blobs, runs
from eztinker.store.checkpoints import list_checkpoints
from eztinker.store.database import Database
from eztinker.store.jobs import list_jobs
from tests.recovery.disks import cut, make_image, mounted
from tests.recovery.requests_script import DATA, RUN
from tests.recovery.server_process import ServerProcess

CONFIG = "replay_budget_s: 0\nsnapshot_cost_share: 1.0\n"


class Told:
    """What a client knows when the plug is pulled.

    Attributes:
        losses: of the passes that were answered, in order.
        step, names: of the run, and of its checkpoints.
    """

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.step = 0
        self.names: list[str] = []

    def ask(self, client: EZTinkerClient, round_: int) -> None:
        """One request, acknowledged when this returns: passes, steps and saves by turns."""
        if round_ % 3 == 0:
            self.losses.append(client.forward_backward(RUN, DATA[round_ % 8])["loss"])
        elif round_ % 3 == 1:
            self.step = client.optim_step(RUN, learning_rate=1e-3)["step"]
        else:
            self.names.append(f"c{round_}")
            client.save_checkpoint(RUN, self.names[-1])


@pytest.mark.timeout(1800)
def test_acknowledged_work_survives_a_power_cut(tmp_path: Path, num_cuts: int) -> None:
    if not num_cuts:
        pytest.skip("power cuts are part of `make recovery` (--cuts N)")
    config = tmp_path / "eztinker.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    image = make_image(tmp_path / "disk.img")
    told = Told()
    with mounted(tmp_path / "disk", "-o", "loop", image) as disk:
        server = ServerProcess(disk, "--config", str(config)).start()
        try:
            with EZTinkerClient(server.url) as client:
                client.create_run("nano", lora_rank=1, run_id=RUN, seed=7)
                for round_ in range(num_cuts):
                    told.ask(client, round_)
                    found = _after_cut(image, tmp_path)
                    assert found == (told.losses, told.step, told.names), f"cut {round_}"
                last = cut(image, tmp_path / "last.img")
                expected = client.forward(RUN, DATA[0])["logprobs"]
        finally:
            server.close()
    with mounted(tmp_path / "disk", "-o", "loop", last) as disk:
        server = ServerProcess(disk, "--config", str(config)).start()
        try:
            with EZTinkerClient(server.url) as client:
                assert client.forward(RUN, DATA[0])["logprobs"] == expected
                assert client.health()["replay_differences"] == 0
        finally:
            server.close()


def _after_cut(image: Path, folder: Path) -> tuple[list[float], int, list[str]]:
    """Losses, step and checkpoints in a copy of the disk; each file that is listed holds."""
    copy = cut(image, folder / "cut.img")
    with mounted(folder / "cut", "-o", "loop", copy) as disk:
        database = Database(disk / "state")
        database.open()
        try:
            jobs, _ = database.write_soon(
                lambda c: list_jobs(c, run_id=RUN, status="completed", limit=999, offset=0)
            ).result(timeout=10)
            run = database.write_soon(lambda c: runs.get_run(c, RUN)).result(timeout=10)
            snapshots = database.write_soon(lambda c: runs.list_snapshots(c, RUN)).result(10)
            saved = database.write_soon(lambda c: list_checkpoints(c, RUN)).result(timeout=10)
        finally:
            database.close()
        for folder_ in [entry.folder for entry in (*snapshots, *saved)]:
            blobs.verify(disk / Path(folder_).relative_to(folder / "disk"))
        results: list[Any] = [
            job.decoded_result() for job in reversed(jobs) if job.kind == "forward_backward"
        ]
        losses = [result.metrics["loss:sum"] / result.num_tokens for result in results]
    return losses, run.step, [entry.name for entry in saved]


class SyncedDisk:
    """What a power cut would leave of a folder: names and bytes that were synced, nothing else.

    Wraps ``os.fsync``: a file's sync stores its bytes, a folder's sync the names in it.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root = root
        self._files: dict[int, bytes] = {}
        self._folders: dict[int, dict[str, int]] = {}
        really = os.fsync

        def fsync(descriptor: int) -> None:
            really(descriptor)
            path = Path(f"/proc/self/fd/{descriptor}").resolve()
            if path.is_dir():
                self._note(path)
            else:
                self._files[path.stat().st_ino] = path.read_bytes()

        monkeypatch.setattr(os, "fsync", fsync)
        self._note(root)

    def _note(self, folder: Path) -> None:
        entries = {entry.name: entry.stat().st_ino for entry in folder.iterdir()}
        self._folders[folder.stat().st_ino] = entries

    def write_out(self, target: Path) -> None:
        """Lay out below ``target`` what the cut leaves."""
        self._lay(self._root.stat().st_ino, target)

    def _lay(self, inode: int, target: Path) -> None:
        target.mkdir(parents=True)
        for name, child in self._folders.get(inode, {}).items():
            if child in self._files:
                (target / name).write_bytes(self._files[child])
            else:
                self._lay(child, target / name)


def fill(folder: Path) -> dict[str, str]:
    """A file as the worker leaves it: written and synced."""
    with (folder / "weights").open("wb") as file:
        file.write(b"weights" * 99)
        file.flush()
        os.fsync(file.fileno())
    return {"weights": blobs.sha256(folder / "weights")}


def test_a_published_folder_is_durable_when_publish_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "snapshots").mkdir()
    disk = SyncedDisk(state, monkeypatch)
    for number in (1, 2):
        target = state / "snapshots" / "run" / str(number)
        folder = blobs.new_folder(target.parent)
        blobs.publish(folder, target, files=fill(folder), facts={})
        disk.write_out(tmp_path / f"cut-{number}")
        cut_off = tmp_path / f"cut-{number}" / "snapshots" / "run"
        assert sorted(path.name for path in cut_off.iterdir()) == [
            str(n + 1) for n in range(number)
        ]
        assert blobs.verify(cut_off / str(number))["files"]


def test_a_replaced_folder_is_there_in_one_form_or_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the power goes while a checkpoint is overwritten, one whole checkpoint is left."""
    state = tmp_path / "state"
    target = state / "checkpoints" / "run" / "best"
    folder = blobs.new_folder(target.parent)
    blobs.publish(folder, target, files=fill(folder), facts={"step": 1})
    monkeypatch.undo()
    disk = SyncedDisk(state, monkeypatch)
    for path in (state / "checkpoints", target.parent, target):
        disk._note(path)
    for path in target.iterdir():
        disk._files[path.stat().st_ino] = path.read_bytes()
    lefts: list[int] = []
    really = os.fsync

    def cut_after_each(descriptor: int) -> None:
        really(descriptor)
        left = tmp_path / f"left-{len(lefts)}"
        disk.write_out(left)
        blobs.sweep(left / "checkpoints")
        lefts.append(blobs.verify(left / "checkpoints" / "run" / "best")["step"])
        shutil.rmtree(left)

    monkeypatch.setattr(os, "fsync", cut_after_each)
    folder = blobs.new_folder(target.parent)
    blobs.publish(folder, target, files=fill(folder), facts={"step": 2})
    assert lefts == sorted(lefts)
    assert lefts[-1] == 2
