"""Sessions of the Tinker wire afterwards: listing, searching, moving, and a timeline of one."""

from __future__ import annotations

import datetime
from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from eztinker.api.answers import iso_time
from eztinker.api.tinker.endpoint import Call, answer, endpoint, nothing
from eztinker.api.tinker.paths import is_listed
from eztinker.api.tinker.traces import trace_events
from eztinker.errors import InvalidRequestError
from eztinker.models import tinker_sessions as wire
from eztinker.service.sessions import run_prefix
from eztinker.types.records import CheckpointRecord, SessionRecord

_REASON_OF_STATUS = {
    "finished": "success",
    "errored": "errored",
    "interrupted": "interrupted",
}


async def list_sessions(call: Call) -> Response:
    """Ids of sessions, newest first."""
    limit, offset = call.page(20)
    sessions = await call.service.sessions.list()
    page = sessions[offset : offset + limit]
    return answer({"sessions": [session.session_id for session in page]})


async def get_session(call: Call) -> Response:
    """What a session has made."""
    session = await call.service.sessions.get(call.path("session_id"))
    run_ids, sampler_ids = await call.service.sessions.contents(session.session_id)
    fields: dict[str, Any] = {
        "training_run_ids": run_ids,
        "sampler_ids": sampler_ids,
        "user_metadata": session.user_metadata,
    }
    if session.display_name is not None:
        fields["display_name"] = session.display_name
    return answer(fields)


async def move_session(call: Call) -> Response:
    """Put a session into a project."""
    body = await call.body(wire.MoveSession)
    await call.service.sessions.move(call.path("session_id"), body.project_id)
    return nothing()


# Searching ----------------------------------------------------------------------------------------


async def search_sessions(call: Call) -> Response:
    """One page of the sessions that match, newest first."""
    body = await call.body(wire.SearchSessions)
    sessions = [s for s in await call.service.sessions.list() if _matches(s, body, call)]
    if body.cursor is not None:
        sessions = _behind(sessions, body.cursor)
    page = sessions[: body.limit]
    checkpoints = await call.service.checkpoints.list(run_id=None)
    content: dict[str, Any] = {"sessions": [_summary(s, checkpoints, call) for s in page]}
    if len(sessions) > len(page):
        content["next_cursor"] = {
            "last_created_at": iso_time(page[-1].created_at_s),
            "last_session_id": page[-1].session_id,
        }
    return answer(content)


def _matches(session: SessionRecord, body: wire.SearchSessions, call: Call) -> bool:
    owners = {"own": [call.service.principal.owner], "user": body.owner.owner_urns}
    if session.owner not in owners.get(body.owner.type, [session.owner]):
        return False
    if body.project_ids is not None and (session.project_id or "") not in body.project_ids:
        return False
    if any(session.user_metadata.get(key) != said for key, said in body.user_metadata.items()):
        return False
    if body.statuses is not None and not any(_is(session, q, call) for q in body.statuses):
        return False
    return _is_called(session, body)


def _is_called(session: SessionRecord, body: wire.SearchSessions) -> bool:
    """Whether it has the id that is looked for, or all words in its name; either will do."""
    if body.session_id is None and body.display_name is None:
        return True
    name = (session.display_name or "").lower()
    words = (body.display_name or "").lower().split()
    return session.session_id == body.session_id or (
        bool(words) and all(word in name for word in words)
    )


def _is(session: SessionRecord, query: wire.StatusQuery, call: Call) -> bool:
    reason = _REASON_OF_STATUS.get(session.status)
    if query.type == "active":
        return reason is None and call.service.sessions.is_alive(session.session_id)
    # Nothing here cancels a session or lets it fail: only its client ends it.
    return query.type == "client_finished" and reason in (query.reasons or [reason or ""])


def _behind(sessions: list[SessionRecord], cursor: wire.SearchCursor) -> list[SessionRecord]:
    try:
        at_s = datetime.datetime.fromisoformat(cursor.last_created_at).timestamp()
    except ValueError:
        raise InvalidRequestError(
            f"cursor.last_created_at: expected a time as next_cursor has it, got "
            f"{cursor.last_created_at[:100]!r}.",
            field="cursor.last_created_at",
        ) from None
    last = cursor.last_session_id
    place = next((i for i, session in enumerate(sessions) if session.session_id == last), None)
    if place is not None:
        return sessions[place + 1 :]
    return [session for session in sessions if session.created_at_s < at_s]


def _summary(
    session: SessionRecord, checkpoints: list[CheckpointRecord], call: Call
) -> dict[str, Any]:
    prefix = run_prefix(session.session_id)
    own = [c for c in checkpoints if c.run_id.startswith(prefix) and is_listed(c)]
    reason = _REASON_OF_STATUS.get(session.status)
    status: dict[str, Any] | None = None
    if reason is not None:
        status = {"type": "client_finished", "reason": {"type": reason}}
    elif call.service.sessions.is_alive(session.session_id):
        status = {"type": "active"}
    return {
        "session_id": session.session_id,
        "created_at": iso_time(session.created_at_s),
        "owner": session.owner,
        "project_id": session.project_id or "",
        "status": status,
        "checkpoints_count": len(own),
        "checkpoint_storage_bytes": sum(c.size_bytes for c in own),
        "display_name": session.display_name,
        "user_metadata": session.user_metadata,
    }


# Timeline -----------------------------------------------------------------------------------------


async def export_trace(call: Call) -> Response:
    """Where to fetch the timeline of a session; it is made when it is fetched."""
    session = await call.service.sessions.get(call.path("session_id"))
    url = call.address(f"/sessions/{quote(session.session_id)}/trace.json")
    return answer({"status": "ready", "url": url})


async def trace(call: Call) -> Response:
    """The timeline, in the JSON that Perfetto and Chrome's trace viewer read."""
    return answer(trace_events(await call.service.sessions.trace(call.path("session_id"))))


ROUTES = (
    endpoint("GET", "/sessions", list_sessions),
    endpoint("POST", "/sessions/search", search_sessions),
    endpoint("GET", "/sessions/{session_id}", get_session),
    endpoint("PUT", "/sessions/{session_id}/project", move_session),
    endpoint("GET", "/sessions/{session_id}/trace_export", export_trace),
    endpoint("GET", "/sessions/{session_id}/trace.json", trace),
)
