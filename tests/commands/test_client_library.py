"""The client library as documented, against a real server: the training loop, handles, restarts."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eztinker import AsyncEZTinkerClient, EZTinkerClient, JobFailedError, LoRAConfig, wait_for_job
from eztinker.client.embedded import EmbeddedServer
from eztinker.errors import AlreadyExistsError, InvalidRequestError, NotFoundError
from tests.commands.conftest import environment
from tests.conftest import DOCUMENTED_MODEL
from tests.recovery.server_process import ServerProcess


@pytest.fixture
def client(running_server: EmbeddedServer) -> Iterator[EZTinkerClient]:
    with EZTinkerClient(running_server.base_url, timeout=60) as client:
        yield client


def test_the_documented_training_loop(client: EZTinkerClient):
    run_id = client.create_run(base_model=DOCUMENTED_MODEL, lora_rank=1, lora_alpha=2, seed=0)
    tokenizer = client.get_tokenizer(DOCUMENTED_MODEL)
    input_ids = tokenizer("hello hello hello")["input_ids"]
    losses = []
    for _ in range(5):
        losses.append(client.forward_backward(run_id, input_ids)["loss"])
        step = client.optim_step(run_id, learning_rate=2e-2)
    assert step["status"] == "optimizer_step_completed"
    assert step["step"] == 5
    assert losses[-1] < losses[0]
    client.save_checkpoint(run_id, "checkpoint_final")
    with pytest.raises(AlreadyExistsError, match="checkpoint_final"):
        client.save_checkpoint(run_id, "checkpoint_final")
    client.forward_backward(run_id, input_ids)
    client.optim_step(run_id, learning_rate=2e-2)
    trained = client.forward(run_id, input_ids)["loss"]
    client.load_checkpoint(run_id, "checkpoint_final")
    assert client.forward(run_id, input_ids)["loss"] != trained
    assert [c["name"] for c in client.get_checkpoints(run_id)] == ["checkpoint_final"]
    scores = client.evaluate(run_id, [{"prompt_ids": [5], "response_ids": [6, 7]}])
    assert scores["scores"][0] == pytest.approx(-scores["log_probs"][0])
    kept = client.keep_checkpoint(run_id, "checkpoint_final", pinned=True, score=0.5)
    assert (kept["pinned"], kept["score"]) == (True, 0.5)
    assert client.keep_checkpoint(run_id, "checkpoint_final", pinned=False)["pinned"] is False
    assert client.prune_checkpoints(run_id, keep_last=1, dry_run=True)["checkpoints"] == []
    assert client.delete_checkpoint(run_id, "checkpoint_final")["status"] == "deleted"
    assert client.delete_run(run_id)["status"] == "deleted"


def test_sampling_forms(client: EZTinkerClient):
    assert client.sample("Hello!", max_new_tokens=5).startswith("Hello!")
    several = client.sample("Hello!", max_new_tokens=5, num_samples=3, seed=1)
    assert len(several) == 3
    assert several == client.sample("Hello!", max_new_tokens=5, num_samples=3, seed=1)
    job = client.wait_for_job(client.submit_sample([5, 6], max_new_tokens=2).job_id)
    assert len(job["result"]["sequences"][0]["tokens"]) <= 2


def test_module_level_wait_for_job(client: EZTinkerClient):
    handle = client.submit_sample("x", max_new_tokens=1)
    assert wait_for_job(handle.job_id, base_url=client.base_url)["status"] == "completed"


def test_errors_say_what_to_do(client: EZTinkerClient):
    run_id = client.create_run(DOCUMENTED_MODEL, lora_config=LoRAConfig(r=1))
    with pytest.raises(InvalidRequestError, match="learning_rate"):
        client.optim_step(run_id, learning_rate=-1)
    with pytest.raises(AlreadyExistsError):
        client.create_run(DOCUMENTED_MODEL, run_id=run_id)
    with pytest.raises(NotFoundError):
        client.forward_backward("run_00000000", [1, 2])
    with pytest.raises(NotFoundError):
        client.get_job("job_00000000")
    with pytest.raises(JobFailedError, match="forward_backward"):
        client.optim_step(run_id)


def test_pipelined_steps_happen_in_order(client: EZTinkerClient):
    run_id = client.create_run(DOCUMENTED_MODEL)
    handles = []
    for _ in range(8):
        client.submit_forward_backward(run_id, [1, 2, 3])
        handles.append(client.submit_optim_step(run_id))
    assert [handle.result()["step"] for handle in handles] == list(range(1, 9))


def test_64_jobs_at_once_from_threads_and_tasks(client: EZTinkerClient):
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda: results.append(client.sample("hi", max_new_tokens=4)))
        for _ in range(64)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 64

    async def together() -> list[str]:
        async with AsyncEZTinkerClient(client.base_url) as asynchronous:
            jobs = (asynchronous.sample("hi", max_new_tokens=4, seed=3) for _ in range(64))
            return await asyncio.gather(*jobs)

    assert len(set(asyncio.run(together()))) == 1


def test_a_round_trip_is_short(client: EZTinkerClient):
    client.health()
    seconds = []
    for _ in range(100):
        start_s = time.perf_counter()
        client.health()
        seconds.append(time.perf_counter() - start_s)
    # 40 ms would mean that one side lost TCP_NODELAY.
    assert statistics.median(seconds) < 0.015


def test_a_killed_and_restarted_server_is_a_pause(tmp_path: Path):
    server = ServerProcess(tmp_path).start()
    try:
        with EZTinkerClient(server.url, timeout=60) as client:
            run_id = client.create_run("nano")
            steps: list[int] = []
            trainer = threading.Thread(target=_train, args=(client, run_id, steps))
            trainer.start()
            while len(steps) < 5:
                time.sleep(0.01)
            server.kill()
            time.sleep(0.5)
            server.start()
            trainer.join()
            assert steps == list(range(1, 31))  # none lost, none applied twice
    finally:
        server.close()


def _train(client: EZTinkerClient, run_id: str, steps: list[int]) -> None:
    for _ in range(30):
        client.submit_forward_backward(run_id, [1, 2, 3])
        steps.append(client.optim_step(run_id)["step"])


def test_embedded_server_lives_as_long_as_its_client(tiny_model: Path):
    with EZTinkerClient.embedded(str(tiny_model), num_threads=1) as client:
        assert client.sample("hi", max_new_tokens=2).startswith("hi")
        server = client._server
        assert server is not None
        assert server.is_running
    assert not server.is_running
    assert not server.state_dir.exists()


async def test_embedded_server_of_the_async_client_keeps_a_given_state(tmp_path: Path):
    for expected in ([], ["mine"]):
        async with await AsyncEZTinkerClient.embedded(state_dir=tmp_path, num_threads=1) as client:
            assert [run["run_id"] for run in await client.get_runs()] == expected
            if not expected:
                await client.create_run("nano", run_id="mine")


@pytest.mark.parametrize("settings", [{"num_thread": 1}, {"port": 80}, {"workers": 0}])
def test_a_wrong_setting_of_an_embedded_server_is_named(settings: dict[str, int]):
    with pytest.raises(InvalidRequestError, match=f"(?i){next(iter(settings))}"):
        EZTinkerClient.embedded(**settings)


def test_a_killed_script_takes_its_embedded_server_along():
    code = (
        "import eztinker; c = eztinker.EZTinkerClient.embedded(num_threads=1);"
        "print(c.base_url, flush=True); input()"
    )
    script = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with script:
        assert script.stdout is not None
        url = script.stdout.readline().strip()
        script.kill()
    with EZTinkerClient(url) as client:
        deadline_s = time.monotonic() + 20
        while _answers(client):
            assert time.monotonic() < deadline_s
            time.sleep(0.1)


def _answers(client: EZTinkerClient) -> bool:
    client._context.has_answered = False  # so that silence is noticed at once
    try:
        client.health()
    except ConnectionError:
        return False
    return True


def test_a_checkpoint_can_be_fetched(running_server: EmbeddedServer, tmp_path: Path):
    """As PEFT's layout, whole and equal to the server's own files."""
    with EZTinkerClient(running_server.base_url) as client:
        run_id = client.create_run(DOCUMENTED_MODEL)
        saved = client.save_checkpoint(run_id, "one")
        folder = client.download_checkpoint(run_id, "one", tmp_path / "here" / "one")
        kept = {path.name: path.read_bytes() for path in Path(saved["path"]).iterdir()}
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept
        assert {"adapter_config.json", "adapter_model.safetensors"} <= set(kept)
        with pytest.raises(AlreadyExistsError, match="exists"):
            client.download_checkpoint(run_id, "one", folder)
        with pytest.raises(NotFoundError):
            client.download_checkpoint(run_id, "two", tmp_path / "two")
        assert not (tmp_path / "two").exists()
