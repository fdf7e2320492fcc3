from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from eztinker.api.server import create_app
from eztinker.config import ServerConfig

from .fake_service import FakeService
from .tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def config(tiny_folder: Path, tmp_path: Path) -> ServerConfig:
    limits = {"max_body_bytes": 65536, "max_data": 4, "max_num_samples": 8, "max_rank": 32}
    return ServerConfig.model_validate(
        {
            "state_dir": tmp_path / "state",
            "models": ("tiny",),
            "aliases": {"tiny": str(tiny_folder)},
            "default_wait_s": 1.0,
            "limits": limits,
        }
    )


@pytest.fixture
def service(config: ServerConfig, monkeypatch: pytest.MonkeyPatch) -> FakeService:
    monkeypatch.setattr("eztinker.service.hub._is_offline", lambda: True)
    return FakeService(config)


@pytest.fixture(scope="session")
def app() -> FastAPI:
    """One application for all tests: making it takes longer than most of them."""
    return create_app(None)  # pyright: ignore[reportArgumentType]


@pytest.fixture
async def client(app: FastAPI, service: FakeService) -> AsyncIterator[httpx.AsyncClient]:
    app.state.service = service
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


@pytest.fixture
async def run_id(client: httpx.AsyncClient) -> str:
    answer = await client.post("/v1/runs", json={"base_model": "tiny", "run_id": "run_one"})
    assert answer.status_code == 200, answer.text
    return answer.json()["run_id"]
