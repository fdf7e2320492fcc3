"""Checkpoints: finding, publishing, deleting them, at once or when their time is over.

Saving and loading are jobs. Called by the routes; ``service.py`` calls ``sweep``.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa

from eztinker import steady_clock
from eztinker.config import ServerConfig
from eztinker.errors import AlreadyExistsError
from eztinker.service import retention
from eztinker.service.retention import Doomed, Policy
from eztinker.service.view import View
from eztinker.store import blobs, checkpoints
from eztinker.store.database import Database
from eztinker.types.records import CheckpointRecord

log = logging.getLogger(__name__)


class Checkpoints(View):
    """Checkpoints of a server.

    Attributes:
        warnings: budgets that are exceeded although all that may go has gone; as of the last sweep.
    """

    def __init__(self, config: ServerConfig, database: Database) -> None:
        self._limits = config.limits
        self._folder = config.checkpoints_path.absolute()
        self._database = database
        self.warnings: list[str] = []

    async def list(self, *, run_id: str | None) -> list[CheckpointRecord]:
        """Checkpoints in sight of one run, or of all; oldest first."""
        return [self._shown(checkpoint) for checkpoint in await self._list(run_id)]

    async def _list(self, run_id: str | None) -> list[CheckpointRecord]:
        owner = self.principal.owner_in_sight
        return await self._database.read(
            lambda connection: checkpoints.list_checkpoints(connection, run_id, owner)
        )

    async def get(self, run_id: str, name: str) -> CheckpointRecord:
        """The checkpoint: one's own, or one that its owner has published.

        Raises:
            NotFoundError: code ``checkpoint_not_found``.
        """
        return self._shown(await self._get(run_id, name))

    def _shown(self, checkpoint: CheckpointRecord) -> CheckpointRecord:
        """Tenants do not learn where on this machine their files lie."""
        if self.principal.sees_all:
            return checkpoint
        return replace(checkpoint, folder=f"{checkpoint.run_id}/{checkpoint.name}")

    async def _get(self, run_id: str, name: str) -> CheckpointRecord:
        owner = self.principal.owner_in_sight
        return await self._database.read(
            lambda connection: checkpoints.get_checkpoint(
                connection, run_id, name, owner=owner, public_too=True
            )
        )

    async def delete(self, run_id: str, name: str) -> None:
        """Forget a checkpoint, then remove its files.

        Raises:
            NotFoundError: code ``checkpoint_not_found``.
        """
        owner = self.principal.owner_in_sight
        deleted = await self._database.write(
            lambda connection: checkpoints.delete_checkpoint(connection, run_id, name, owner),
            may_use_reserve=True,
        )
        await asyncio.to_thread(blobs.discard, Path(deleted.folder))

    async def files(self, run_id: str, name: str) -> list[Path]:
        """A checkpoint's files, after their checksums were compared.

        Raises:
            NotFoundError: code ``checkpoint_not_found``.
            StorageError: a file is missing or damaged.
        """
        folder = Path((await self._get(run_id, name)).folder)
        manifest = await asyncio.to_thread(blobs.verify, folder)
        return [folder / file for file in sorted(manifest["files"])]

    async def contents(self, run_id: str, name: str) -> dict[str, Path]:
        """Every file of a checkpoint by name, its manifest (``eztinker.json``) included; verified as in ``files``."""
        found = await self.files(run_id, name)
        return {path.name: path for path in [*found, found[0].parent / blobs.MANIFEST]}

    async def copy(
        self, run_id: str, name: str, *, target_run_id: str, ttl_s: int | None
    ) -> CheckpointRecord:
        """Copy a checkpoint, under its own name, to a run that need not exist.

        Raises:
            NotFoundError: code ``checkpoint_not_found``.
            AlreadyExistsError: the target has another checkpoint of this name.
        """
        source = await self._get(run_id, name)
        target = self._folder / target_run_id / name
        known = await self._find(target_run_id, name)
        if known is not None:
            await asyncio.to_thread(_refuse_other, Path(source.folder), known)
            return known
        size_bytes = await asyncio.to_thread(
            _copy_files, Path(source.folder), target, target_run_id
        )
        now_s = steady_clock.now_s()
        copied = replace(
            source,
            run_id=target_run_id,
            created_at_s=now_s,
            size_bytes=size_bytes,
            folder=str(target),
            expires_at_s=None if ttl_s is None else now_s + ttl_s,
            is_public=False,
            owner=self.principal.owner,
        )
        await self._database.write(
            lambda connection: checkpoints.put_checkpoint(connection, copied, overwrite=False)
        )
        return copied

    async def _find(self, run_id: str, name: str) -> CheckpointRecord | None:
        held = await self._list(run_id)
        return next((entry for entry in held if entry.name == name), None)

    async def set_ttl(self, run_id: str, name: str, ttl_s: int | None) -> None:
        """Have a checkpoint deleted ``ttl_s`` seconds from now, or never.

        Raises:
            NotFoundError: code ``checkpoint_not_found``.
        """
        expires_at_s = None if ttl_s is None else steady_clock.now_s() + ttl_s
        owner = self.principal.owner_in_sight
        await self._database.write(
            lambda connection: checkpoints.set_expiry(connection, run_id, name, expires_at_s, owner)
        )

    async def set_public(self, run_id: str, name: str, is_public: bool) -> None:
        """Mark a checkpoint as published, or take that back.

        Raises:
            NotFoundError: code ``checkpoint_not_found``.
        """
        owner = self.principal.owner_in_sight
        await self._database.write(
            lambda connection: checkpoints.set_public(connection, run_id, name, is_public, owner)
        )

    async def keep(
        self, run_id: str, name: str, *, is_pinned: bool | None, score: float | None
    ) -> CheckpointRecord:
        """Pin or unpin a checkpoint, give it a score; None leaves as it is.

        Raises:
            NotFoundError: code ``checkpoint_not_found``.
        """
        owner = self.principal.owner_in_sight
        kept = await self._database.write(
            lambda connection: checkpoints.set_keeping(
                connection, run_id, name, is_pinned=is_pinned, score=score, owner=owner
            )
        )
        return self._shown(kept)

    async def prune(
        self,
        *,
        run_id: str | None = None,
        keep_last: int | None = None,
        keep_best: int | None = None,
        is_dry: bool = False,
    ) -> list[Doomed]:
        """Delete by rules and budgets what may go; with ``is_dry`` only say what would go.

        Args:
            run_id: of this run only; None: of all in sight.
            keep_last, keep_best: instead of the settings' rules; None takes those.
        """
        policy = self._policy(keep_last, keep_best, budgets=self.principal.sees_all)
        if policy.is_empty:
            return []
        if is_dry:
            return await self._database.read(
                lambda connection: self._plan(connection, policy, run_id)
            )

        def delete(connection: sa.Connection) -> list[Doomed]:
            doomed = self._plan(connection, policy, run_id)
            for entry in doomed:
                gone = entry.checkpoint
                checkpoints.delete_checkpoint(connection, gone.run_id, gone.name)
            return doomed

        doomed = await self._database.write(delete, may_use_reserve=True)
        for entry in doomed:
            await asyncio.to_thread(blobs.discard, Path(entry.checkpoint.folder))
        return doomed

    async def _note_excess(self) -> None:
        """Say by how much budgets are exceeded although all that may go has gone."""
        policy = self._policy(None, None, budgets=True)
        if not (policy.max_run_bytes or policy.max_bytes):
            return
        held, snapshot_bytes = await self._database.read(
            lambda connection: (
                checkpoints.list_checkpoints(connection, None, None),
                checkpoints.sum_snapshot_bytes(connection),
            )
        )
        excess = retention.excess_bytes(held, policy, snapshot_bytes)
        found = [_excess_warning(*entry) for entry in excess.items()]
        for warning in found:
            if not self.warnings:  # once, until it has been mended
                log.warning(warning)
        self.warnings[:] = found

    def _policy(self, keep_last: int | None, keep_best: int | None, *, budgets: bool) -> Policy:
        limits = self._limits
        return Policy(
            keep_last=limits.keep_last_checkpoints if keep_last is None else keep_last,
            keep_best=limits.keep_best_checkpoints if keep_best is None else keep_best,
            max_run_bytes=limits.max_run_storage_bytes,
            max_bytes=limits.max_storage_bytes if budgets else 0,
        )

    def _plan(self, connection: sa.Connection, policy: Policy, run_id: str | None) -> list[Doomed]:
        """What goes of all in sight; of one run, what of that goes."""
        doomed = retention.plan(
            checkpoints.list_checkpoints(connection, None, self.principal.owner_in_sight),
            policy,
            in_use=checkpoints.list_in_use(connection),
            snapshot_bytes=checkpoints.sum_snapshot_bytes(connection),
        )
        return [entry for entry in doomed if run_id in (None, entry.checkpoint.run_id)]

    async def sweep(self) -> None:
        """Delete what has expired, and what rules and budgets of the settings say."""
        for entry in await self.prune():
            gone = entry.checkpoint
            log.info("Checkpoint %s of %s was deleted: %s.", gone.name, gone.run_id, entry.reason)
        await self._note_excess()
        now_s = steady_clock.now_s()
        if not await self._database.read(
            lambda connection: checkpoints.list_expired(connection, now_s)
        ):
            return

        def delete(connection: sa.Connection) -> list[str]:
            expired = checkpoints.list_expired(connection, now_s)
            for checkpoint in expired:
                checkpoints.delete_checkpoint(connection, checkpoint.run_id, checkpoint.name)
            return [checkpoint.folder for checkpoint in expired]

        for folder in await self._database.write(delete, may_use_reserve=True):
            await asyncio.to_thread(blobs.discard, Path(folder))


def _excess_warning(setting: str, num_bytes: int) -> str:
    return (
        f"Storage exceeds limits.{setting} by {num_bytes} bytes, and what is left is protected: pinned checkpoints, "
        "the newest of each run, those that a job will read, and snapshots. Unpin (`eztinker pin --off`) or delete "
        "some, delete runs, or raise the limit."
    )


def _copy_files(source: Path, target: Path, run_id: str) -> int:
    """Copy a folder with its manifest's facts; size in bytes."""
    manifest = blobs.verify(source)
    temporary = blobs.new_folder(target.parent)
    try:
        for file in manifest["files"]:
            shutil.copyfile(source / file, temporary / file)
        facts = {key: value for key, value in manifest.items() if key not in {"files", "format"}}
        facts |= {"run_id": run_id}
        return blobs.publish(temporary, target, files=manifest["files"], facts=facts)
    except BaseException:
        blobs.discard(temporary)
        raise


def _refuse_other(source: Path, known: CheckpointRecord) -> None:
    """A repeated copy finds its own files; anything else of that name is in the way."""
    if blobs.verify(source)["files"] != blobs.verify(Path(known.folder))["files"]:
        raise AlreadyExistsError(
            f"Run {known.run_id!r} has another checkpoint named {known.name!r}. Copy to another run.",
            code="checkpoint_exists",
        )
