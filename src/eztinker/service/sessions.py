"""Sessions of the Tinker protocol: what one client object has made, by the client's own numbers.

A session is a name for runs and samplers that belong together, and nothing expires with it. Called by
the routes of the Tinker wire.
"""

from __future__ import annotations

import time
import uuid

from eztinker.config import ServerConfig
from eztinker.errors import BusyError
from eztinker.service.bounds import check_metadata
from eztinker.service.view import View
from eztinker.store import jobs as job_rows
from eztinker.store import sessions
from eztinker.store.database import Database
from eztinker.types.principal import LOCAL_OWNER
from eztinker.types.records import JobSpan, SessionRecord

ALIVE_S = 120.0
"""How long after a heartbeat (one comes every ten seconds) a client counts as alive."""


class Sessions(View):
    """Sessions of a server."""

    def __init__(self, config: ServerConfig, database: Database) -> None:
        self._limits = config.limits
        self._database = database
        # A heartbeat comes every ten seconds from every client: it shall not read the disk.
        self._owner_of_seen: dict[str, str] = {}
        self._heard_s: dict[str, float] = {}
        # A client that has just come has not been heard of yet, and counts all the same.
        self._made_s: dict[str, float] = {}

    async def create(
        self,
        *,
        tags: list[str],
        user_metadata: dict[str, str],
        display_name: str | None,
        project_id: str | None,
    ) -> SessionRecord:
        """Begin a session.

        Raises:
            TooLargeError: code ``metadata_too_large``.
            BusyError: code ``too_many_sessions``, the owner's clients are too many at once.
        """
        check_metadata(tags, user_metadata, display_name, project_id, field="user_metadata")
        self._refuse_too_many()
        session = SessionRecord(
            session_id=str(uuid.uuid4()),
            created_at_s=time.time(),
            tags=tags,
            user_metadata=user_metadata,
            display_name=display_name,
            project_id=project_id,
            owner=self.principal.owner,
        )
        await self._database.write(lambda connection: sessions.insert_session(connection, session))
        self._owner_of_seen[session.session_id] = session.owner
        self._made_s[session.session_id] = time.monotonic()
        return session

    def _refuse_too_many(self) -> None:
        """Sessions never end, so those are counted whose clients are there; others are forgotten here."""
        owner = self.principal.owner
        earliest_s = time.monotonic() - ALIVE_S
        last_s = self._made_s | self._heard_s
        for session_id in [known for known, at_s in last_s.items() if at_s <= earliest_s]:
            for notes in (last_s, self._made_s, self._heard_s, self._owner_of_seen):
                notes.pop(session_id, None)
        num_alive = sum(self._owner_of_seen.get(known) == owner for known in last_s)
        if owner != LOCAL_OWNER and num_alive >= self._limits.max_sessions_per_owner:
            raise BusyError(
                f"{owner} has {num_alive} clients with a session of their own "
                "(limits.max_sessions_per_owner). Share one client between programs, or wait until "
                f"others have been gone for {ALIVE_S:.0f} s.",
                code="too_many_sessions",
                retry_after_s=10.0,
            )

    async def get(self, session_id: str) -> SessionRecord:
        """The session.

        Raises:
            NotFoundError: code ``session_not_found``.
        """
        session = await self._database.read(
            lambda connection: sessions.get_session(connection, session_id)
        )
        if not self.principal.sees(session.owner):
            raise sessions.session_not_found(session_id)
        return session

    async def need(self, session_id: str) -> None:
        """Return if there is such a session.

        Raises:
            NotFoundError: code ``session_not_found``.
        """
        owner = self._owner_of_seen.get(session_id)
        if owner is None or not self.principal.sees(owner):
            session = await self.get(session_id)
            self._owner_of_seen[session_id] = session.owner

    async def list(self) -> list[SessionRecord]:
        """All sessions in sight, newest first."""
        return await self._database.read(
            lambda connection: sessions.list_sessions(connection, self.principal.owner_in_sight)
        )

    def is_alive(self, session_id: str) -> bool:
        """Whether its client has been heard of within the last minutes."""
        return time.monotonic() - self._heard_s.get(session_id, -ALIVE_S) < ALIVE_S

    async def heard(self, session_id: str) -> None:
        """A client says that it is there.

        Raises:
            NotFoundError: code ``session_not_found``.
        """
        await self.need(session_id)
        self._heard_s[session_id] = time.monotonic()

    async def trace(self, session_id: str) -> list[JobSpan]:
        """When the jobs of a session's runs and samplers came, started and ended, oldest first.

        Raises:
            NotFoundError: code ``session_not_found``.
        """
        await self.get(session_id)
        run_ids, sampler_ids = await self.contents(session_id)
        return await self._database.read(
            lambda connection: job_rows.list_spans(connection, run_ids, sampler_ids)
        )

    async def finish(self, session_id: str, status: str) -> None:
        """Note how a client says its session ended; its runs and samplers stay.

        Raises:
            NotFoundError: code ``session_not_found``.
        """
        await self.need(session_id)
        await self._database.write(
            lambda connection: sessions.update_session(connection, session_id, status=status)
        )

    async def move(self, session_id: str, project_id: str | None) -> None:
        """Note the project that a session belongs to.

        Raises:
            NotFoundError: code ``session_not_found``.
        """
        check_metadata(project_id, field="project_id")
        await self.need(session_id)
        await self._database.write(
            lambda connection: sessions.update_session(
                connection, session_id, project_id=project_id
            )
        )

    async def contents(self, session_id: str) -> tuple[list[str], list[str]]:
        """Ids of a session's runs and of its samplers, oldest first.

        Raises:
            NotFoundError: code ``session_not_found``.
        """
        await self.need(session_id)
        return await self._database.read(
            lambda connection: (
                sessions.list_run_ids(connection, run_prefix(session_id)),
                sessions.list_sampler_ids(connection, session_id),
            )
        )


def run_prefix(session_id: str) -> str:
    """How the ids of a session's runs begin."""
    return f"{session_id}:train:"


def run_id_of(session_id: str, model_seq_id: int) -> str:
    """Id of a session's run; the client puts the same text together."""
    return f"{run_prefix(session_id)}{model_seq_id}"


def sampler_id_of(session_id: str, sampling_session_seq_id: int) -> str:
    """Id of a session's sampler."""
    return f"{session_id}:sample:{sampling_session_seq_id}"
