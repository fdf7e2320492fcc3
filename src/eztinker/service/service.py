"""The service: everything the API may ask for, in one object.

Puts the resources together and starts and stops them in order. Made by ``launch.py``; kept by the
application as ``app.state.service``.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from eztinker.config import ServerConfig
from eztinker.engine.executors.base import Executor
from eztinker.engine.model_shape import read_shape
from eztinker.engine.run_manager import RunManager
from eztinker.errors import EZTinkerError
from eztinker.service import hub
from eztinker.service.accounts import Accounts
from eztinker.service.base_models import BaseModels
from eztinker.service.checkpoints import Checkpoints
from eztinker.service.completions import Completions
from eztinker.service.imports import Imports
from eztinker.service.jobs import Jobs
from eztinker.service.quantized_names import check_quantization
from eztinker.service.runs import Runs
from eztinker.service.samplers import Samplers
from eztinker.service.sessions import Sessions
from eztinker.service.submissions import Submissions
from eztinker.service.view import View
from eztinker.store.database import Database
from eztinker.store.newest import newest_time_s
from eztinker.store.runs import list_base_folders
from eztinker.types.principal import LOCAL, Principal

log = logging.getLogger(__name__)

MAX_VIEWS = 1024
"""Views of principals that are kept; making one costs more than the rest of finding out who asks."""
CLOCK_TOLERANCE_S = 60.0
"""A clock that is put right by less than this is no news."""
SWEEP_INTERVAL_S = 30.0
"""How late an expired checkpoint may be deleted."""


class Service:
    """One server's resources.

    Attributes:
        config: its settings.
        base_models, runs, submissions, jobs, checkpoints, imports: what can be asked for.
        sessions, samplers, completions: what clients of the Tinker protocol name besides.
        accounts: who may ask.
        principal: for whom it is; see ``seen_by``.
    """

    principal: Principal = LOCAL

    def __init__(self, config: ServerConfig, make_executor: Callable[[], Executor]) -> None:
        self.config = config
        self._database = Database(config.state_dir, durability=config.durability)
        self.base_models = BaseModels(config)
        self._engine = RunManager(
            config, self._database, make_executor, resolve=self.base_models.resolve
        )
        self.jobs = Jobs(self._database, self._engine)
        self.submissions = Submissions(
            config, self._database, self._engine, self.base_models, self.jobs
        )
        self.runs = Runs(config, self._database, self._engine, self.base_models, self.jobs)
        self.checkpoints = Checkpoints(config, self._database)
        self.imports = Imports(
            config, self._database, self._engine, self.base_models, self.runs, self.checkpoints
        )
        self.sessions = Sessions(config, self._database)
        self.samplers = Samplers(self._database)
        self.accounts = Accounts(config, self._database)
        self.completions = Completions(self._database, self._engine)
        self._started_at_s = time.monotonic()
        self._background: list[asyncio.Task[None]] = []
        self._preloads: list[asyncio.Task[None]] = []
        self._views: dict[Principal, Self] = {}
        self._clock_warnings: list[str] = []
        self._start_failure: asyncio.Future[EZTinkerError]

    async def start(self) -> None:
        """Open the state folder and start the engine; models load in the background.

        Raises:
            ConflictError: another server uses the state folder.
            StorageError: the state folder cannot be read.
            NotFoundError: a model that should be loaded at start does not exist.
            InvalidRequestError: its files are damaged.
            UserError: code ``no_key``, other machines could ask without a key.
        """
        for name in self.config.models:
            record = await self.base_models.resolve(name)
            check_quantization(record.quantization)
            await asyncio.to_thread(read_shape, Path(record.folder))
        await asyncio.to_thread(self._database.open)
        try:
            await self.accounts.load()
        except BaseException:
            await asyncio.to_thread(self._database.close)
            raise
        for warning in self.accounts.warnings:
            log.warning(warning)
        self._clock_warnings = _clock_warnings(await self._database.read(newest_time_s))
        for warning in self._clock_warnings:
            log.warning(warning)
        self.base_models.remember(await self._database.read(list_base_folders))
        await self._engine.start()
        self._start_failure = asyncio.get_running_loop().create_future()
        self._preloads = [
            asyncio.create_task(self._preload(name), name=f"preload-{name}")
            for name in self.config.models
        ]
        self._background = list(self._preloads)
        self._background.append(asyncio.create_task(self._sweep(), name="sweep"))
        self._background.append(asyncio.create_task(self._watch_engine(), name="watch-engine"))
        self._background.append(asyncio.create_task(self._warm_up(), name="warm-up"))

    def let_go(self) -> None:
        """Let go whoever waits for a job, so that the server's last answers are given; ``stop`` follows."""
        self._engine.let_go()
        self.completions.let_go()

    async def stop(self) -> None:
        """Let running jobs end in time, stop the engine, close the database."""
        for task in self._background:
            task.cancel()
        await self._engine.stop()
        await asyncio.to_thread(self._database.close)

    def seen_by(self, principal: Principal) -> Self:
        """The service as one principal sees it: what belongs to others does not exist there."""
        if principal == self.principal:
            return self
        known = self._views.get(principal)
        if known is not None:
            return known
        view = copy.copy(self)
        view.principal = principal
        for name, resource in vars(self).items():
            if isinstance(resource, View):
                setattr(view, name, resource.seen_by(principal))
        if len(self._views) >= MAX_VIEWS:
            self._views.clear()
        self._views[principal] = view
        return view

    def health(self) -> dict[str, Any]:
        """Facts for ``/health``, as far as the principal may know them; never waits."""
        if not self.principal.scopes:
            return {"engine": self._engine.health()["engine"]}
        own = [*self._clock_warnings, *self.checkpoints.warnings] if self.principal.sees_all else []
        return {
            "warnings": [*self.accounts.warnings, *own],
            **self._engine.health(),
            "loaded_models": [model.label for model in self._engine.loaded_models],
            "uptime_s": round(time.monotonic() - self._started_at_s, 3),
        }

    async def _sweep(self) -> None:
        """Delete expired checkpoints and fail jobs held too long, for as long as the server runs."""
        while True:
            try:
                await self.checkpoints.sweep()
                await self._engine.end_held()
            except EZTinkerError as error:
                log.warning("What has expired was not cleared away: %s", error.message)
            await asyncio.sleep(SWEEP_INTERVAL_S)

    async def ready(self) -> None:
        """Return when the engine runs and the models of ``--model`` are loaded; never if that cannot be."""
        await self._engine.ready()
        await asyncio.gather(*self._preloads)
        if self._start_failure.done():
            await asyncio.Event().wait()

    async def start_failure(self) -> EZTinkerError:
        """Return when it is known that a model of ``--model`` or the engine will never be there, and why."""
        return await asyncio.shield(self._start_failure)

    def _note_start_failure(self, error: EZTinkerError) -> None:
        if not self._start_failure.done():
            self._start_failure.set_result(error)

    async def _watch_engine(self) -> None:
        self._note_start_failure(await self._engine.refusal())

    async def _warm_up(self) -> None:
        await self._engine.ready()
        await asyncio.to_thread(hub.warm_up)

    async def _preload(self, name: str) -> None:
        try:
            await self._engine.need_base(name)
        except EZTinkerError as error:
            self._note_start_failure(error)


def _clock_warnings(newest_s: float) -> list[str]:
    """Whether the clock says a time before the newest entry of the state folder."""
    behind_s = newest_s - time.time()
    if behind_s <= CLOCK_TOLERANCE_S:
        return []
    return [
        f"This machine's clock is {behind_s:.0f} s behind the newest entry of the state folder, so it was set back. "
        "Set it right and start again: until then what expires (checkpoints, keys) lives that much longer. "
        "The order of operations does not depend on it."
    ]
