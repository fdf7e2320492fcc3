"""A base model sampled quantised, by its name alone, over every wire; and what is refused."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from eztinker import EZTinkerClient, InvalidRequestError, NotFoundError
from eztinker.client.embedded import EmbeddedServer
from tests.conftest import DOCUMENTED_MODEL

pytest.importorskip("bitsandbytes", reason="needs the extra qlora")

QUANTIZED = f"{DOCUMENTED_MODEL}:nf4"
PROMPT = [40, 50, 60, 70, 80]


@pytest.fixture(scope="module")
def native(running_server: EmbeddedServer) -> Iterator[EZTinkerClient]:
    with EZTinkerClient(running_server.base_url) as client:
        yield client


def prompt_logprobs(client: EZTinkerClient, **weights: str) -> list[float]:
    """Log-probability of the likeliest token at each position of the prompt after the first."""
    job = client.submit_sample(
        PROMPT, num_samples=1, max_new_tokens=1, topk_prompt_logprobs=1, **weights
    )
    rows = client.wait_for_job(job.job_id)["result"]["topk_prompt_logprobs"][1:]
    return [row[0][1] for row in rows]


def run_facts(client: EZTinkerClient, run_id: str) -> dict:
    return next(run for run in client.get_runs() if run["run_id"] == run_id)


def test_one_name_is_one_thing_on_every_wire(sdk, service, native, running_server) -> None:
    """The quantised model answers beside the whole one, and is the base of a quantised run."""
    whole = prompt_logprobs(native, base_model=DOCUMENTED_MODEL)
    held = prompt_logprobs(native, base_model=QUANTIZED)
    assert 1e-4 < np.abs(np.subtract(whole, held)).max() < 1

    run_id = native.create_run(DOCUMENTED_MODEL, lora_rank=2, quantization="nf4")
    assert prompt_logprobs(native, run_id=run_id) == pytest.approx(held, abs=1e-5)

    sampler = service.create_sampling_client(base_model=QUANTIZED).result()
    scored = sampler.compute_logprobs(sdk.ModelInput.from_ints(PROMPT)).result()
    plain = service.create_sampling_client(base_model=DOCUMENTED_MODEL).result()
    unquantised = plain.compute_logprobs(sdk.ModelInput.from_ints(PROMPT)).result()
    assert scored[1:] != pytest.approx(unquantised[1:], abs=1e-5)

    body = {"model": QUANTIZED, "prompt": PROMPT, "max_tokens": 0, "echo": True, "logprobs": 0}
    answer = httpx.post(f"{running_server.base_url}/v1/completions", json=body, timeout=60)
    echoed = answer.json()["choices"][0]["logprobs"]["token_logprobs"]
    assert echoed[1:] == pytest.approx(scored[1:], abs=1e-5)

    loaded = native.health()["loaded_models"]
    assert {DOCUMENTED_MODEL, f"{DOCUMENTED_MODEL} (nf4)"} <= set(loaded)


def test_a_run_takes_it_from_the_name(service, native) -> None:
    run_id = native.create_run(QUANTIZED, lora_rank=2)
    run = run_facts(native, run_id)
    assert (run["base_model"], run["quantization"]) == (DOCUMENTED_MODEL, "nf4")
    model = service.create_lora_training_client(base_model=QUANTIZED, rank=2).result()
    run = run_facts(native, model.model_id)
    assert (run["base_model"], run["quantization"]) == (DOCUMENTED_MODEL, "nf4")


def test_two_quantizations_at_once_are_refused(native) -> None:
    with pytest.raises(InvalidRequestError, match="held in nf4, got 'int8'"):
        native.create_run(QUANTIZED, lora_rank=2, quantization="int8")
    with pytest.raises(NotFoundError, match="no model"):
        native.sample(PROMPT, base_model=f"{QUANTIZED}:int8")
