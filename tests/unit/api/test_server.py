"""The application around the routes: ids, methods, unknown paths, failures, documents."""

from __future__ import annotations

import logging
import statistics
import time
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from fastapi import FastAPI

from eztinker import errors
from eztinker.api import docs
from eztinker.api.bodies import parse
from eztinker.api.errors import STATUS_OF_CLASS, error_response, status_of
from eztinker.api.routes import openai
from eztinker.api.server import ROUTERS
from eztinker.models.answers import ErrorAnswer
from eztinker.models.api import TrainingRequest

from .fake_service import FakeService

# Requests -----------------------------------------------------------------------------------------


async def test_each_request_has_an_id(client: httpx.AsyncClient) -> None:
    first, second = await client.get("/health"), await client.get("/health")
    assert first.headers["X-Request-ID"] != second.headers["X-Request-ID"]
    own = await client.get("/v1/nothing", headers={"X-Request-ID": "trace-1.a"})
    assert own.headers["X-Request-ID"] == own.json()["request_id"] == "trace-1.a"
    forged = await client.get("/health", headers={"X-Request-ID": "x" * 500})
    assert forged.headers["X-Request-ID"].startswith("req_")


async def test_head_is_get_without_a_body(client: httpx.AsyncClient) -> None:
    got, head = await client.get("/v1/runs"), await client.head("/v1/runs")
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == str(len(got.content))
    assert (await client.head("/nothing")).status_code == 404


async def test_options_tells_the_methods(client: httpx.AsyncClient) -> None:
    answer = await client.options("/v1/runs/some_run")
    assert answer.status_code == 204
    assert answer.headers["Allow"] == "DELETE, GET, HEAD, OPTIONS"
    assert (await client.options("/nothing")).status_code == 404


async def test_a_wrong_method_names_the_right_ones(client: httpx.AsyncClient) -> None:
    answer = await client.put("/v1/runs", json={})
    assert answer.status_code == 405
    ErrorAnswer.model_validate(answer.json())
    assert answer.json()["error"]["details"]["allowed"] == ["GET", "HEAD", "OPTIONS", "POST"]
    assert answer.headers["Allow"] == "GET, HEAD, OPTIONS, POST"


@pytest.mark.parametrize(
    ("path", "near"),
    [("/v1/smaple", "/v1/sample"), ("/v1/runs/", "/v1/runs"), ("/v1/chckpoints", "/v1/checkpoints"), ("/Docs", "/docs")],
)  # fmt: skip
async def test_an_unknown_path_names_the_nearest(
    path: str, near: str, client: httpx.AsyncClient
) -> None:
    answer = await client.get(path)
    assert answer.status_code == 404
    ErrorAnswer.model_validate(answer.json())
    assert answer.json()["error"]["code"] == "route_not_found"
    assert f"Did you mean {near}?" in answer.json()["error"]["message"]


# Failures -----------------------------------------------------------------------------------------


async def test_an_unexpected_failure_tells_nothing_of_the_inside(
    client: httpx.AsyncClient, service: FakeService, monkeypatch: Any, caplog: Any
) -> None:
    def explode() -> None:
        raise RuntimeError("secret path /inside")

    monkeypatch.setattr(service, "health", explode)
    with caplog.at_level(logging.ERROR):
        answer = await client.get("/health")
    assert answer.status_code == 500
    body = answer.json()
    assert body["error"]["code"] == "internal_error"
    assert "secret" not in answer.text
    assert body["request_id"] in body["error"]["message"]
    assert body["request_id"] in caplog.records[-1].getMessage()


