"""More requests than a server queues: none is lost, and what others wait for always gets in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from eztinker.client.embedded import EmbeddedServer
from tests.wire.conftest import MODEL
from tests.wire.data import datum, logprobs
from tests.wire.test_http import model_id, retrieve, session_id, step  # noqa: F401

CE = "cross_entropy"


@pytest.fixture(scope="module")
def small_server(tiny_model: Path) -> Iterator[EmbeddedServer]:
    """Takes few unfinished jobs of a run, and holds few that wait for an absent number."""
    settings = {
        "aliases": {MODEL: str(tiny_model)},
        "num_threads": 1,
        "limits": {"max_queued_jobs_per_run": 8, "max_held_jobs_per_run": 48},
    }
    server = EmbeddedServer([MODEL], settings=settings)
    yield server
    server.close()


@pytest.fixture
def http(small_server: EmbeddedServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{small_server.base_url}/api/v1", timeout=30) as client:
        yield client


def test_a_call_of_more_chunks_than_the_queue_holds(sdk, small_server: EmbeddedServer) -> None:
    with sdk.ServiceClient(base_url=small_server.base_url, api_key="tml-local") as service:
        model = service.create_lora_training_client(base_model=MODEL, rank=2, seed=1).result()
        small = {"fwdbwd_max_chunk_len": 1}
        service.holder._client_config = service.holder._client_config.model_copy(update=small)
        data = [datum(2, first=first + 5) for first in range(40)]
        result = model.forward_backward(data, CE).result()
        assert len(result.loss_fn_outputs) == 40
        total = -sum(logprobs(result, index).sum() for index in range(40))
        assert result.metrics["loss:sum"] == pytest.approx(total, rel=1e-4)


def test_what_is_awaited_gets_in_and_what_is_too_much_is_refused(http, model_id: str) -> None:  # noqa: F811
    held = [step(http, model_id, seq).json()["request_id"] for seq in range(2, 50)]
    too_many = retrieve(http, step(http, model_id, 50).json()["request_id"]).json()
    assert (too_many["category"], "max_held_jobs_per_run" in too_many["error"]) == ("user", True)
    first = step(http, model_id, 1).json()["request_id"]
    # No gradient was there: each fails for itself, in its turn.
    assert all("no gradient" in retrieve(http, r).json()["error"] for r in [first, *held])
