"""What tests of every tier may use: a real server, started once, with a tiny model under documented names."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from eztinker.client.embedded import EmbeddedServer

# How long an example takes says something of the machine, not of the code. The parent draws the same ones again in CI.
settings.register_profile(
    "patient", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("patient")

DOCUMENTED_MODEL = "Qwen/Qwen2-0.5B-Instruct"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave what the imports make, most of the heap, out of garbage collection: each load of a base model collects."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Qwen2-shaped base model; writes in the alphabet of bytes."""
    from tests.model_factory import write_model

    return write_model(tmp_path_factory.mktemp("tiny"), "qwen2")


@pytest.fixture(scope="session")
def running_server(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedServer]:
    """A server process of its own on a free port; the documented model name leads to the tiny model."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_HUB_OFFLINE", "1")
        server = EmbeddedServer(
            [DOCUMENTED_MODEL],
            state_dir=tmp_path_factory.mktemp("server"),
            settings={"aliases": {DOCUMENTED_MODEL: str(tiny_model)}, "num_threads": 1},
        )
    yield server
    server.close()
