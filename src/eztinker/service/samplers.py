"""Samplers of the Tinker protocol: weights under a name of their own, fixed when it is made.

A sampler stands for a base model or for one checkpoint, never for a run's moving weights. Called by
the routes of the Tinker wire.
"""

from __future__ import annotations

import time

from eztinker.service.sessions import sampler_id_of
from eztinker.service.view import View
from eztinker.store import sessions
from eztinker.store.database import Database
from eztinker.types.records import SamplerRecord
from eztinker.types.sampling import WeightsRef


class Samplers(View):
    """Samplers of a server."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # What a sampler stands for never changes, and every sampling request asks for it.
        self._known: dict[str, SamplerRecord] = {}

    async def create(self, session_id: str, seq_id: int, weights: WeightsRef) -> SamplerRecord:
        """Make the sampler number ``seq_id`` of a session, or find it made.

        Raises:
            ConflictError: it was made with other weights.
        """
        sampler = SamplerRecord(
            sampler_id=sampler_id_of(session_id, seq_id),
            session_id=session_id,
            base_model=weights.base_model,
            created_at_s=time.time(),
            run_id=weights.run_id,
            checkpoint=weights.checkpoint,
            owner=self.principal.owner,
        )
        await self._database.write(lambda connection: sessions.put_sampler(connection, sampler))
        return sampler

    async def join(self, sampler_id: str) -> int:
        """A number from 1 for one more client of a sampler, given out once; its first client is 0.

        Raises:
            NotFoundError: code ``sampler_not_found``.
        """
        await self.get(sampler_id)
        return await self._database.write(
            lambda connection: sessions.count_client(connection, sampler_id)
        )

    async def get(self, sampler_id: str) -> SamplerRecord:
        """The sampler.

        Raises:
            NotFoundError: code ``sampler_not_found``.
        """
        if sampler_id not in self._known:
            self._known[sampler_id] = await self._database.read(
                lambda connection: sessions.get_sampler(connection, sampler_id)
            )
        sampler = self._known[sampler_id]
        if not self.principal.sees(sampler.owner):
            raise sessions.sampler_not_found(sampler_id)
        return sampler
