"""Bodies of the Tinker wire about sessions afterwards: searching and moving them.

Read by ``api/routes/tinker/history.py``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from eztinker.models.tinker import Described, Text, TinkerModel


class SearchOwner(Described):
    """Whose sessions: the caller's own, all that it may see, or those of named owners."""

    type: Literal["own", "accessible", "user"] = "own"
    owner_urns: list[str] = Field(default_factory=list)


class StatusQuery(Described):
    """One of the states to look for."""

    type: Literal["active", "cancelled", "failed", "client_finished"]
    reasons: list[Literal["success", "errored", "interrupted"]] | None = None


class SearchCursor(TinkerModel):
    """Where the next page begins: behind this session."""

    last_created_at: Text
    last_session_id: Text


class SearchSessions(TinkerModel):
    """``sessions/search``."""

    session_id: Text | None = None
    project_ids: list[str] | None = None
    user_metadata: dict[str, str] = Field(default_factory=dict)
    display_name: Text | None = None
    owner: SearchOwner = SearchOwner()
    statuses: list[StatusQuery] | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: SearchCursor | None = None


class MoveSession(TinkerModel):
    """``sessions/{id}/project``."""

    project_id: str | None = None
