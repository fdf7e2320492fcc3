"""The gate: names, pages, guesses, rates and bodies; what the roles may is in ``test_roles.py``."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from eztinker.api.rates import MAX_HELD, MAX_REMEMBERED, Guesses, Rates
from eztinker.errors import BusyError
from eztinker.types.commands import RunSample

from .live_service import Live, live


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Live]:
    async with live(tmp_path / "state", allowed_hosts=["tinker.example"]) as service:
        yield service


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "192.168.1.5", "a.localhost",
     "TINKER.example:8000", "localhost."],
)  # fmt: skip
async def test_addresses_and_known_names_are_answered(running: Live, host: str) -> None:
    async with running.client(headers={"Host": host}) as client:
        assert (await client.get("/v1/runs")).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "evil.example:8000", "127.0.0.1.evil.example", "1"],
)
async def test_a_foreign_name_is_refused_unless_a_key_is_shown(running: Live, host: str) -> None:
    """DNS rebinding: the page's own name points here."""
    async with running.client(headers={"Host": host}) as client:
        for path in ("/v1/runs", "/api/v1/sessions", "/v1/models/nano", "/health"):
            answer = await client.get(path)
            assert answer.status_code == 403
            assert "unknown_host" in answer.text
    async with running.client(await running.key("alice"), headers={"Host": host}) as client:
        assert (await client.get("/v1/runs")).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:9999", "file://"]
)
async def test_pages_of_other_origins_are_refused_and_told_nothing(
    running: Live, origin: str
) -> None:
    async with running.client(headers={"Origin": origin}) as client:
        for answer in (
            await client.post("/api/v1/create_session", content="{}"),
            await client.get("/v1/runs"),
            await client.options("/v1/runs"),
        ):
            assert answer.status_code in (403, 204)
            assert not any(name.startswith("access-control") for name in answer.headers)
    async with running.client(headers={"Origin": "http://localhost"}) as client:
        assert (await client.get("/v1/runs")).status_code == 200, "our own page"


async def test_either_header_carries_a_key(running: Live) -> None:
    key = await running.key("alice")
    for headers in (
        {"X-API-Key": key},
        {"Authorization": f"Bearer {key}"},
        {"authorization": f"bearer {key}"},
    ):
        async with running.client(headers=headers) as client:
            assert (await client.get("/v1/runs")).status_code == 200
    for headers in (
        {"Authorization": key},
        {"Authorization": f"Basic {key}"},
        {"Authorization": "Bearer"},
    ):
        async with running.client(headers=headers) as client:
            assert (await client.get("/v1/runs")).status_code == 401


async def test_compressed_bodies_are_not_read(running: Live) -> None:
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    async with running.client(headers=headers) as client:
        answer = await client.post("/v1/runs", content=b"\x1f\x8b")
        assert answer.status_code == 415
        assert answer.json()["error"]["field"] == "Content-Encoding"


async def test_bodies_of_all_requests_together_have_a_bound(tmp_path: Path) -> None:
    limits = {"max_bodies_bytes": 2000}
    async with live(tmp_path / "state", limits=limits) as running, running.client() as client:
        fits = await client.post(
            "/v1/runs", content=b" " * 1900, headers={"Content-Type": "application/json"}
        )
        assert fits.status_code == 400
        for path in ("/v1/runs", "/api/v1/create_session"):
            answer = await client.post(path, content=b" " * 2100)
            assert answer.status_code == 429
            assert answer.headers["Retry-After"] == "1"
        again = await client.get("/v1/runs")
        assert again.status_code == 200, "what was held is let go"


# Rates --------------------------------------------------------------------------------------------


async def test_a_key_that_asks_too_often_is_slowed_and_others_are_not(tmp_path: Path) -> None:
    async with live(tmp_path / "state", limits={"max_requests_per_s": 2}) as running:
        async with running.client(await running.key("alice")) as alice:
            statuses = [(await alice.get("/v1/runs")).status_code for _ in range(8)]
            assert statuses[:4] == [200] * 4
            assert 429 in statuses
            refused = await alice.get("/v1/runs")
            assert refused.json()["error"]["code"] == "rate_limited"
            assert int(refused.headers["Retry-After"]) >= 1
        async with running.client(await running.key("bob")) as bob:
            assert (await bob.get("/v1/runs")).status_code == 200


def test_a_bucket_fills_with_time() -> None:
    rates = Rates(per_s=10.0)
    for _ in range(20):
        rates.spend("a", now_s=0.0)
    with pytest.raises(BusyError) as refusal:
        rates.spend("a", now_s=0.0)
    assert refusal.value.retry_after_s == pytest.approx(0.1)
    rates.spend("a", now_s=0.11)
    with pytest.raises(BusyError):
        rates.spend("a", now_s=0.11)


def test_memory_of_rates_and_guesses_is_bounded() -> None:
    rates, guesses = Rates(per_s=1.0), Guesses()
    for number in range(2 * MAX_REMEMBERED):
        rates.spend(f"key{number}", now_s=0.0)
        guesses.begin(f"address{number}", now_s=0.0)
        guesses.end(f"address{number}")
    assert len(rates._buckets) == MAX_REMEMBERED
    assert len(guesses._wrong) == MAX_REMEMBERED
    assert not guesses._held


def test_each_wrong_key_waits_longer_until_it_is_forgiven() -> None:
    guesses = Guesses()
    delays = []
    for number in range(8):
        delays.append(guesses.begin("a", now_s=float(number)))
        guesses.end("a")
    assert delays[:5] == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert delays[-1] == 4.0
    assert guesses.begin("b", now_s=8.0) == 0.25, "others do not pay"
    assert guesses.begin("a", now_s=100.0) == 0.25, "forgiven"


