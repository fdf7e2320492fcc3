"""One pass in more than a thousand requests, the first of them last, as the official SDK sends it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from eztinker.models.proto.tinker_public import DTYPES, ForwardBackwardRequest

from .live_service import live

NUM_CHUNKS = 1050
PROTOBUF = {"Content-Type": "application/x-protobuf"}
AS_PROTOBUF = {"Accept": "application/x-protobuf"}


def chunk(model_id: str, seq_id: int) -> bytes:
    message = ForwardBackwardRequest(model_id=model_id, seq_id=seq_id, loss_fn="cross_entropy")
    datum = message.data.add()
    datum.model_input.add().encoded_text.tokens = np.array([seq_id % 90], "<i4").tobytes()
    for name, kind, dtype in (("target_tokens", "int64", "<i8"), ("weights", "float32", "<f4")):
        tensor = datum.loss_fn_inputs[name]
        tensor.dense, tensor.dtype = np.ones(1, dtype).tobytes(), DTYPES[kind]
        tensor.shape.append(1)
    return message.SerializeToString()


async def ask(client: httpx.AsyncClient, path: str, **request: Any) -> httpx.Response:
    """The answer, asked again while there is no room, as the SDK does."""
    while True:
        answer = await client.post(f"/api/v1/{path}", **request)
        if answer.status_code not in (408, 429):
            assert answer.status_code == 200, answer.text
            return answer
        await asyncio.sleep(0.05)


async def test_a_pass_of_a_thousand_chunks(tmp_path: Path) -> None:
    """Held ones count neither against the run's room nor its owner's: they could keep the awaited one out."""
    limits = {"max_queued_jobs_per_owner": 100}
    async with (
        live(tmp_path / "state", limits=limits, durability="normal") as running,
        running.client(await running.key("alice")) as client,
    ):
        begun = await ask(client, "create_session", json={"tags": [], "type": "create_session"})
        wanted = {"session_id": begun.json()["session_id"], "model_seq_id": 0, "base_model": "nano"}
        made = await ask(client, "create_model", json={**wanted, "lora_config": {"rank": 2}})
        model_id = made.json()["model_id"]
        await ask(client, "retrieve_future", json={"request_id": made.json()["request_id"]})
        promises = {}
        for seq_id in [*range(2, NUM_CHUNKS + 1), 1]:
            body = chunk(model_id, seq_id)
            sent = await ask(client, "forward_backward", content=body, headers=PROTOBUF)
            promises[seq_id] = sent.json()["request_id"]
        step = {"model_id": model_id, "seq_id": NUM_CHUNKS + 1, "adam_params": {}}
        stepped = await ask(client, "optim_step", json=step)
        request = {"request_id": stepped.json()["request_id"]}
        ended = (await ask(client, "retrieve_future", json=request)).json()
        assert ended["metrics"]["step:max"] == 1, ended
        for seq_id in (1, 2, NUM_CHUNKS):
            request = {"request_id": promises[seq_id]}
            answer = await ask(client, "retrieve_future", json=request, headers=AS_PROTOBUF)
            assert answer.headers["content-type"] == "application/x-protobuf", answer.text
