"""Tenants who reach for what is not theirs in other ways than by its id, and requests that mean harm."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from .live_service import Live, live

RUN = {"base_model": "nano"}


@pytest.fixture
async def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Live]:
    monkeypatch.setattr("eztinker.service.hub._is_offline", lambda: True)
    async with live(tmp_path / "state") as service:
        yield service


async def post(
    client: httpx.AsyncClient, url: str, json: Any, status: int = 200, **more: Any
) -> Any:
    answer = await client.post(url, json=json, **more)
    assert answer.status_code == status, (url, answer.status_code, answer.text)
    return answer.json()


async def a_model(client: httpx.AsyncClient) -> str:
    session = (await post(client, "/api/v1/create_session", {"sdk_version": "0"}))["session_id"]
    wanted = {"model_seq_id": 0, "base_model": "nano", "lora_config": {"rank": 1}}
    promise = await post(client, "/api/v1/create_model", {"session_id": session, **wanted})
    await post(client, "/api/v1/retrieve_future", {"request_id": promise["request_id"]})
    return f"{session}:train:0"


async def test_a_run_of_ones_own_opens_no_checkpoint_of_anothers(running: Live) -> None:
    async with (
        running.client(await running.key("alice")) as alice,
        running.client(await running.key("bob")) as bob,
    ):
        hers = (await post(alice, "/v1/runs", RUN))["run_id"]
        await post(alice, f"/v1/runs/{hers}/save", {"name": "kept"})
        his = (await post(bob, "/v1/runs", RUN))["run_id"]
        model = await a_model(bob)
        path = f"tinker://{hers}/weights/kept"

        for name in ("kept", "never"):
            load = {"name": name, "source_run_id": hers}
            refused = await post(bob, f"/v1/runs/{his}/load", load, 404)
            assert refused["error"]["code"] == "checkpoint_not_found"
            assert "It has none." in refused["error"]["message"], "no names of hers"
        numbered = {"model_id": model, "path": path, "seq_id": 1, "optimizer": True}
        promise = await post(bob, "/api/v1/load_weights", numbered)
        future = await post(bob, "/api/v1/retrieve_future", {"request_id": promise["request_id"]})
        assert "no checkpoint named 'kept'" in future["error"]
        session = model.partition(":")[0]
        fresh = {"session_id": session, "model_seq_id": 1, "path": path, "optimizer": False}
        await post(bob, "/api/v1/load_weights", fresh, 404)
        await post(
            bob, "/api/v1/copy_weights", {"source_path": path, "destination_project_id": "p"}, 404
        )

        await post(alice, f"/v1/runs/{hers}/forward_backward", {"input_ids": [1, 2]})
        assert (await bob.get("/v1/checkpoints")).json()["checkpoints"] == []


async def test_what_is_published_may_be_read_and_not_changed_by_others(running: Live) -> None:
    async with (
        running.client(await running.key("alice")) as alice,
        running.client(await running.key("bob")) as bob,
    ):
        hers = (await post(alice, "/v1/runs", RUN))["run_id"]
        await post(alice, f"/v1/runs/{hers}/save", {"name": "kept"})
        checkpoint = f"/api/v1/training_runs/{hers}/checkpoints/weights/kept"
        sample = {"prompt": [1], "run_id": hers, "checkpoint": "kept", "max_new_tokens": 1}
        await post(bob, "/v1/sample?wait=5", sample, 404)
        assert (await alice.post(f"{checkpoint}/publish")).status_code == 204
        answer = await post(bob, "/v1/sample?wait=5", sample)
        assert (await alice.get(f"/v1/jobs/{answer['job_id']}")).status_code == 404, "his, not hers"
        for method, path in (("DELETE", ""), ("POST", "/publish"), ("DELETE", "/publish")):
            assert (await bob.request(method, checkpoint + path)).status_code == 404
        assert (await bob.get("/v1/checkpoints")).json()["checkpoints"] == []
        await post(bob, f"/v1/runs/{hers}/optim_step", {}, 404)
        assert (await alice.delete(f"{checkpoint}/publish")).status_code == 204
        await post(bob, "/v1/sample?wait=5", sample, 404)


async def test_idempotency_keys_of_two_owners_have_nothing_to_do_with_each_other(
    running: Live,
) -> None:
    same = {"headers": {"Idempotency-Key": "one"}}
    async with (
        running.client(await running.key("alice")) as alice,
        running.client(await running.key("bob")) as bob,
    ):
        hers = await post(alice, "/v1/runs", RUN, **same)
        his = await post(bob, "/v1/runs", RUN, **same)
        assert hers["run_id"] != his["run_id"]
        assert await post(alice, "/v1/runs", RUN, **same) == hers
        sample = {"prompt": [1], "base_model": "nano", "max_new_tokens": 1}
        other = {"headers": {"Idempotency-Key": "two"}}
        jobs = [await post(client, "/v1/sample", sample, **other) for client in (alice, bob)]
        assert jobs[0]["job_id"] != jobs[1]["job_id"]


async def test_a_name_under_which_another_keeps_checkpoints_is_taken(running: Live) -> None:
    async with (
        running.client(await running.key("alice")) as alice,
        running.client(await running.key("bob")) as bob,
    ):
        named = {**RUN, "run_id": "report"}
        await post(alice, "/v1/runs", named)
        await post(bob, "/v1/runs", named, 409)
        await post(alice, "/v1/runs/report/save", {"name": "kept"})
        assert (await alice.delete("/v1/runs/report")).status_code == 200
        await post(bob, "/v1/runs", named, 409)
        await post(alice, "/v1/runs", named)


def hold(running: Live) -> asyncio.Event:
    """Let the worker begin nothing until the event is set."""
    release = asyncio.Event()

    async def wait(_command: object) -> None:
        await release.wait()

    running.world.before = wait
    return release


async def test_an_owner_has_a_part_of_the_room_and_no_more(tmp_path: Path) -> None:
    limits = {"max_runs_per_owner": 1, "max_queued_jobs_per_owner": 2}
    async with (
        live(tmp_path / "state", limits=limits, default_wait_s=0) as running,
        running.client(await running.key("alice")) as alice,
    ):
        run = (await post(alice, "/v1/runs", RUN))["run_id"]
        refused = await post(alice, "/v1/runs", RUN, 422)
        assert refused["error"]["code"] == "too_many_runs"
        release = hold(running)
        for _ in range(2):
            await post(alice, f"/v1/runs/{run}/forward_backward", {"input_ids": [1, 2]})
        full = await post(alice, f"/v1/runs/{run}/forward_backward", {"input_ids": [1, 2]}, 429)
        assert "max_queued_jobs_per_owner" in full["error"]["message"]
        async with running.client(await running.key("bob")) as bob:
            await post(bob, "/v1/sample", {"prompt": [1], "max_new_tokens": 1})
        release.set()


# Requests that mean harm --------------------------------------------------------------------------

ADDRESSES = [
    "http://169.254.169.254/latest/meta-data", "https://evil.example/model", "//evil.example/model",
    "ftp://evil.example", "\\\\evil.example\\share", "file:///etc", "s3://bucket/model", "127.0.0.1:9",
    "evil.example", "user@evil.example:model", "hf://evil/model",
]  # fmt: skip


async def test_no_address_that_a_client_sends_is_ever_connected_to(
    running: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Any] = []
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, lambda _self, *given: tried.append(given))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **_: tried.append(given) or [])
    async with running.client() as client:
        for address in ADDRESSES:
            for url, body in (
                ("/v1/runs", {"base_model": address}),
                ("/v1/sample", {"prompt": "x", "base_model": address}),
                ("/v1/chat/completions", {"model": address, "messages": [{"role": "user", "content": "x"}]}),
                ("/api/v1/weights_info", {"tinker_path": address}),
                ("/api/v1/create_session", {"sdk_version": address, "project_id": address}),
                ("/v1/runs/x/load", {"name": address}),
            ):  # fmt: skip
                answer = await client.post(url, json=body)
                assert answer.status_code < 500, (url, address, answer.text)
            assert (await client.get("/v1/models", headers={"Referer": address})).status_code == 200
    assert tried == []


DEEP = [
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"[" * 500 + b"]" * 500,
    b'{"metadata":' + b"[" * 900 + b"]" * 900 + b"}",
]


async def test_depth_is_refused_at_once(running: Live) -> None:
    async with running.client(headers={"Content-Type": "application/json"}) as client:
        for path in ("/v1/runs", "/v1/sample", "/v1/completions", "/api/v1/create_session"):
            for body in DEEP:
                began_s = time.monotonic()
                answer = await client.post(path, content=body)
                # The Tinker wire does not read fields that it does not know.
                unread = "session" in path and b"metadata" in body
                assert answer.status_code == 200 if unread else 400 <= answer.status_code < 500
                assert len(answer.content) < 4000
                assert time.monotonic() - began_s < 2


BAD_NAMES = ["../x", "a/b", "..", ".", ".x", "a\x00b", "x" * 129, "a b", "C:x", "%2e%2e", "\u202ex"]


async def test_names_that_would_leave_their_folder_are_refused(
    running: Live, tmp_path: Path
) -> None:
    def folders() -> list[str]:
        return sorted(str(path) for path in tmp_path.rglob("*") if "sqlite" not in path.name)

    async with running.client() as client:
        run = (await post(client, "/v1/runs", RUN))["run_id"]
        model = await a_model(client)
        before = folders()
        for number, name in enumerate(BAD_NAMES, 1):
            await post(client, "/v1/runs", {**RUN, "run_id": name}, 400)
            await post(client, f"/v1/runs/{run}/save", {"name": name}, 400)
            save = {"model_id": model, "path": name, "seq_id": number}
            promise = await post(client, "/api/v1/save_weights", save)
            asked = {"request_id": promise["request_id"]}
            future = await post(client, "/api/v1/retrieve_future", asked)
            assert "not a valid name" in future["error"]
        assert folders() == before


async def test_metadata_has_a_bound(running: Live) -> None:
    async with running.client() as client:
        large = {"user_metadata": {"note": "x" * 70_000}}
        refused = await post(client, "/api/v1/create_session", {"sdk_version": "0", **large}, 400)
        assert refused["code"] == "metadata_too_large"
        model = await a_model(client)
        body = {"model_id": model, "path": "kept", "seq_id": 1, **large}
        promise = await post(client, "/api/v1/save_weights", body)
        future = await post(
            client, "/api/v1/retrieve_future", {"request_id": promise["request_id"]}
        )
        assert "65536 are kept" in future["error"]
        assert (await client.get("/api/v1/checkpoints")).json()["checkpoints"] == []
