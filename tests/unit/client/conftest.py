"""A fake service, and clients that talk to it without a network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eztinker.client.client import EZTinkerClient
from tests.unit.client.fake_service import FakeService


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses of the sync driver are written down instead of slept."""
    slept: list[float] = []
    monkeypatch.setattr("eztinker.client.transport.time.sleep", slept.append)
    return slept


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def client(service: FakeService) -> Iterator[EZTinkerClient]:
    with EZTinkerClient("http://fake", timeout=30, transport=service.transport()) as client:
        yield client
