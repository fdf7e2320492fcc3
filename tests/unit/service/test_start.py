"""What a starting service says of its machine, and how many clients of one owner it holds."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from eztinker.errors import BusyError
from eztinker.service import sessions as sessions_module
from eztinker.types.principal import Principal
from tests.unit.api.live_service import live

SESSION = {"tags": [], "user_metadata": {}, "display_name": None, "project_id": None}


async def test_a_clock_that_was_set_back_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with live(tmp_path) as before:
        assert before.service.health()["warnings"] == []
        await before.service.sessions.create(**SESSION)
    really = time.time
    monkeypatch.setattr(time, "time", lambda: really() - 7200)
    async with live(tmp_path) as after:
        (warning,) = after.service.health()["warnings"]
        assert "clock" in warning
        tenant = Principal("tenant", frozenset({"train", "sample"}))
        assert after.service.seen_by(tenant).health()["warnings"] == []


async def test_clients_of_an_owner_are_bounded_and_those_gone_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with live(tmp_path, limits={"max_sessions_per_owner": 2}) as here:
        alice, bob = (
            here.service.seen_by(Principal(name, frozenset({"train"}))).sessions
            for name in ("alice", "bob")
        )
        first = await alice.create(**SESSION)
        await alice.create(**SESSION)
        with pytest.raises(BusyError, match="max_sessions_per_owner"):
            await alice.create(**SESSION)
        await bob.create(**SESSION)
        monkeypatch.setattr(sessions_module, "ALIVE_S", 0.0)
        await alice.create(**SESSION)
        await alice.heard(first.session_id)  # forgotten, not gone
