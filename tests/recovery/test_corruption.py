"""Flipped bits and lost ends: found in every case, and outlived where there is another copy."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from eztinker import EZTinkerClient
from eztinker.errors import JobFailedError, StorageError
from eztinker.store import blobs
from tests.recovery.requests_script import DATA, RUN
from tests.recovery.server_process import ServerProcess

NUM_DAMAGES = 1000
FILES = {"adapter_model.safetensors": 20_000, "optimizer.safetensors": 40_000, "config.json": 300}


def damage(path: Path, chance: random.Random) -> str:
    """Flip one bit, or cut the end off; says what was done."""
    data = bytearray(path.read_bytes())
    if chance.random() < 0.5:
        bit = chance.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        return f"bit {bit} of {path.name}"
    length = chance.randrange(len(data))
    path.write_bytes(data[:length])
    return f"{path.name} cut to {length} bytes"


def test_each_of_a_thousand_damages_is_found(tmp_path: Path) -> None:
    chance = random.Random(1)
    folder = blobs.new_folder(tmp_path / "run")
    for name, size in FILES.items():
        (folder / name).write_bytes(chance.randbytes(size))
    hashes = {name: blobs.sha256(folder / name) for name in FILES}
    whole = tmp_path / "run" / "1"
    blobs.publish(folder, whole, files=hashes, facts={"run_id": "run", "seq": 1, "step": 1})
    names = sorted(path.name for path in whole.iterdir())
    damaged = tmp_path / "run" / "2"
    damaged.mkdir()
    missed = []
    for _ in range(NUM_DAMAGES):
        for name in names:
            shutil.copyfile(whole / name, damaged / name)
        done = damage(damaged / chance.choice(names), chance)
        if _code_of(damaged) != "damaged_files":
            missed.append(done)
    assert not missed
    blobs.verify(whole)


def _code_of(folder: Path) -> str | None:
    try:
        blobs.verify(folder)
    except StorageError as error:
        return error.code
    return None


def test_damaged_state_is_outlived_or_named(tmp_path: Path) -> None:
    """The newest snapshot and a checkpoint are damaged while the server is down."""
    config = tmp_path / "eztinker.yaml"
    config.write_text("replay_budget_s: 0\nsnapshot_cost_share: 1.0\n", encoding="utf-8")
    server = ServerProcess(tmp_path, "--config", str(config)).start()
    try:
        with EZTinkerClient(server.url, timeout=120) as client:
            client.create_run("nano", lora_rank=1, run_id=RUN, seed=7)
            for step in range(4):
                client.forward_backward(RUN, DATA[step])
                client.optim_step(RUN, learning_rate=1e-2)
            saved = client.save_checkpoint(RUN, "good")
            expected = client.forward(RUN, DATA[0])["logprobs"]
            assert server.terminate() == 0
            newest = max((tmp_path / "state" / "snapshots" / RUN).iterdir(), key=_number)
            damage(newest / "adapter_model.safetensors", random.Random(2))
            damage(Path(saved["path"]) / "adapter_model.safetensors", random.Random(3))
            server.start()
            assert client.forward(RUN, DATA[0])["logprobs"] == expected
            health = client.health()
            assert health["replayed_operations"] >= 2
            assert health["replay_differences"] == 0
            for ask in (
                lambda: client.load_checkpoint(RUN, "good"),
                lambda: client.sample(DATA[0], run_id=RUN, checkpoint="good", max_new_tokens=1),
            ):
                with pytest.raises(JobFailedError, match=r"adapter_model.*damaged") as caught:
                    ask()
                assert caught.value.job["error"]["code"] == "damaged_files"
            assert client.forward(RUN, DATA[0])["logprobs"] == expected
    finally:
        server.close()


def _number(folder: Path) -> int:
    return int(folder.name) if folder.name.isdecimal() else -1
