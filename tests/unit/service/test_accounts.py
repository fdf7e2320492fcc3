"""Keys: made, shown once, checked, expired, taken back; and who needs none."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from eztinker.config import ServerConfig
from eztinker.errors import AuthError, ConflictError, InvalidRequestError, NotFoundError, UserError
from eztinker.service import accounts as module
from eztinker.service.accounts import Accounts, AccountsFile, is_loopback
from eztinker.service.service import Service
from eztinker.service.view import View
from eztinker.store.database import Database
from eztinker.types.principal import LOCAL, NOBODY
from tests.unit.engine.fake_worker import World


async def test_a_key_is_known_again_after_a_restart_and_stored_nowhere(tmp_path: Path) -> None:
    async with AccountsFile(tmp_path) as accounts:
        record, key = await accounts.create("laptop", owner="alice", scopes=["sample"])
        assert key.startswith(f"tml-{record.key_id}")
        assert len(key) > 40
    assert all(
        key.encode() not in file.read_bytes() for file in tmp_path.iterdir() if file.is_file()
    )
    async with AccountsFile(tmp_path) as accounts:
        principal = accounts.principal(key)
        assert (principal.owner, principal.key_id) == ("alice", record.key_id)
        assert principal.scopes == {"read", "sample"}
        assert not principal.may(("train",))


async def test_wrong_revoked_and_expired_keys_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AccountsFile(tmp_path) as accounts:
        record, key = await accounts.create("a", expires_in_s=60)
        other, _ = await accounts.create("b")
        for wrong in (key[:-1], key + "x", f"tml-{other.key_id}{key[12:]}", "", "tml-", "é" * 9):
            with pytest.raises(AuthError):
                accounts.principal(wrong)
        assert accounts.principal(None) == NOBODY
        now_s = module.time.time()
        monkeypatch.setattr(module.time, "time", lambda: now_s + 61)
        with pytest.raises(AuthError, match="expired"):
            accounts.principal(key)
        monkeypatch.undo()
        assert accounts.principal(key).owner == "a"
        await accounts.revoke(record.key_id)
        with pytest.raises(AuthError):
            accounts.principal(key)
        with pytest.raises(NotFoundError):
            await accounts.revoke("nothere1")


async def test_every_key_is_compared_in_constant_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []
    real = module.hmac.compare_digest

    def note(one: str, other: str) -> bool:
        compared.append(len(one))
        return real(one, other)

    monkeypatch.setattr(module.hmac, "compare_digest", note)
    async with AccountsFile(tmp_path) as accounts:
        _, key = await accounts.create("a")
        for shown in (key, key[:-1] + "~", "tml-00000000unknown", "x"):
            compared.clear()
            with contextlib.suppress(AuthError):
                accounts.principal(shown)
            assert compared == [64, 64], "digests of one length, as many for every key"


async def test_what_cannot_be_a_key_is_refused_by_its_field(tmp_path: Path) -> None:
    async with AccountsFile(tmp_path) as accounts:
        for field, wrong in (
            ("name", {"name": "../x"}),
            ("owner", {"name": "x", "owner": "a b"}),
            ("scopes", {"name": "x", "scopes": ["root"]}),
            ("scopes", {"name": "x", "scopes": []}),
            ("expires_in_s", {"name": "x", "expires_in_s": 0}),
            ("expires_in_s", {"name": "x", "expires_in_s": float("nan")}),
        ):
            with pytest.raises(InvalidRequestError) as refusal:
                await accounts.create(**wrong)
            assert refusal.value.field == field
        await accounts.create("x", idempotency_key="again")
        with pytest.raises(ConflictError):
            await accounts.create("x", idempotency_key="again")
        assert len(accounts.list()) == 1


@pytest.mark.parametrize(
    ("host", "private"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("192.168.1.5", False), ("gpu-box", False)],
)  # fmt: skip
async def test_other_machines_need_a_key_or_the_word_insecure(
    host: str, private: bool, tmp_path: Path
) -> None:
    assert is_loopback(host) == private

    async def load(**settings: object) -> Accounts:
        config = ServerConfig.model_validate({"state_dir": tmp_path, "host": host, **settings})
        database = Database(tmp_path)
        database.open()
        try:
            accounts = Accounts(config, database)
            await accounts.load()
            return accounts
        finally:
            database.close()

    if private:
        assert (await load()).principal("tml-anything") == LOCAL
        assert (await load()).warnings == []
        return
    with pytest.raises(UserError, match="--insecure"):
        await load()
    open_to_all = await load(insecure=True)
    assert open_to_all.principal(None) == LOCAL
    assert "--insecure" in open_to_all.warnings[0]
    async with AccountsFile(tmp_path) as accounts:
        _, key = await accounts.create("alice")
    closed = await load()
    assert closed.principal(key).owner == "alice"
    assert closed.principal(None) == NOBODY


async def test_taking_the_last_key_back_opens_nothing_to_others(tmp_path: Path) -> None:
    config = ServerConfig.model_validate(
        {"state_dir": tmp_path, "host": "0.0.0.0", "insecure": False}
    )
    async with AccountsFile(tmp_path) as first:
        made, _ = await first.create("alice")
    database = Database(tmp_path)
    database.open()
    accounts = Accounts(config, database)
    await accounts.load()
    await accounts.revoke(made.key_id)
    assert accounts.principal(None) == NOBODY
    with pytest.raises(AuthError):
        accounts.principal("tml-anything")
    assert accounts.principal(accounts.local_key) == LOCAL
    database.close()


def test_every_resource_of_the_service_is_seen_by_someone(tmp_path: Path) -> None:
    """A resource that is no View would show everything to everyone."""
    service = Service(ServerConfig.model_validate({"state_dir": tmp_path}), World().make_executor)
    public = {name: value for name, value in vars(service).items() if not name.startswith("_")}
    assert {name for name, value in public.items() if not isinstance(value, View)} == {
        "config",
        "accounts",
    }
