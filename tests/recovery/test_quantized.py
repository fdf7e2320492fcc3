"""A run on a quantised base: killed, replayed, saved and loaded elsewhere."""

from __future__ import annotations

import pytest

from eztinker import EZTinkerClient
from tests.recovery.server_process import ServerProcess

DATA = [{"input_ids": [(7 * i + 3 * j) % 200 + 20 for j in range(20 + i)]} for i in range(3)]
RATE = 2e-3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    process = ServerProcess(tmp_path_factory.mktemp("quantised")).start()
    yield process
    process.close()


@pytest.fixture(scope="module")
def client(server: ServerProcess):
    with EZTinkerClient(server.url, timeout=120) as client:
        yield client


def step(client: EZTinkerClient, run_id: str) -> tuple[float, float]:
    loss = client.forward_backward(run_id, data=DATA)["loss"]
    return loss, client.optim_step(run_id, learning_rate=RATE)["grad_norm"]


def logprobs(client: EZTinkerClient, run_id: str) -> list[list[float]]:
    return client.forward(run_id, data=DATA)["logprobs"]


def test_a_killed_worker_changes_no_bit(server: ServerProcess, client: EZTinkerClient) -> None:
    lora = {"r": 4, "lora_dropout": 0.1}
    for run_id in ("killed", "undisturbed"):
        client.create_run("nano", lora_config=lora, quantization="nf4", run_id=run_id, seed=3)
    first = [step(client, "killed") for _ in range(2)]
    server.kill_worker()
    after = [step(client, "killed") for _ in range(2)]
    assert client.health()["replay_differences"] == 0
    assert first + after == [step(client, "undisturbed") for _ in range(4)]
    assert logprobs(client, "killed") == logprobs(client, "undisturbed")


def test_a_checkpoint_remembers_its_base_and_goes_into_either(client: EZTinkerClient) -> None:
    for run_id, kind in (("q", "nf4"), ("twin", "nf4"), ("full", "none")):
        client.create_run("nano", 4, run_id=run_id, quantization=kind, seed=5)
    step(client, "q")
    trained = logprobs(client, "q")
    client.save_checkpoint("q", "c")
    (checkpoint,) = client.get_checkpoints("q")
    assert checkpoint["quantization"] == "nf4"
    for run_id in ("twin", "full"):
        client.load_checkpoint(run_id, "c", source_run_id="q")
    assert logprobs(client, "twin") == trained
    difference = abs(logprobs(client, "full")[0][3] - trained[0][3])
    assert 0 < difference < 1  # the same adapter over the weights before quantisation
    live = client.sample("1 + 1", run_id="q", seed=1, max_new_tokens=8)
    assert client.sample("1 + 1", run_id="q", checkpoint="c", seed=1, max_new_tokens=8) == live
    assert sorted(client.health()["loaded_models"]) == ["nano", "nano (nf4)"]
