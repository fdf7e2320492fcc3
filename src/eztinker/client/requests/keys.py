"""What the client asks about the keys of a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from eztinker.client import answers
from eztinker.client.answers import Json
from eztinker.client.request import Request, post, segment


def create_key(
    name: str,
    *,
    scopes: Sequence[Literal["read", "sample", "train", "admin"]] | None = None,
    owner: str | None = None,
    expires_in_s: float | None = None,
) -> Request[Json]:
    """Make a key; the answer holds it under ``key``, this once. Needs the scope ``admin``.

    Args:
        name: what the key is for.
        scopes: what it allows; None takes ``train`` and ``sample``.
        owner: whose things it reaches; None takes ``name``.
        expires_in_s: how long it works; None for ever.
    """
    wanted = None if scopes is None else list(scopes)
    body = {"name": name, "scopes": wanted, "owner": owner, "expires_in_s": expires_in_s}
    return post("/v1/keys", body, answers.same)


def get_keys() -> Request[list[Json]]:
    """All keys without the keys themselves, revoked ones included. Needs the scope ``admin``."""
    return Request("GET", "/v1/keys", answers.rows("keys"))


def revoke_key(key_id: str) -> Request[Json]:
    """Take a key back. Needs the scope ``admin``."""
    return Request("DELETE", f"/v1/keys/{segment(key_id, 'key_id')}", answers.same)
