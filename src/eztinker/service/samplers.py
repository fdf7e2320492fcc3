"""Samplers of the Tinker protocol: weights under a name of their own, fixed when it is made.

A sampler stands for a base model, for one checkpoint, or for whatever its run published last: such samplers of one
run move together. What a sample is drawn with is settled when it is accepted, so it is logged and survives like any
other. Called by the routes of the Tinker wire.
"""

from __future__ import annotations

import time

from eztinker.errors import NotFoundError
from eztinker.service.sessions import sampler_id_of
from eztinker.service.view import View
from eztinker.store import checkpoints, sessions
from eztinker.store.database import Database
from eztinker.types.records import SamplerRecord
from eztinker.types.sampling import WeightsRef

PUBLISHED = "ephemeral:inflight-"
"""How names of publications begin; as a sampler's checkpoint, the newest of them."""


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

    async def weights(self, sampler: SamplerRecord) -> WeightsRef:
        """What a sample of it that is accepted now is drawn with.

        Raises:
            NotFoundError: code ``checkpoint_not_found``, nothing is published (any more).
        """
        run_id, name = sampler.run_id, sampler.checkpoint
        if run_id is not None and name == PUBLISHED:
            name = await self._database.read(
                lambda connection: checkpoints.newest_named(connection, run_id, PUBLISHED)
            )
            if name is None:
                raise NotFoundError(
                    f"{run_id} has no inflight weights: none were saved yet, or their time is over. Call "
                    "save_weights_and_get_sampling_client again.",
                    code="checkpoint_not_found",
                    field="sampling_session_id",
                )
        return WeightsRef(sampler.base_model, run_id, name)

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
