"""Adapters from outside: one that arrived as a folder becomes a checkpoint, and a run that begins with it.

The checkpoint is written and recorded first, as ours; the run's creation is then logged like any other, so from
there on nothing depends on what arrived. Called by ``routes/imports.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

from eztinker.config import ServerConfig
from eztinker.engine.checkpoint_folders import checkpoint_folder
from eztinker.engine.run_manager import RunManager
from eztinker.errors import NotFoundError
from eztinker.ids import check_name, new_run_id
from eztinker.service import admission
from eztinker.service.base_models import BaseModels
from eztinker.service.checkpoints import Checkpoints
from eztinker.service.quantized_names import quantization_for
from eztinker.service.runs import Runs
from eztinker.service.view import View
from eztinker.store import blobs, checkpoints
from eztinker.store.database import Database
from eztinker.types.events import AdapterImported
from eztinker.types.operations import CreateRun
from eztinker.types.principal import Principal
from eztinker.types.records import CheckpointRecord, RunRecord
from eztinker.types.training import LossSpec, Quantization

NAME = "imported"
"""Of the checkpoint that an import leaves."""


class Imports(View):
    """Imports of a server."""

    def __init__(
        self,
        config: ServerConfig,
        database: Database,
        engine: RunManager,
        base_models: BaseModels,
        runs: Runs,
        checkpoints: Checkpoints,
    ) -> None:
        self._config = config
        self._database = database
        self._engine = engine
        self._base_models = base_models
        self._runs = runs
        self._checkpoints = checkpoints

    def seen_by(self, principal: Principal) -> Self:
        """As in ``View``, with everything it asks on the principal's behalf."""
        view = super().seen_by(principal)
        view._base_models = self._base_models.seen_by(principal)
        view._runs = self._runs.seen_by(principal)
        view._checkpoints = self._checkpoints.seen_by(principal)
        return view

    @contextlib.asynccontextmanager
    async def inbox(self) -> AsyncIterator[Path]:
        """An empty folder for what arrives; it goes with the block."""
        folder = await asyncio.to_thread(blobs.new_folder, self._config.checkpoints_path.absolute())
        try:
            yield folder
        finally:
            await asyncio.to_thread(blobs.discard, folder)

    async def create(
        self,
        folder: Path,
        *,
        base_model: str,
        run_id: str | None,
        quantization: Quantization,
        idempotency_key: str | None = None,
        request_digest: str = "",
    ) -> RunRecord:
        """Make a run of the adapter in ``folder`` and return it when it is ready.

        Args:
            folder: in PEFT's layout; it may be discarded afterwards.
            base_model: to run it on.
            run_id: a name of the caller's choice; None lets the server choose.

        Raises:
            AlreadyExistsError: ``run_id`` is taken.
            UserError: the adapter is no plain LoRA, is damaged, or belongs to another model; nothing was
                made.
        """
        if run_id is not None:
            check_name(run_id, field="run_id")
            known = await self._known(run_id)
            if known is not None:
                return await self._begin(known.run_id, known, idempotency_key, request_digest)
        wanted = run_id or new_run_id()
        base = await self._base_models.resolve(base_model)
        quantization = quantization_for(base, quantization)
        checkpoint = await self._write(folder, wanted, base.bare_name, quantization)
        try:
            run = await self._begin(wanted, checkpoint, idempotency_key, request_digest)
        except BaseException:
            await self._checkpoints.delete(wanted, NAME)
            raise
        if run.run_id != wanted:  # an earlier copy of this request had made its run
            await self._checkpoints.delete(wanted, NAME)
        return run

    async def _known(self, run_id: str) -> RunRecord | None:
        try:
            return await self._runs.get(run_id)
        except NotFoundError:
            return None

    async def _begin(
        self,
        run_id: str,
        source: CheckpointRecord | RunRecord,
        idempotency_key: str | None,
        request_digest: str,
    ) -> RunRecord:
        operation = CreateRun(
            source.base_model,
            source.lora,
            seed=0,
            quantization=source.quantization,
            source_run_id=run_id,
            source_name=NAME,
        )
        return await self._runs.create_from(
            operation,
            run_id=run_id,
            loss=LossSpec(),
            idempotency_key=idempotency_key,
            request_digest=request_digest,
        )

    async def _write(
        self, folder: Path, run_id: str, base_model: str, quantization: Quantization
    ) -> CheckpointRecord:
        """The adapter as a checkpoint of a run that does not exist yet."""
        target = checkpoint_folder(self._config, run_id, NAME)
        draft = await asyncio.to_thread(blobs.new_folder, target.parent)
        try:
            imported = await self._engine.import_adapter(
                folder, draft, run_id=run_id, base_model=base_model, quantization=quantization
            )
            admission.check_lora(imported.lora, self._config.limits)
            size_bytes = await asyncio.to_thread(
                blobs.publish,
                draft,
                target,
                files=imported.files,
                facts=_facts(run_id, quantization),
            )
        except BaseException:
            await asyncio.to_thread(blobs.discard, draft)
            raise
        record = self._record(run_id, base_model, quantization, imported, target, size_bytes)
        # One of this name is left over from an import that was cut short: there is no such run.
        await self._database.write(
            lambda connection: checkpoints.put_checkpoint(connection, record, overwrite=True)
        )
        return record

    def _record(
        self,
        run_id: str,
        base_model: str,
        quantization: Quantization,
        imported: AdapterImported,
        folder: Path,
        size_bytes: int,
    ) -> CheckpointRecord:
        return CheckpointRecord(
            run_id=run_id,
            name=NAME,
            base_model=base_model,
            lora=imported.lora,
            created_at_s=time.time(),
            size_bytes=size_bytes,
            is_sampler=True,
            step=0,
            folder=str(folder),
            owner=self.principal.owner,
            quantization=quantization,
        )


def _facts(run_id: str, quantization: Quantization) -> dict[str, object]:
    return {
        "run_id": run_id,
        "name": NAME,
        "step": 0,
        "with_optimizer": False,
        "quantization": quantization,
    }
