"""``eztinker keys`` on a state folder, and with a server; the server itself is faked elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eztinker.local_access import LocalAccess
from eztinker.store.database import Database
from tests.unit.cli.conftest import Run


def listed(run: Run, folder: Path) -> list[dict]:
    return json.loads(run("keys", "list", "--state-dir", str(folder), "--json").stdout)["keys"]


def test_keys_of_a_folder_that_no_server_uses(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert listed(run, folder) == []
    assert not folder.exists(), "looking makes no folder"
    made = run(
        "keys",
        "create",
        "laptop",
        "--scope",
        "sample",
        "--expires",
        "30d",
        "--state-dir",
        str(folder),
    )
    assert made.code == 0
    assert made.stdout.startswith("tml-")
    assert made.stdout.count("\n") == 1
    assert made.stdout.strip() not in made.stderr
    key = listed(run, folder)[0]
    assert (key["name"], key["owner"], key["scopes"]) == ("laptop", "laptop", ["sample"])
    assert key["expires_at"] > key["created_at"]
    assert made.stdout.strip() not in json.dumps(key)
    assert run("keys", "revoke", key["key_id"], "--state-dir", str(folder)).code == 0
    assert listed(run, folder)[0]["revoked_at"]
    assert run("keys", "revoke", "nothere1", "--state-dir", str(folder)).code == 4


@pytest.mark.parametrize(
    "wrong", [("--expires", "soon"), ("--scope", "root"), ("--owner", "a/b"), ("--expires", "-1d")]
)
def test_wrong_wishes_make_no_key(run: Run, tmp_path: Path, wrong: tuple[str, str]) -> None:
    outcome = run("keys", "create", "x", f"{wrong[0]}={wrong[1]}", "--state-dir", str(tmp_path))
    assert outcome.code == 2
    assert "Traceback" not in outcome.stderr
    assert listed(run, tmp_path) == []


def test_a_folder_in_use_without_an_address_says_so(run: Run, tmp_path: Path) -> None:
    database = Database(tmp_path)
    database.open()
    outcome = run("keys", "create", "x", "--state-dir", str(tmp_path))
    database.close()
    assert outcome.code == 2
    assert "Another EZTinker server uses the state folder" in outcome.stderr


def test_local_access_is_for_its_user_alone(tmp_path: Path) -> None:
    assert LocalAccess.read(tmp_path) is None
    access = LocalAccess("http://127.0.0.1:1", "tml-x")
    access.write(tmp_path)
    assert (tmp_path / "server.json").stat().st_mode & 0o777 == 0o600
    assert LocalAccess.read(tmp_path) == access
    (tmp_path / "server.json").write_text("[]")
    assert LocalAccess.read(tmp_path) is None
    LocalAccess.remove(tmp_path)
    LocalAccess.remove(tmp_path)