def test_only_so_many_guesses_wait_at_a_time() -> None:
    guesses = Guesses()
    for _ in range(MAX_HELD):
        guesses.begin("a", now_s=0.0)
    with pytest.raises(BusyError):
        guesses.begin("a", now_s=0.0)
    guesses.end("a")
    guesses.begin("a", now_s=0.0)


async def test_guessing_is_slow_and_a_right_key_is_not(
    running: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eztinker.api.rates.FIRST_DELAY_S", 0.05)
    key = await running.key("alice")
    async with running.client("tml-wrong") as guesser, running.client(key) as alice:
        began_s = time.monotonic()
        for _ in range(3):
            assert (await guesser.get("/v1/runs")).status_code == 401
        assert time.monotonic() - began_s >= 0.05 + 0.1 + 0.2
        began_s = time.monotonic()
        assert (await alice.get("/v1/runs")).status_code == 200
        assert time.monotonic() - began_s < 0.5


# What nobody else may read ------------------------------------------------------------------------

SECRET = "the-launch-code-is-zebra"


async def test_prompts_and_keys_are_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither when all is well, nor when the request is wrong, the worker dies, or we are at fault."""
    caplog.set_level(logging.DEBUG, "eztinker")
    monkeypatch.setattr("eztinker.api.rates.FIRST_DELAY_S", 0.0)
    async with live(tmp_path / "state") as running:
        key = await running.key("alice")
        async with running.client(key) as client, running.client(key + "x") as guesser:
            await client.post("/v1/sample", json={"prompt": SECRET, "max_new_tokens": 1})
            await client.post("/v1/sample", json={"prompt": SECRET, "max_new_tokens": -1})
            await client.post("/v1/completions", json={"model": "nano", "prompt": SECRET})
            await guesser.post("/v1/sample", json={"prompt": SECRET})
            running.world.before = _fault
            answer = await client.post("/v1/sample", json={"prompt": SECRET, "max_new_tokens": 1})
            assert "Traceback" not in answer.text
    assert SECRET not in caplog.text
    assert key not in caplog.text


async def _fault(command: object) -> None:
    assert not isinstance(command, RunSample), "a fault of ours"


async def test_a_fault_of_ours_tells_neither_traceback_nor_path(
    running: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError(f"at {__file__}")

    monkeypatch.setattr("eztinker.service.runs.Runs.get", fail)
    async with running.client() as client:
        for path in ("/v1/runs/x", "/api/v1/training_runs/x", "/v1/models/x"):
            answer = await client.get(path)
            assert answer.status_code >= 400
            assert __file__ not in answer.text
            assert "Traceback" not in answer.text
            assert "RuntimeError" not in answer.text


async def test_tenants_do_not_learn_where_things_lie(running: Live, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    async with running.client(await running.key("alice")) as alice:
        run = (await alice.post("/v1/runs", json={"base_model": "nano"})).json()["run_id"]
        saved = await alice.post(f"/v1/runs/{run}/save", json={"name": "kept"})
        assert saved.json()["result"]["path"] == f"{run}/kept"
        for path in ("/v1/checkpoints", "/v1/jobs", f"/v1/runs/{run}/log", "/v1/models"):
            assert str(tmp_path) not in (await alice.get(path)).text
        for name in (str(folder), "/etc", "~", "../..", str(tmp_path), "file:///etc/passwd"):
            refused = await alice.post("/v1/runs", json={"base_model": name})
            assert refused.status_code == 404
            told = refused.json()["error"]
            assert "offers no model" in told["message"]
            assert "details" not in told, "no word on what is there and what is not"
            tokenizer = await alice.get(f"/v1/base_models/{name.lstrip('/')}/tokenizer")
            assert tokenizer.status_code == 404


# Addresses that are given out ---------------------------------------------------------------------


async def test_addresses_of_files_open_that_file_for_those_who_send_no_key(
    running: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eztinker.api.rates.FIRST_DELAY_S", 0.0)
    for key in (await running.key("alice"), await running.key("root", "admin")):
        async with running.client(key) as client, running.client() as stranger:
            run = (await client.post("/v1/runs", json={"base_model": "nano"})).json()["run_id"]
            await client.post(f"/v1/runs/{run}/save", json={"name": "kept"})
            checkpoint = f"/api/v1/training_runs/{run}/checkpoints/weights/kept"
            answer = await client.get(f"{checkpoint}/external_weights_urls")
            url = answer.json()["urls"]["state.json"]
            assert (await stranger.get(url)).status_code == 200
            assert (await stranger.get(url.partition("?")[0])).status_code == 401
            archive = await client.get(f"{checkpoint}/archive")
            assert (await stranger.get(archive.headers["Location"])).status_code == 200
            query = url.partition("?")[2]
            for other in (
                f"{checkpoint}/archive.tar?{query}",
                f"/v1/runs/{run}?{query}",
                f"{url}0",
                url.replace("alice", "root"),
            ):
                if other != url:
                    assert (await stranger.get(other)).status_code == 401, other
            assert (await stranger.delete(url)).status_code == 401
            with monkeypatch.context() as clock:
                tomorrow_s = time.time() + 90_000
                clock.setattr("eztinker.service.accounts.time.time", lambda at_s=tomorrow_s: at_s)
                assert (await stranger.get(url)).status_code == 401
