"""Who asks: an owner, and what that one may do.

Everything that a request makes belongs to the owner of its principal. Knows no keys and no wire. Made
by ``service/accounts.py``, handed down by the API, looked at by every resource of the service.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Scope = Literal["read", "sample", "train", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
LOCAL_OWNER = "local"
"""Owner of everything on a server without keys."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The one on whose behalf a request is answered.

    Attributes:
        owner: whose things it makes and sees.
        scopes: what it may do. Every key may read what is its owner's; ``admin`` may do everything
            and sees the things of all owners.
        key_id: the key that it showed; None without one.
    """

    owner: str
    scopes: frozenset[str]
    key_id: str | None = None

    @property
    def sees_all(self) -> bool:
        """Whether the things of all owners are in its sight."""
        return "admin" in self.scopes

    @property
    def owner_in_sight(self) -> str | None:
        """The only owner whose things it sees; None for all."""
        return None if self.sees_all else self.owner

    def sees(self, owner: str) -> bool:
        """Whether a thing of ``owner`` exists for it."""
        return self.sees_all or owner == self.owner

    def may(self, scopes: tuple[Scope, ...]) -> bool:
        """Whether it has one of ``scopes``."""
        return self.sees_all or not self.scopes.isdisjoint(scopes)


LOCAL = Principal(LOCAL_OWNER, frozenset(SCOPES))
"""Whoever asks a server without keys; and the server itself."""
NOBODY = Principal("", frozenset())
"""Someone without a key where one is needed: sees nothing."""
