"""The client behind functions that take none."""

import pytest

from eztinker.client import default


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(default, "_clients", {})
    yield
    for client in default._clients.values():
        client.close()


def test_one_client_for_each_address(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EZTINKER_BASE_URL", "http://one")
    first = default.default_client()
    assert first.base_url == "http://one"
    assert default.default_client("http://one/") is first
    assert default.default_client("http://two") is not first


def test_a_forked_process_gets_clients_of_its_own(monkeypatch: pytest.MonkeyPatch):
    first = default.default_client("http://one")
    monkeypatch.setattr(default.os, "getpid", lambda: -1)
    assert default.default_client("http://one") is not first


def test_wait_for_job_asks_the_shared_client(monkeypatch: pytest.MonkeyPatch):
    asked = []
    client = default.default_client("http://one")
    monkeypatch.setattr(client, "wait_for_job", lambda *args: asked.append(args))
    default.wait_for_job("job_1", timeout=3, base_url="http://one")
    assert asked == [("job_1", 3, 0.5)]
