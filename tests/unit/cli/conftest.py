"""Runs ``eztinker`` commands in this process against a service in a dictionary."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from typer.testing import CliRunner

from eztinker.cli.main import app
from eztinker.client.client import EZTinkerClient
from eztinker.client.streams import ChatStream
from tests.unit.client.fake_service import FakeService

Run = Callable[..., "Outcome"]


class Outcome:
    """How a command ended: exit code, and what it wrote where."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code, self.stdout, self.stderr = code, stdout, stderr


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch):
    for name in ("EZTINKER_BASE_URL", "EZTINKER_API_KEY", "EZTINKER_LANG", "LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "C.UTF-8")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> FakeService:
    """The service that every client of a command talks to."""
    service = FakeService()
    fake = partial(EZTinkerClient, transport=service.transport())
    monkeypatch.setattr("eztinker.client.client.EZTinkerClient", fake)
    stream = partial(ChatStream, transport=service.transport())
    monkeypatch.setattr("eztinker.client.streams.ChatStream", stream)
    monkeypatch.setattr("eztinker.client.transport.time.sleep", lambda seconds: None)
    return service


@pytest.fixture
def run() -> Run:
    """Run a command line, without the program's name."""

    def run_command(*arguments: str, stdin: str | None = None) -> Outcome:
        result = CliRunner().invoke(app, list(arguments), input=stdin, catch_exceptions=False)
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return run_command
