"""Write the present format of a state folder into ``fixtures/``, once for each release.

``python -m tests.recovery.make_fixture NAME``. The archive holds a state with a run of four operations,
a checkpoint, a snapshot and an unfinished job; beside it lies what the server said.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

from eztinker import EZTinkerClient
from eztinker.store.database import FILE_NAME
from eztinker.types import codec
from eztinker.types.operations import CheckpointSaved
from tests.recovery.requests_script import DATA
from tests.recovery.server_process import ServerProcess

FOLDER = Path(__file__).parent / "fixtures"
RUN = "old"
LORA = {"r": 1, "lora_dropout": 0.0, "target_modules": ["q_proj"]}


def main(name: str) -> None:
    """Make ``fixtures/NAME.tar.xz`` and ``fixtures/NAME.json``."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "eztinker.yaml").write_text("replay_budget_s: 0\nsnapshot_cost_share: 1.0\n")
        server = ServerProcess(place, "--config", str(place / "eztinker.yaml")).start()
        with EZTinkerClient(server.url, timeout=120) as client:
            client.create_run("nano", run_id=RUN, seed=7, lora_config=LORA)
            told = {"loss": client.forward_backward(RUN, DATA[0])["loss"]}
            client.optim_step(RUN, learning_rate=1e-2)
            client.save_checkpoint(RUN, "kept")
            told["later_loss"] = client.forward_backward(RUN, DATA[1])["loss"]
            told["logprobs"] = client.forward(RUN, DATA[2])["logprobs"]
            told["num_jobs"] = len(client.get_jobs(RUN))
        server.terminate()
        _forget_places(place / "state" / FILE_NAME, folder)
        with tarfile.open(FOLDER / f"{name}.tar.xz", "w:xz") as archive:
            archive.add(place / "state", "state", filter=_wanted)
    (FOLDER / f"{name}.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _forget_places(database: Path, folder: str) -> None:
    """Folders of the machine that wrote it mean nothing elsewhere: a state folder may be moved."""
    connection = sqlite3.connect(database)
    for table in ("snapshots", "checkpoints"):
        connection.execute(f"UPDATE {table} SET folder = replace(folder, ?, '/moved')", (folder,))
    connection.execute(
        "UPDATE runs SET facts_json = json_set(facts_json, '$.base_folder', '/moved/nano')"
    )
    columns = connection.execute("SELECT job_id, result FROM jobs WHERE kind = 'save_checkpoint'")
    for job_id, result in columns.fetchall():
        saved = codec.decode(result, CheckpointSaved)
        moved = replace(saved, path=saved.path.replace(folder, "/moved"))
        values = (codec.encode(moved), job_id)
        connection.execute("UPDATE jobs SET result = ? WHERE job_id = ?", values)
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("VACUUM")
    connection.close()


def _wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Everything but the lock and the reserve; nobody's in particular."""
    if Path(entry.name).name in ("lock", "reserve"):
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main(*sys.argv[1:])
