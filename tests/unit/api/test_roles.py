"""Every route with every role: what a key does not allow is refused, and what is another's does not exist.

Generated from the routes of the application: a new route fails here until it says what it needs
(``api/scopes.py``) and how it is asked (``REQUESTS``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from eztinker.api.scopes import NEEDED, list_routes, needed_for
from eztinker.api.server import create_app
from eztinker.errors import AuthError
from eztinker.models.proto.tinker_public import ForwardBackwardRequest
from eztinker.types.principal import SCOPES

from .live_service import Live, live

CHECKPOINT = "/api/v1/training_runs/{run}/checkpoints/weights/{name}"
LORA = {"rank": 2}
DATUM = {"input_ids": [1, 2, 3]}


@dataclass(frozen=True)
class Ask:
    """How a route is asked, with ``{run}``, ``{job}``, … for the ids of someone's things.

    Attributes:
        status: of the answer to who may do it.
        message: the body is protobuf.
        last: it takes something away, so it is asked after the others.
    """

    url: str
    json: Any = None
    status: int = 200
    message: bool = False
    last: bool = field(default=False, kw_only=True)


REQUESTS: dict[str, Ask] = {
    # Open
    "GET /health": Ask("/health"),
    "GET /docs": Ask("/docs"),
    "GET /docs/docs.js": Ask("/docs/docs.js"),
    "GET /docs/docs.css": Ask("/docs/docs.css"),
    "GET /openapi.json": Ask("/openapi.json"),
    "GET /api/v1/healthz": Ask("/api/v1/healthz"),
    # Native
    "GET /v1/runs": Ask("/v1/runs"),
    "GET /v1/runs/{run_id}": Ask("/v1/runs/{run}"),
    "GET /v1/runs/{run_id}/log": Ask("/v1/runs/{run}/log"),
    "GET /v1/runs/{run_id}/checkpoints": Ask("/v1/runs/{run}/checkpoints"),
    "GET /v1/runs/{run_id}/checkpoints/{name}/files": Ask(
        "/v1/runs/{run}/checkpoints/{name}/files"
    ),
    "GET /v1/runs/{run_id}/checkpoints/{name}/files/{file}": Ask(
        "/v1/runs/{run}/checkpoints/{name}/files/state.json"
    ),
    "GET /v1/checkpoints": Ask("/v1/checkpoints"),
    "GET /v1/jobs": Ask("/v1/jobs"),
    "GET /v1/jobs/{job_id}": Ask("/v1/jobs/{job}"),
    "GET /v1/models": Ask("/v1/models"),
    "GET /v1/base_models/{name:path}/tokenizer": Ask("/v1/base_models/nano/tokenizer"),
    "POST /v1/sample": Ask("/v1/sample", {"prompt": [1], "run_id": "{run}", "max_new_tokens": 1}),
    "POST /sample": Ask(
        "/sample", {"prompt": [1], "run_id": "{run}", "checkpoint": "{name}", "max_new_tokens": 1}
    ),
    "GET /v1/models/{model:path}": Ask("/v1/models/{run}"),
    "GET /oai/api/v1/models": Ask("/oai/api/v1/models"),
    "GET /oai/api/v1/models/{model:path}": Ask("/oai/api/v1/models/{run}@{name}"),
    "POST /v1/chat/completions": Ask(
        "/v1/chat/completions",
        {"model": "{run}", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1},
    ),
    "POST /v1/completions": Ask(
        "/v1/completions", {"model": "{run}@{name}", "prompt": "x", "max_tokens": 1}
    ),
    "POST /oai/api/v1/chat/completions": Ask(
        "/oai/api/v1/chat/completions",
        {"model": "{run}@{name}", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1},
    ),
    "POST /oai/api/v1/completions": Ask(
        "/oai/api/v1/completions", {"model": "{run}", "prompt": "x", "max_tokens": 1}
    ),
    "POST /v1/runs": Ask("/v1/runs", {"base_model": "nano"}),
    "POST /v1/runs/import": Ask("/v1/runs/import", {}, 415),  # the way in is open; no archive comes
    "POST /v1/runs/{run_id}/forward_backward": Ask("/v1/runs/{run}/forward_backward", DATUM),
    "POST /v1/forward_backward": Ask("/v1/forward_backward", {"run_id": "{run}", **DATUM}),
    "POST /v1/runs/{run_id}/forward": Ask("/v1/runs/{run}/forward", DATUM),
    "POST /v1/runs/{run_id}/optim_step": Ask("/v1/runs/{run}/optim_step", {}),
    "POST /v1/optim_step": Ask("/v1/optim_step", {"run_id": "{run}"}),
    "POST /v1/runs/{run_id}/evaluate": Ask(
        "/v1/runs/{run}/evaluate", {"batches": [{"prompt_ids": [1], "response_ids": [2]}]}
    ),
    "POST /v1/runs/{run_id}/save": Ask("/v1/runs/{run}/save", {"name": "again"}),
    "POST /v1/runs/{run_id}/load": Ask("/v1/runs/{run}/load", {"name": "{name}"}),
    "PATCH /v1/runs/{run_id}/checkpoints/{name}": Ask(
        "/v1/runs/{run}/checkpoints/{name}", {"pinned": False}
    ),
    "POST /v1/checkpoints/prune": Ask("/v1/checkpoints/prune", {"dry_run": True}),
    "DELETE /v1/runs/{run_id}/checkpoints/{name}": Ask(
        "/v1/runs/{run}/checkpoints/{name}", last=True
    ),
    "DELETE /v1/jobs/{job_id}": Ask("/v1/jobs/{job}"),
    "DELETE /v1/runs/{run_id}": Ask("/v1/runs/{run}", last=True),
    # Keys
    "POST /v1/keys": Ask("/v1/keys", {"name": "another"}),
    "GET /v1/keys": Ask("/v1/keys"),
    "DELETE /v1/keys/{key_id}": Ask("/v1/keys/{key_id}", last=True),
    # Tinker
    "POST /api/v1/client/config": Ask("/api/v1/client/config", {}),
    "POST /api/v1/client/dynamic_config": Ask("/api/v1/client/dynamic_config", {}),
    "POST /api/v1/create_session": Ask(
        "/api/v1/create_session",
        {"tags": [], "user_metadata": {}, "sdk_version": "0", "type": "create_session"},
    ),
    "POST /api/v1/session_heartbeat": Ask(
        "/api/v1/session_heartbeat", {"session_id": "{session}", "type": "session_heartbeat"}
    ),
    "POST /api/v1/telemetry": Ask("/api/v1/telemetry", {}),
    "GET /api/v1/get_server_capabilities": Ask("/api/v1/get_server_capabilities"),
    "POST /api/v1/get_info": Ask("/api/v1/get_info", {"model_id": "{model}", "type": "get_info"}),
    "POST /api/v1/retrieve_future": Ask("/api/v1/retrieve_future", {"request_id": "{job}"}),
    "POST /api/v1/retrieve_futures": Ask(
        "/api/v1/retrieve_futures", {"target": {"sampling_session_id": "{sampler}"}, "timeout": 0}
    ),
    "GET /api/v1/samplers/{sampler_id}": Ask("/api/v1/samplers/{sampler}"),
    "GET /api/v1/training_runs": Ask("/api/v1/training_runs"),
    "GET /api/v1/training_runs/{run_id}": Ask("/api/v1/training_runs/{run}"),
    "GET /api/v1/training_runs/{run_id}/checkpoints": Ask(
        "/api/v1/training_runs/{run}/checkpoints"
    ),
    "GET /api/v1/checkpoints": Ask("/api/v1/checkpoints"),
    "POST /api/v1/weights_info": Ask("/api/v1/weights_info", {"tinker_path": "{path}"}),
    "GET /api/v1/sessions": Ask("/api/v1/sessions"),
    "GET /api/v1/sessions/{session_id}": Ask("/api/v1/sessions/{session}"),
    "POST /api/v1/sessions/search": Ask(
        "/api/v1/sessions/search", {"owner": {"type": "accessible"}}
    ),
    "GET /api/v1/sessions/{session_id}/trace_export": Ask(
        "/api/v1/sessions/{session}/trace_export"
    ),
    "GET /api/v1/sessions/{session_id}/trace.json": Ask("/api/v1/sessions/{session}/trace.json"),
    "POST /api/v1/create_sampling_session": Ask(
        "/api/v1/create_sampling_session",
        {
            "session_id": "{session}",
            "sampling_session_seq_id": 9,
            "model_path": "{path}",
            "type": "create_sampling_session",
        },
    ),
    "POST /api/v1/join_sampling_session": Ask(
        "/api/v1/join_sampling_session", {"sampling_session_id": "{sampler}"}
    ),
    "POST /api/v1/asample": Ask(
        "/api/v1/asample",
        {
            "sampling_session_id": "{sampler}",
            "seq_id": 1,
            "num_samples": 1,
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1]}]},
            "sampling_params": {"max_tokens": 1},
            "type": "sample",
        },
    ),
    "POST /api/v1/create_model": Ask(
        "/api/v1/create_model",
        {
            "session_id": "{session}",
            "model_seq_id": 7,
            "base_model": "nano",
            "lora_config": LORA,
            "type": "create_model",
        },
    ),
    "POST /api/v1/load_weights": Ask(
        "/api/v1/load_weights",
        {"model_id": "{model}", "path": "{path}", "seq_id": 1, "optimizer": True},
    ),
    "POST /api/v1/unload_model": Ask("/api/v1/unload_model", {"model_id": "{model}"}),
    "POST /api/v1/forward_backward": Ask("/api/v1/forward_backward", message=True),
    "POST /api/v1/forward": Ask(
        "/api/v1/forward",
        {
            "model_id": "{model}",
            "seq_id": 3,
            "forward_input": {
                "loss_fn": "cross_entropy",
                "data": [
                    {
                        "model_input": {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]},
                        "loss_fn_inputs": {
                            "target_tokens": {"data": [2, 3], "dtype": "int64", "shape": [2]},
                            "weights": {"data": [1.0, 1.0], "dtype": "float32", "shape": [2]},
                        },
                    }
                ],
            },
        },
    ),
    "POST /api/v1/optim_step": Ask(
        "/api/v1/optim_step",
        {"model_id": "{model}", "seq_id": 4, "adam_params": {"learning_rate": 1e-4}},
    ),
    "POST /api/v1/save_weights": Ask(
        "/api/v1/save_weights", {"model_id": "{model}", "seq_id": 5, "path": "mine"}
    ),
    "POST /api/v1/save_weights_for_sampler": Ask(
        "/api/v1/save_weights_for_sampler", {"model_id": "{model}", "seq_id": 6, "path": "mine"}
    ),
    "POST /api/v1/save_weights_external": Ask(
        "/api/v1/save_weights_external", {"model_id": "{model}", "seq_id": 7, "path": "mine"}
    ),
    "POST /api/v1/copy_weights": Ask(
        "/api/v1/copy_weights", {"source_path": "{path}", "destination_project_id": "p"}
    ),
    f"GET {CHECKPOINT}/external_weights_urls": Ask(f"{CHECKPOINT}/external_weights_urls"),
    f"GET {CHECKPOINT}/files/{{file}}": Ask(f"{CHECKPOINT}/files/state.json"),
    f"GET {CHECKPOINT}/archive": Ask(f"{CHECKPOINT}/archive", status=302),
    f"GET {CHECKPOINT}/archive.tar": Ask(f"{CHECKPOINT}/archive.tar"),
    f"DELETE {CHECKPOINT}": Ask(CHECKPOINT.replace("{name}", "copy"), status=204, last=True),
    f"POST {CHECKPOINT}/publish": Ask(f"{CHECKPOINT}/publish", status=204),
    f"DELETE {CHECKPOINT}/publish": Ask(f"{CHECKPOINT}/publish", status=204),
    f"PUT {CHECKPOINT}/ttl": Ask(f"{CHECKPOINT}/ttl", {"ttl_seconds": 3600}, 204),
    "POST /api/v1/cancel_future": Ask("/api/v1/cancel_future", {"request_id": "{job}"}, 204),
    "PUT /api/v1/sessions/{session_id}/project": Ask(
        "/api/v1/sessions/{session}/project", {"project_id": "p"}, 204
    ),
    "POST /api/v1/sessions/{session_id}/finish": Ask(
        "/api/v1/sessions/{session}/finish", {"reason": {"type": "success"}}, 204, last=True
    ),
}
_GENERIC = "/api/v1/training_runs/{run_id}/checkpoints/{kind}/{name}"
REQUESTS = {route.replace(CHECKPOINT, _GENERIC): ask for route, ask in REQUESTS.items()}

UNKNOWN = {
    "run": "run_00000000",
    "job": "job_00000000",
    "model": "00000000-0000-0000-0000-000000000000:train:0",
    "session": "00000000-0000-0000-0000-000000000000",
    "sampler": "00000000-0000-0000-0000-000000000000:sample:0",
    "path": "tinker://run_00000000/weights/kept",
    "name": "kept",
    "key_id": "00000000",
}


def routes_of(app: Any) -> list[str]:
    return [str(route) for route in list_routes(app.routes)]


ROUTES = routes_of(create_app(None))  # type: ignore[arg-type]


def test_every_route_says_what_it_needs_and_how_it_is_asked() -> None:
    said = {route for routes in NEEDED.values() for route in routes}
    hint = "put the route into api/scopes.py and into REQUESTS of this test"
    assert set(ROUTES) == said, hint
    assert set(ROUTES) == set(REQUESTS), hint


def test_a_route_that_nobody_thought_of_is_for_admin_alone() -> None:
    assert needed_for("POST /v1/new") == ("admin",)


async def send(client: httpx.AsyncClient, route: str, ids: dict[str, str]) -> httpx.Response:
    ask, method = REQUESTS[route], route.partition(" ")[0]

    def filled(value: Any) -> Any:
        if isinstance(value, str):
            return value.format(**ids)
        if isinstance(value, dict):
            return {key: filled(entry) for key, entry in value.items()}
        return [filled(entry) for entry in value] if isinstance(value, list) else value

    if ask.message:
        message = ForwardBackwardRequest(model_id=ids["model"], seq_id=2, loss_fn="cross_entropy")
        content = message.SerializeToString()
        headers = {"Content-Type": "application/x-protobuf"}
        return await client.request(method, filled(ask.url), content=content, headers=headers)
    return await client.request(method, filled(ask.url), json=filled(ask.json))


@dataclass
class Town:
    """A server with keys, and what alice has there."""

    live: Live
    ids: dict[str, str]
    keys: dict[str, str]

    def as_(self, role: str) -> httpx.AsyncClient:
        return self.live.client(self.keys[role] if role != "nobody" else None)


async def settle(live: Live, key: str) -> dict[str, str]:
    """Let the owner of a key make one of each thing."""
    async with live.client(key) as client:

        async def post(url: str, json: Any) -> Any:
            answer = await client.post(url, json=json)
            assert answer.status_code == 200, (url, answer.text)
            return answer.json()

        run = (await post("/v1/runs", {"base_model": "nano"}))["run_id"]
        saved = await post(f"/v1/runs/{run}/save", {"name": "kept"})
        await post(f"/v1/runs/{run}/save", {"name": "copy"})
        created = {"tags": [], "user_metadata": {}, "sdk_version": "0"}
        session = (await post("/api/v1/create_session", created))["session_id"]
        model = {
            "session_id": session,
            "model_seq_id": 0,
            "base_model": "nano",
            "lora_config": LORA,
        }
        promise = await post("/api/v1/create_model", model)
        await post("/api/v1/retrieve_future", {"request_id": promise["request_id"]})
        path = f"tinker://{run}/weights/kept"
        sampler = await post(
            "/api/v1/create_sampling_session",
            {"session_id": session, "sampling_session_seq_id": 0, "model_path": path},
        )
        return {
            "run": run,
            "job": saved["job_id"],
            "model": f"{session}:train:0",
            "session": session,
            "sampler": sampler["sampling_session_id"],
            "path": path,
            "name": "kept",
        }


@pytest.fixture
async def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Town]:
    monkeypatch.setattr("eztinker.api.rates.FIRST_DELAY_S", 0.0)
    monkeypatch.setattr("eztinker.service.hub._is_offline", lambda: True)
    async with live(tmp_path / "state") as running:
        keys = {scope: await running.key("alice", scope) for scope in SCOPES}
        keys["alice"] = await running.key("alice")
        keys["bob"] = await running.key("bob")
        keys["expired"] = await running.key("alice", "train", expires_in_s=1e-9)
        keys["wrong"] = keys["alice"][:-1] + ("a" if keys["alice"][-1] != "a" else "b")
        ids = await settle(running, keys["alice"])
        ids["key_id"] = running.service.accounts.list()[0].key_id
        yield Town(running, ids, keys)


async def test_without_a_valid_key_nothing_is_answered_but_what_is_open(town: Town) -> None:
    for role in ("nobody", "wrong", "expired"):
        async with town.as_(role) as client:
            for route in ROUTES:
                answer = await send(client, route, town.ids)
                open_to_it = needed_for(route) == () and role == "nobody"
                assert (answer.status_code == 401) is not open_to_it, (role, route, answer.text)
                if not open_to_it:
                    assert answer.headers["WWW-Authenticate"] == "Bearer"
                    assert town.ids["run"] not in answer.text


@pytest.mark.parametrize("scope", ["read", "sample", "train"])
async def test_a_key_may_do_what_its_scope_says_and_nothing_else(town: Town, scope: str) -> None:
    async with town.as_(scope) as client:
        for route in sorted(ROUTES, key=lambda route: REQUESTS[route].last):
            needed = needed_for(route)
            allowed = needed == () or "read" in needed or scope in needed
            if allowed and REQUESTS[route].last:
                continue
            answer = await send(client, route, town.ids)
            assert (answer.status_code == 403) is not allowed, (route, answer.text)
            assert answer.status_code < 500, (route, answer.text)


def names_something(ask: Ask) -> bool:
    return ask.message or any(f"{{{name}}}" in repr(ask) for name in UNKNOWN)


async def test_what_is_anothers_looks_exactly_like_what_does_not_exist(town: Town) -> None:
    """For bob on every route: the same status, the same words."""
    names = [route for route in ROUTES if names_something(REQUESTS[route])]
    async with town.as_("bob") as client:
        for route in ROUTES:
            hers = await send(client, route, town.ids)
            if route not in names:
                assert town.ids["run"] not in hers.text, route
                assert town.ids["session"] not in hers.text, route
                continue
            if needed_for(route) == ("admin",):
                assert hers.status_code == 403, route
                continue
            nobodys = await send(client, route, UNKNOWN)
            assert hers.status_code in (404, 410), (route, hers.status_code, hers.text)
            assert hers.status_code == nobodys.status_code, route
            assert without_ids(hers, town.ids) == without_ids(nobodys, UNKNOWN), route
    # And nothing of it had an effect: she has what she had.
    async with town.as_("alice") as client:
        job = await client.get(f"/v1/jobs/{town.ids['job']}")
        assert job.json()["status"] == "completed"
        held = (await client.get(f"/v1/runs/{town.ids['run']}/checkpoints")).json()["checkpoints"]
        assert [entry["name"] for entry in held] == ["kept", "copy"]


def without_ids(answer: httpx.Response, ids: dict[str, str]) -> Any:
    text = answer.text
    for name in sorted(ids, key=lambda name: -len(ids[name])):
        text = text.replace(ids[name], f"<{name}>")
    content = httpx.Response(200, text=text).json()
    content.pop("request_id", None)
    return content


@pytest.mark.parametrize("role", ["alice", "admin"])
async def test_the_owner_and_the_admin_get_what_they_ask_for(town: Town, role: str) -> None:
    async with town.as_(role) as client:
        for route in sorted(ROUTES, key=lambda route: REQUESTS[route].last):
            if needed_for(route) == ("admin",) and role != "admin":
                continue
            answer = await send(client, route, town.ids)
            expected = REQUESTS[route].status
            if REQUESTS[route].message:
                expected = 200  # an empty request is refused through its future
            assert answer.status_code == expected, (route, answer.status_code, answer.text[:300])


async def test_without_keys_there_is_one_owner_who_sees_everything(tmp_path: Path) -> None:
    async with live(tmp_path / "state") as running:
        ids = await settle(running, "tml-local")
        async with running.client() as client:
            assert (await client.get(f"/v1/runs/{ids['run']}")).status_code == 200
            assert (await client.get("/v1/keys")).json() == {"keys": []}
        key = await running.key("alice")
        async with running.client(key) as client:
            assert (await client.get(f"/v1/runs/{ids['run']}")).status_code == 404
        async with running.client(await running.key("local")) as client:
            assert (await client.get(f"/v1/runs/{ids['run']}")).status_code == 200
        assert AuthError.exit_code == 5
