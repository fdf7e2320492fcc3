"""Jobs that cannot be done: each fails alone, its run and its neighbours go on as if it had not been."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from eztinker import EZTinkerClient
from eztinker.errors import JobFailedError
from tests.recovery.requests_script import DATA
from tests.recovery.server_process import ServerProcess


def train(client: EZTinkerClient, run_id: str, bad_losses: tuple[str, ...] = ()) -> list[float]:
    """Three steps, with jobs that fail between pass and step; losses and norms of the good ones."""
    lora = {"r": 1, "lora_dropout": 0.1}
    client.create_run("nano", run_id=run_id, seed=7, lora_config=lora)
    told = []
    for step in range(3):
        handle = client.submit_forward_backward(run_id, DATA[step])
        bad = [client.submit_forward_backward(run_id, DATA[3], loss_fn=name) for name in bad_losses]
        stepped = client.submit_optim_step(run_id, learning_rate=1e-2)
        told += [handle.result(timeout=120)["loss"], stepped.result(timeout=120)["grad_norm"]]
        for name, failed in zip(bad_losses, bad, strict=True):
            with pytest.raises(JobFailedError) as caught:
                failed.result(timeout=120)
            assert caught.value.job["error"]["code"] == CODES[name]
    return told


CODES = {"greedy": "out_of_memory", "boundless": "not_finite", "deadly": "engine_crash"}


def test_bad_jobs_fail_alone(tmp_path: Path) -> None:
    config = tmp_path / "eztinker.yaml"
    config.write_text("plugins: [tests.recovery.deadly_losses]\n", encoding="utf-8")
    server = ServerProcess(tmp_path, "--config", str(config)).start()
    try:
        with EZTinkerClient(server.url, timeout=120) as client:
            while client.health()["engine"] != "ready":
                time.sleep(0.1)  # until then nobody knows the plugin's losses
            good = train(client, "good")
            assert train(client, "bad", ("greedy", "boundless")) == good
            assert client.health()["worker_restarts"] == 0
            poison = client.submit_forward_backward("bad", DATA[3], loss_fn="deadly")
            beside = [client.submit_forward_backward("good", DATA[4]) for _ in range(3)]
            behind = client.submit_forward_backward("bad", DATA[4])
            with pytest.raises(JobFailedError, match="died 2 times") as caught:
                poison.result(timeout=120)
            assert caught.value.job["error"]["code"] == "engine_crash"
            first, *_ = [handle.result(timeout=120)["loss"] for handle in beside]
            assert behind.result(timeout=120)["loss"] == first, "equal runs, whatever was beside"
            health = client.health()
            assert (health["worker_restarts"], health["replay_differences"]) == (2, 0)
    finally:
        server.close()
