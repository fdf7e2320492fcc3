"""State folders of earlier versions, as they were left: opened, migrated and gone on with."""

from __future__ import annotations

import json
import sqlite3
import tarfile
from pathlib import Path

import pytest

from eztinker import EZTinkerClient
from eztinker.store.database import FILE_NAME
from tests.recovery.make_fixture import FOLDER, RUN
from tests.recovery.requests_script import DATA
from tests.recovery.server_process import ServerProcess

NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def test_there_is_a_fixture() -> None:
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_an_old_state_goes_on(tmp_path: Path, name: str) -> None:
    told = json.loads((FOLDER / f"{name}.json").read_text())
    with tarfile.open(FOLDER / f"{name}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    server = ServerProcess(tmp_path).start()
    try:
        with EZTinkerClient(server.url, timeout=120) as client:
            jobs = client.get_jobs(RUN)
            assert len(jobs) == told["num_jobs"]
            first = client.get_job(jobs[-2]["job_id"])
            assert first["result"]["loss"] == told["loss"]
            assert client.get_runs()[0]["step"] == 1
            # Another machine than the one that wrote it: equal to rounding, not to the bit.
            logprobs = client.forward(RUN, DATA[2])["logprobs"]
            assert logprobs[1:] == pytest.approx(told["logprobs"][1:], rel=1e-3)
            client.optim_step(RUN, learning_rate=1e-2)
            client.load_checkpoint(RUN, "kept")
            later = client.forward_backward(RUN, DATA[1])["loss"]
            assert later == pytest.approx(told["later_loss"], rel=1e-3)
    finally:
        server.close()


def test_a_newer_state_is_refused_in_one_line(tmp_path: Path) -> None:
    name = NAMES[-1]
    with tarfile.open(FOLDER / f"{name}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    database = sqlite3.connect(tmp_path / "state" / FILE_NAME)
    database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.commit()
    database.close()
    server = ServerProcess(tmp_path, has_fake_worker=True)
    with pytest.raises(AssertionError, match=r"newer EZTinker.*9999"):
        server.start()
    assert "Traceback" not in server.log()
