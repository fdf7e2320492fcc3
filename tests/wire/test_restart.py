"""A server that is killed under a live SDK client: the client sees a pause and the same numbers."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.recovery.server_process import ServerProcess
from tests.wire.data import crowding, datum, logprobs, prompt

CE = "cross_entropy"


@pytest.fixture
def server(tmp_path: Path):
    process = ServerProcess(tmp_path, "--alias", f"org/tiny={tmp_path / 'model'}")
    yield process
    process.close()


def train(sdk, model, num_steps: int, *, between=lambda step: None) -> list[float]:
    losses = []
    for step in range(num_steps):
        passed = model.forward_backward([datum(first=10 + step)], CE)
        stepped = model.optim_step(sdk.AdamParams(learning_rate=1e-2))
        between(step)
        losses.append(passed.result().metrics["loss:sum"])
        stepped.result()
    return losses


def samples_survive(sdk, sampler, server: ServerProcess) -> None:
    """Futures of samples, and the one poll for them all, go on after the server's death."""
    params = [sdk.SamplingParams(max_tokens=60, seed=seed, stop=[]) for seed in range(12)]
    calm = [sampler.sample(prompt(5, 6), 1, p).result().sequences[0].tokens for p in params]
    shaken = [sampler.sample(prompt(5, 6), 1, p) for p in params]
    server.kill()
    server.start()
    assert [future.result().sequences[0].tokens for future in shaken] == calm


@pytest.mark.slow
def test_a_killed_server_is_a_pause(
    sdk, server: ServerProcess, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").symlink_to(tiny_model)
    server.start()
    service = sdk.ServiceClient(base_url=server.url, api_key="tml-local")
    calm, shaken = (
        service.create_lora_training_client(base_model="org/tiny", rank=4, seed=5).result()
        for _ in range(2)
    )
    expected = train(sdk, calm, 5)
    sampler = calm.save_weights_and_get_sampling_client().result()
    scored = sampler.compute_logprobs(prompt(5, 6, 7)).result()
    inflight = calm.save_weights_and_get_sampling_client(kind="inflight").result()
    path = calm.save_state("kept").result().path

    def kill(step: int) -> None:
        if step in (1, 3):
            server.kill()
            threading.Timer(1.0, server.start).start()

    start_s = time.monotonic()
    assert train(sdk, shaken, 5, between=kill) == expected
    assert time.monotonic() - start_s < 60 * crowding()
    final = [logprobs(m.forward([datum()], CE).result()) for m in (calm, shaken)]
    np.testing.assert_array_equal(*final)
    assert sampler.compute_logprobs(prompt(5, 6, 7)).result() == scored
    assert inflight.compute_logprobs(prompt(5, 6, 7)).result() == scored
    samples_survive(sdk, sampler, server)
    twin = service.create_training_client_from_state_with_optimizer(path).result()
    np.testing.assert_array_equal(logprobs(twin.forward([datum()], CE).result()), final[0])
    server.kill()
    server.start()
    np.testing.assert_array_equal(logprobs(twin.forward([datum()], CE).result()), final[0])
