"""Fixtures of the engine tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.engine.fake_worker import World
from tests.unit.engine.harness import Engine


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def engine(tmp_path: Path, world: World) -> AsyncIterator[Engine]:
    engine = await Engine(tmp_path, world).start()
    yield engine
    await engine.stop()