@pytest.mark.parametrize(
    "received", [[], [{"type": "http.request", "body": b"{", "more_body": True}]]
)
async def test_a_caller_who_left_is_no_failure(
    received: list[Any], app: FastAPI, service: FakeService, caplog: Any
) -> None:
    app.state.service = service
    messages = iter([*received, {"type": "http.disconnect"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"content-length", b"100")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/sample",
        "headers": headers,
        "query_string": b"",
    }
    await app(scope, receive, send)
    assert sent == []
    assert caplog.records == []


async def test_a_full_queue_says_when_to_come_back(
    client: httpx.AsyncClient, service: FakeService, run_id: str, monkeypatch: Any
) -> None:
    async def full(*_: Any, **__: Any) -> None:
        raise errors.BusyError("full", retry_after_s=1.2)

    monkeypatch.setattr(service.submissions, "submit", full)
    answer = await client.post(f"/v1/runs/{run_id}/optim_step")
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "2"


def _all_errors(cls: type[errors.EZTinkerError]) -> list[type[errors.EZTinkerError]]:
    return [cls, *(found for child in cls.__subclasses__() for found in _all_errors(child))]


def test_the_fault_is_on_the_right_side() -> None:
    for cls in _all_errors(errors.EZTinkerError):
        if issubclass(cls, errors.ClientSideError):
            continue
        status = status_of(cls("message"))
        if cls.category == "user":
            assert 400 <= status < 500, cls
        else:
            assert status >= 500 or issubclass(cls, errors.BusyError), cls


def test_the_documented_statuses() -> None:
    expected = {"NotFoundError": 404, "AlreadyExistsError": 409, "ConflictError": 409, "AuthError": 401,
                "BusyError": 429, "DiskFullError": 503, "OutOfMemoryError": 503, "UnsupportedError": 400,
                "InvalidRequestError": 400, "TooLargeError": 422, "EngineCrashError": 500}  # fmt: skip
    assert {name: status_of(getattr(errors, name)("m")) for name in expected} == expected
    assert set(STATUS_OF_CLASS) <= set(_all_errors(errors.EZTinkerError))


def test_details_of_any_kind_can_be_answered() -> None:
    error = errors.InvalidRequestError(
        "m", details={"path": Path("x"), "nan": float("nan"), 3: "three"}
    )  # type: ignore[dict-item]
    body = orjson.loads(bytes(error_response(error, "r").body))
    assert body["error"]["details"] == {"path": "x", "nan": None, "3": "three"}


# Documents ----------------------------------------------------------------------------------------


async def test_the_document_describes_every_body_and_answer(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            assert operation["description"], where
            assert "4XX" in operation["responses"], where
            assert "422" not in operation["responses"], where
            content = operation["responses"]["200"]["content"]
            if "application/octet-stream" in content:
                continue
            ok = content["application/json"]["schema"]
            assert ok["$ref"].split("/")[-1] in schemas, where
            if method == "post" and "application/x-tar" not in operation["requestBody"]["content"]:
                body = operation["requestBody"]["content"]["application/json"]["schema"]
                assert schemas[body["$ref"].split("/")[-1]]["additionalProperties"] is False
                assert "Idempotency-Key" in [p["name"] for p in operation["parameters"]]


async def test_every_reference_of_the_document_resolves(client: httpx.AsyncClient) -> None:
    text = (await client.get("/openapi.json")).text
    schemas = orjson.loads(text)["components"]["schemas"]
    references = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert references <= set(schemas)
    assert "#/$defs/" not in text


async def test_the_page_needs_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    for path, kind in (
        ("/docs", "text/html"),
        ("/docs/docs.js", "text/javascript"),
        ("/docs/docs.css", "text/css"),
    ):
        answer = await client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "http://" not in answer.text
        assert "https://" not in answer.text
        assert "innerHTML" not in answer.text


def test_every_route_is_in_the_document_or_meant_not_to_be(app: FastAPI) -> None:
    described = set(app.openapi()["paths"])
    paths = {
        r.path_format
        for router in ROUTERS
        for r in router.routes
        if router is not docs.router and not r.path.startswith(openai.ALIAS)
    }
    assert described == paths


def test_importing_the_api_imports_no_torch() -> None:
    import subprocess
    import sys

    script = (
        "import sys, eztinker.api.server; "
        "print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_body_of_16k_tokens_is_parsed_in_milliseconds() -> None:
    lists = {
        "input_ids": list(range(16384)),
        "target_ids": list(range(16384)),
        "weights": [1.0] * 16384,
    }
    raw = orjson.dumps(lists)
    parse(raw, TrainingRequest)
    times_s = []
    for _ in range(9):
        began_s = time.thread_time()
        parse(raw, TrainingRequest)
        times_s.append(time.thread_time() - began_s)
    assert statistics.median(times_s) < 0.02  # about 2 ms on an idle core


def test_a_huge_body_of_wrong_values_costs_no_more_than_a_good_one() -> None:
    raw = b'{"input_ids":[' + b",".join([b'"x"'] * 500_000) + b"]}"
    began_s = time.thread_time()
    with pytest.raises(errors.InvalidRequestError, match=r"input_ids\[0\]"):
        parse(raw, TrainingRequest)
    assert time.thread_time() - began_s < 0.5
