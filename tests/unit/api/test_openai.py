"""Bodies of the OpenAI wire, wrong in many ways: 400 in its own shape, nothing changed, nothing in the log."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from eztinker.api.server import create_app
from eztinker.models.openai import ChatCompletionRequest, CompletionRequest

from .fake_service import FakeService
from .test_bad_input import JSON_TYPE, NOT_MODEL, RAW_BODIES

ROUTES = {
    "/v1/chat/completions": (
        ChatCompletionRequest,
        {"model": "tiny", "messages": [{"role": "user", "content": "a"}]},
    ),
    "/v1/completions": (CompletionRequest, {"model": "tiny", "prompt": "a"}),
}
LABELS = {"user", "metadata", "prompt_cache_key", "safety_identifier"}
ODD = [5, -1, 1.5, 1e30, True, "x" * 5000, [], {}, [[]], [{"a": 1}], {"a": {"b": [1]}}, 2**70]


def refused(answer: httpx.Response, what: Any) -> dict[str, Any]:
    assert 400 <= answer.status_code < 500, f"{what}: {answer.status_code} {answer.text[:300]}"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}, what
    return error


async def test_a_server_for_openais_clients_has_nothing_else(service: FakeService) -> None:
    app = create_app(service, only_openai=True)  # pyright: ignore[reportArgumentType]
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        for path, (_, body) in ROUTES.items():
            answer = await client.post(path, json={**body, "tools": 1})
            assert answer.json()["error"]["type"] == "invalid_request_error"
        assert (await client.get("/v1/models")).status_code == 200
        for path in ("/v1/runs", "/v1/sample", "/api/v1/create_session", "/v1/keys"):
            answer = await client.post(path, json={})
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "route_not_found")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/responses", "/oai/api/v1/embeddings"])
async def test_what_openais_clients_call_and_is_not_here(
    path: str, client: httpx.AsyncClient
) -> None:
    assert refused(await client.post(path, json={}), path)["code"] == "route_not_found"
    wrong = await client.get("/v1/chat/completions")
    assert refused(wrong, "GET")["code"] == "method_not_allowed"
    assert wrong.headers["Allow"] == "OPTIONS, POST"


@pytest.mark.parametrize("path", [*ROUTES, "/oai/api/v1/completions"])
async def test_what_is_no_good_json(
    path: str, client: httpx.AsyncClient, service: FakeService, caplog
) -> None:
    for raw in RAW_BODIES:
        refused(await client.post(path, content=raw, headers=JSON_TYPE), raw[:40])
    assert refused(await client.post(f"{path}?x=1", json={}), "query")["code"] == "unknown_field"
    key = {"Idempotency-Key": "x" * 201}
    refused(await client.post(path, json=ROUTES.get(path, (0, {}))[1], headers=key), "key")
    assert service.state() == ([], [], [], [])
    assert caplog.records == []


@pytest.mark.parametrize("path", ROUTES)
async def test_no_value_of_any_field_is_our_failure(
    path: str, client: httpx.AsyncClient, service: FakeService, caplog
) -> None:
    model, body = ROUTES[path]
    for name in set(model.model_fields) - LABELS - {"stream"}:
        for value in ODD:
            answer = await client.post(path, json={**body, name: value})
            if answer.status_code != 200:
                refused(answer, (name, value))
        if name in model.NOTHING_ASKED:
            error = refused(await client.post(path, json={**body, name: {"odd": 1}}), name)
            assert error["param"].split(".")[0] == name
    assert caplog.records == []


@pytest.mark.parametrize("path", ROUTES)
async def test_models_that_do_not_exist(
    path: str, client: httpx.AsyncClient, service: FakeService, caplog
) -> None:
    for name in [
        *NOT_MODEL,
        "tiny@c",
        "run_x",
        "tinker://",
        "tinker://a/b/c",
        ";",
        "tiny;",
        "a@b@c",
    ]:
        error = refused(await client.post(path, json={**ROUTES[path][1], "model": name}), name)
        assert error["param"] == "model"
    assert service.state() == ([], [], [], [])
    assert caplog.records == []
