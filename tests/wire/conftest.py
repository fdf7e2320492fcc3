"""The official SDK against a real server; skipped where it is not installed."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from eztinker.client.embedded import EmbeddedServer
from tests.conftest import DOCUMENTED_MODEL

MODEL = DOCUMENTED_MODEL


HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The SDK leaves sockets open when it is closed, which is not ours to mend."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"))


@pytest.fixture(autouse=True)
def _forget_sockets() -> Iterator[None]:
    """Let those sockets go here, and not in a test of another folder."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="session")
def sdk():
    """The SDK's module."""
    return pytest.importorskip("tinker", reason="needs the official SDK: pip install tinker")


@pytest.fixture
def service(sdk, running_server: EmbeddedServer):
    """A client object of its own session."""
    with sdk.ServiceClient(base_url=running_server.base_url, api_key="tml-local") as client:
        yield client


@pytest.fixture
def rest(sdk, running_server: EmbeddedServer):
    """The SDK's client for what exists."""
    return sdk.RestClient(base_url=running_server.base_url, api_key="tml-local")


@pytest.fixture
def model(service):
    """A training client with the SDK's default adapter, of rank 4."""
    return service.create_lora_training_client(base_model=MODEL, rank=4, seed=1).result()


@pytest.fixture
def http(running_server: EmbeddedServer) -> Iterator[httpx.Client]:
    """Plain HTTP to the wire's root, for what the SDK would never send."""
    with httpx.Client(base_url=f"{running_server.base_url}/api/v1", timeout=30) as client:
        yield client
