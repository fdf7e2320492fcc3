"""The engine as the service sees it: one object to start, feed, ask and stop.

Puts supervisor, residents, snapshots, actions and loop together. Decides nothing itself. Made by
``launch.py`` with the executor to use; called by ``service/``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eztinker.config import ServerConfig
from eztinker.engine.actions import Actions
from eztinker.engine.active_job import ActiveJob
from eztinker.engine.checkpoint_folders import find_moved
from eztinker.engine.executors.base import Executor, WorkerDied
from eztinker.engine.loop import MAX_DEATHS, EngineLoop, QueuePlace
from eztinker.engine.model_shape import ModelShape, read_shape
from eztinker.engine.recovery import Residents, Resolve
from eztinker.engine.snapshots import Snapshots
from eztinker.engine.supervisor import Supervisor
from eztinker.errors import BusyError, EngineCrashError, EZTinkerError
from eztinker.store import blobs
from eztinker.store.database import Database
from eztinker.store.log import Appended
from eztinker.store.runs import list_snapshot_folders
from eztinker.types.commands import ImportAdapter, WorkerSettings
from eztinker.types.events import AdapterImported, BaseModelLoaded
from eztinker.types.training import Quantization


class RunManager:
    """One engine over one database."""

    def __init__(
        self,
        config: ServerConfig,
        database: Database,
        make_executor: Callable[[], Executor],
        resolve: Resolve,
        shape_of: Callable[[Path], ModelShape] = read_shape,
    ) -> None:
        self._config = config
        self._database = database
        settings = WorkerSettings(
            epoch=0,
            device=config.device,
            dtype=config.dtype,
            num_threads=config.num_threads,
            plugins=config.plugins,
            micro_batch_tokens=config.micro_batch_tokens,
            kv_cache_tokens=config.kv_cache_tokens,
            deterministic=config.deterministic,
            cuda_graphs=config.cuda_graphs,
            known_logits=str(config.state_dir / "known_logits"),
        )
        self._supervisor = Supervisor(
            make_executor, settings, hang_timeout_s=config.worker_hang_timeout_s
        )
        self._snapshots = Snapshots(config, database, self._supervisor)
        self._residents = Residents(
            database,
            self._supervisor,
            self._snapshots,
            resolve,
            config,
            shape_of,
        )
        actions = Actions(config, database, self._supervisor, self._residents, self._snapshots)
        self._loop = EngineLoop(
            database, self._supervisor, self._residents, self._snapshots, actions
        )

    async def start(self) -> None:
        """Clear away what crashes left, start the worker, take up unfinished jobs."""
        kept = await self._database.read(list_snapshot_folders)
        await asyncio.to_thread(blobs.sweep, self._snapshots.folder, keep=kept)
        await asyncio.to_thread(blobs.sweep, self._config.checkpoints_path)
        await find_moved(self._config, self._database)
        await self._supervisor.start()
        await self._loop.start()

    async def stop(self) -> None:
        """Let running jobs end within the configured time, then end the worker."""
        await self._loop.stop(timeout_s=self._config.shutdown_timeout_s)
        await self._snapshots.settle()
        await self._supervisor.stop()

    def let_go(self) -> None:
        """Let everyone go who waits for a job; ``stop`` follows."""
        self._loop.let_go()

    @property
    def is_leaving(self) -> bool:
        """Whether nobody may wait for a job any more, because the server is being stopped."""
        return self._loop.is_leaving

    def submit(self, appended: Appended, *, streamed: bool = False) -> ActiveJob:
        """Queue a job that has just been logged; a streamed one shows its tokens as they are drawn."""
        return self._loop.submit(appended.job, appended.next_seq, streamed=streamed)

    def release(self, run_id: str, next_seq: int) -> None:
        """Let jobs start that waited for a number which has been used up without a job."""
        self._loop.release(run_id, next_seq)

    async def cancel(self, job_id: str) -> None:
        """Stop a job if it has not ended."""
        await self._loop.cancel(job_id)

    def active(self, job_id: str) -> ActiveJob | None:
        """The job if it has not ended."""
        return self._loop.active.get(job_id)

    def all_active(self) -> list[ActiveJob]:
        """Jobs that have not ended, oldest first."""
        return list(self._loop.active.values())

    def active_of_run(self, run_id: str) -> list[ActiveJob]:
        """Jobs of a run that have not ended."""
        return [job for job in self._loop.active.values() if job.task.job.run_id == run_id]

    def position(self, job_id: str) -> QueuePlace | None:
        """Where a waiting job stands; None once it runs."""
        return self._loop.position(job_id)

    def num_of_run(self, run_id: str) -> int:
        """Jobs of a run that wait or run, without those that are held."""
        return self._loop.num_of_run(run_id)

    def num_held_of_run(self, run_id: str) -> int:
        """Jobs of a run that wait for a number which has not arrived."""
        return self._loop.num_held_of_run(run_id)

    def is_awaited(self, run_id: str, seq: int) -> bool:
        """Whether accepted jobs of the run wait for this number."""
        return self._loop.is_awaited(run_id, seq)

    async def end_held(self) -> None:
        """Fail jobs whose predecessors have not come for too long."""
        await self._loop.end_held(self._config.limits.max_hold_s)

    def num_of_owner(self, owner: str) -> int:
        """Jobs of an owner that wait or run."""
        return self._loop.num_of_owner(owner)

    async def forget_run(self, run_id: str) -> None:
        """Free what a deleted run holds, on the device and on disk."""
        await self._residents.evict(run_id)
        self._snapshots.forget(run_id)
        await asyncio.to_thread(blobs.discard, self._snapshots.folder_of(run_id))

    async def unload_run(self, run_id: str) -> None:
        """Free what a run holds on the device, unless it has jobs; its next one restores it."""
        if not self.active_of_run(run_id):
            await self._residents.evict(run_id)

    async def need_base(self, base_model: str) -> None:
        """Load a base model unless it is resident.

        Raises:
            EZTinkerError: it cannot be loaded.
        """
        holder = f"preload:{base_model}"
        for _ in range(MAX_DEATHS):
            try:
                await self._residents.need_base(base_model, job_id=holder)
            except WorkerDied:
                continue
            else:
                return
            finally:
                self._residents.release(holder)
        raise EngineCrashError(
            f"The engine worker died each time it read base model {base_model!r}."
        )

    async def ready(self) -> None:
        """Return when the worker has started."""
        await self._supervisor.ready.wait()

    async def refusal(self) -> EZTinkerError:
        """Return when the engine is known to be unable to start with these settings, and why."""
        await self._supervisor.refused.wait()
        assert self._supervisor.refusal is not None
        return self._supervisor.refusal

    async def import_adapter(
        self,
        source: Path,
        target: Path,
        *,
        run_id: str,
        base_model: str,
        quantization: Quantization,
    ) -> AdapterImported:
        """Write a foreign adapter into the existing empty ``target``, as ours.

        Args:
            source, target: absolute; ``source`` in PEFT's layout.
            run_id: of the run that will begin with it.

        Raises:
            UserError: it is no plain LoRA, damaged, or of another architecture.
            BusyError: the worker died meanwhile.
        """
        key = f"import:{run_id}"
        try:
            await self._residents.need_base(base_model, quantization, job_id=key)
            command = ImportAdapter(
                key,
                run_id,
                base_model,
                str(source),
                str(target),
                quantization,
            )
            answer = await self._supervisor.request(key, command, epoch=self._supervisor.epoch)
        except WorkerDied as death:
            raise BusyError(f"{death}; try again.", retry_after_s=1.0) from None
        finally:
            self._residents.release(key)
        assert isinstance(answer, AdapterImported)
        return answer

    @property
    def loaded_models(self) -> list[BaseModelLoaded]:
        """Base models in memory."""
        return list(self._residents.loaded.values())

    @property
    def loss_functions(self) -> list[str]:
        """Losses that plugins have registered."""
        facts = self._supervisor.facts
        return facts.loss_functions if facts else []

    def health(self) -> dict[str, Any]:
        """Facts for ``/health``; never waits."""
        supervisor = self._supervisor
        ready = supervisor.ready.is_set()
        starting = "starting" if supervisor.num_deaths == 0 else "restarting"
        return {
            "engine": "ready" if ready else starting,
            "engine_error": supervisor.start_failure,
            "device": supervisor.facts.device if supervisor.facts else None,
            "queued_jobs": self._loop.num_waiting,
            "running_jobs": self._loop.num_running,
            "worker_restarts": supervisor.num_deaths,
            "replayed_operations": self._residents.num_replayed,
            "replay_differences": self._residents.num_differences,
        }
