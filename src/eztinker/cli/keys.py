"""``keys create | list | revoke``: who may use a server.

Works on a state folder whether a server uses it or not. A running server is the only writer of its
database, so it is asked over HTTP, with the key it left in its folder; with ``--base-url``, any server is
asked, with an ``admin`` key.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eztinker.cli.options import ApiKey, AsJson, BaseUrl, connect
from eztinker.cli.output import note, print_json, print_table, print_text
from eztinker.cli.texts import say
from eztinker.errors import ConflictError, InvalidRequestError

if TYPE_CHECKING:
    from eztinker.types.records import KeyRecord

app = typer.Typer(no_args_is_help=True)

StateDir = Annotated[Path | None, typer.Option("--state-dir", help=say("keys state-dir"))]
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@app.command(help=say("keys create"))
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help=say("keys name"))],
    scope: Annotated[
        list[str],
        typer.Option("--scope", help=say("keys scope")),
    ] = ["train", "sample"],  # noqa: B006 - typer copies it
    owner: Annotated[str | None, typer.Option("--owner", help=say("keys owner"))] = None,
    expires: Annotated[str | None, typer.Option("--expires", help=say("keys expires"))] = None,
    state_dir: StateDir = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print the new key on stdout, so that ``KEY=$(eztinker keys create laptop)`` works."""
    wanted = {"scopes": list(scope), "owner": owner, "expires_in_s": _seconds(expires)}
    made = _ask(state_dir, base_url, api_key, lambda keys: keys.create(name, **wanted))
    note(
        say(
            "key created",
            key_id=made["key_id"],
            owner=made["owner"],
            scopes=", ".join(made["scopes"]),
        )
    )
    if as_json:
        print_json(made)
    else:
        print_text(made["key"])


@app.command("list", help=say("keys list"))
def list_keys(
    state_dir: StateDir = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print a table, oldest first; the keys themselves are not known to anyone."""
    keys = _ask(state_dir, base_url, api_key, lambda asked: asked.list())
    if as_json:
        print_json({"keys": keys})
    elif keys:
        columns = ("Key ID", "Name", "Owner", "Scopes", "Created", "Expires", "Revoked")
        names = ("key_id", "name", "owner", "scopes", "created_at", "expires_at", "revoked_at")
        print_table(columns, [[_cell(key[name]) for name in names] for key in keys])
    else:
        note(say("no keys"))


def _cell(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else value or "-"


@app.command(help=say("keys revoke"))
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", show_default=False)],
    state_dir: StateDir = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Take a key back."""
    _ask(state_dir, base_url, api_key, lambda keys: keys.revoke(key_id))
    note(say("key revoked", key_id=key_id))


def _seconds(text: str | None) -> float | None:
    """``30d``, ``12h``, ``90m``, ``45s`` as seconds."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if match is None:
        raise InvalidRequestError(
            f"--expires: expected a number with s, m, h or d, such as 30d, got {text!r}.",
            field="expires",
        )
    return float(match[1]) * _SECONDS[match[2]]


# Whom to ask --------------------------------------------------------------------------------------


def _ask(state_dir: Path | None, base_url: str | None, api_key: str | None, what: Any) -> Any:
    """The answer of the server named, of the one that uses the state folder, or of the folder itself."""
    if base_url is not None:
        with connect(base_url, api_key) as client:
            return what(_Served(client))
    from eztinker.config import load_config
    from eztinker.local_access import LocalAccess

    folder = state_dir or load_config().state_dir
    try:
        return what(_Stored(folder))
    except ConflictError as error:
        access = LocalAccess.read(folder)
        if error.code != "state_in_use" or access is None:
            raise
    with connect(access.base_url, access.api_key) as client:
        return what(_Served(client))


class _Served:
    """Keys of a running server."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def create(self, name: str, **wanted: Any) -> dict[str, Any]:
        return self._client.create_key(name, **wanted)

    def list(self) -> list[dict[str, Any]]:
        return self._client.get_keys()

    def revoke(self, key_id: str) -> None:
        self._client.revoke_key(key_id)


class _Stored:
    """Keys in a state folder that no server uses."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self, name: str, **wanted: Any) -> dict[str, Any]:
        record, key = self._run(lambda accounts: accounts.create(name, **wanted))
        return {**_shown(record), "key": key}

    def list(self) -> list[dict[str, Any]]:
        if not self._folder.is_dir():
            return []  # looking must not make a state folder

        async def listed(accounts: Any) -> list[KeyRecord]:
            return accounts.list()

        return [_shown(record) for record in self._run(listed)]

    def revoke(self, key_id: str) -> None:
        self._run(lambda accounts: accounts.revoke(key_id))

    def _run(self, what: Any) -> Any:
        import asyncio

        from eztinker.service.accounts import AccountsFile

        async def run() -> Any:
            async with AccountsFile(self._folder) as accounts:
                return await what(accounts)

        return asyncio.run(run())


def _shown(record: KeyRecord) -> dict[str, Any]:
    from eztinker.api.answers import key_fields

    return key_fields(record)
