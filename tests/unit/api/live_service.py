"""The real service and application over the fake worker: everything but tensors, in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from eztinker.api.server import create_app
from eztinker.config import ServerConfig
from eztinker.service.service import Service
from tests.unit.engine.fake_worker import World


class Live:
    """A started service, its application, and clients for it."""

    def __init__(self, service: Service, world: World, app: FastAPI) -> None:
        self.service, self.world, self.app = service, world, app

    def client(self, key: str | None = None, **settings: Any) -> httpx.AsyncClient:
        """Someone who shows ``key``."""
        headers = {} if key is None else {"X-API-Key": key}
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        base_url = settings.pop("base_url", "http://localhost")
        headers |= settings.pop("headers", {})
        return httpx.AsyncClient(transport=transport, base_url=base_url, headers=headers)

    async def key(self, owner: str, *scopes: str, expires_in_s: float | None = None) -> str:
        """A new key of ``owner``."""
        wanted = scopes or ("train", "sample")
        made = await self.service.accounts.create(owner, scopes=wanted, expires_in_s=expires_in_s)
        return made[1]


@asynccontextmanager
async def live(state_dir: Path, **settings: Any) -> AsyncIterator[Live]:
    """A running service over ``state_dir``."""
    world = World()
    given = {"state_dir": state_dir, "default_wait_s": 5.0, **settings}
    service = Service(ServerConfig.model_validate(given), world.make_executor)
    await service.start()
    try:
        yield Live(service, world, create_app(service))
    finally:
        await service.stop()
