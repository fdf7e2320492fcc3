"""A full disk: new work is refused, reading and deleting go on, nothing is lost, and it passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from eztinker import EZTinkerClient
from eztinker.errors import DiskFullError
from tests.recovery.disks import mounted
from tests.recovery.requests_script import DATA, RUN
from tests.recovery.server_process import ServerProcess


def fill_up(disk: Path) -> Path:
    """Take every byte that is left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1 << 9, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return filler


def test_a_full_disk_stops_new_work_and_nothing_else(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=24m", "tmpfs") as disk:
        server = ServerProcess(disk).start()
        try:
            with EZTinkerClient(server.url, timeout=60) as client:
                client.create_run("nano", lora_rank=1, run_id=RUN, seed=7)
                for ids in DATA[:3]:
                    client.forward_backward(RUN, ids)
                client.save_checkpoint(RUN, "old")
                handles = [client.submit_forward_backward(RUN, ids) for ids in DATA[3:6]]
                filler = fill_up(disk)
                assert all(handle.result(timeout=60)["loss"] for handle in handles)
                _ask_until_refused(client)
                with pytest.raises(DiskFullError):
                    client.save_checkpoint(RUN, "new")
                held = client.get_jobs(RUN)
                assert client.health()["status"] == "ok"
                assert [entry["name"] for entry in client.get_checkpoints(RUN)] == ["old"]
                client.delete_checkpoint(RUN, "old")
                assert client.get_checkpoints(RUN) == []
                filler.unlink()
                norm = client.optim_step(RUN)["grad_norm"]
                assert client.save_checkpoint(RUN, "new")["step"] == 1
                passes = [job for job in held if job["kind"] == "forward_backward"]
        finally:
            server.close()
    assert {job["status"] for job in held} == {"completed"}
    assert norm > 0
    assert len(passes) >= 6


def _ask_until_refused(client: EZTinkerClient) -> None:
    """What little room the database's own files still have is soon used up."""
    for round_ in range(200):
        try:
            client.forward_backward(RUN, DATA[round_ % 8])
        except DiskFullError:
            return
    pytest.fail("a full disk takes everything")
