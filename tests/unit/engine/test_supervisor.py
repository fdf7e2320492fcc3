"""One worker after another: hangs are noticed, restarts are paced, late words are not heard."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable

import pytest

from eztinker.engine import supervisor as supervisor_module
from eztinker.engine.executors.base import WorkerDied
from eztinker.engine.supervisor import MAX_RESTART_DELAY_S, Supervisor
from eztinker.errors import NotFoundError, OutOfMemoryError, StorageError
from eztinker.types import commands, events
from eztinker.types.commands import WorkerSettings
from eztinker.types.error_info import ErrorInfo
from tests.unit.engine.fake_worker import World

HANG_TIMEOUT_S = 0.2


class ScriptedExecutor:
    """A life in which nothing happens but what a test says."""

    def __init__(self, lives: list[ScriptedExecutor], start: Callable[[], None] | None) -> None:
        self.events: asyncio.Queue[events.Event | Exception] = asyncio.Queue()
        self.sent: list[commands.Command] = []
        self.was_killed = False
        self.epoch = -1
        self._start = start
        lives.append(self)

    async def start(self, settings: WorkerSettings) -> None:
        self.epoch = settings.epoch
        if self._start is not None:
            self._start()
        self.say(events.WorkerReady(self.epoch, 1, "cpu", 1))

    async def send(self, command: commands.Command) -> None:
        self.sent.append(command)
        if isinstance(command, commands.Shutdown):
            await self.kill()

    async def receive(self) -> events.Event:
        event = await self.events.get()
        if isinstance(event, Exception):
            raise event
        return event

    async def kill(self) -> None:
        self.was_killed = True
        self.events.put_nowait(WorkerDied("killed"))

    def say(self, event: events.Event) -> None:
        self.events.put_nowait(event)


class Stage:
    """A supervisor, the lives it has started, and what each start shall do."""

    def __init__(self) -> None:
        self.lives: list[ScriptedExecutor] = []
        self.on_start: Callable[[], None] | None = None
        self.supervisor = Supervisor(
            lambda: ScriptedExecutor(self.lives, self.on_start),
            WorkerSettings(epoch=0),
            hang_timeout_s=HANG_TIMEOUT_S,
        )

    async def life(self, number: int) -> ScriptedExecutor:
        """The ``number``-th life (from 1), once it is ready."""
        async with asyncio.timeout(5):
            while len(self.lives) < number or not self.supervisor.ready.is_set():
                await asyncio.sleep(0.005)
        return self.lives[number - 1]

    def ask(self, key: str = "job_1") -> asyncio.Task:
        command = commands.CancelJob(key)
        request = self.supervisor.request(key, command, epoch=self.supervisor.epoch)
        return asyncio.create_task(request)  # type: ignore[arg-type]


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    await stage.supervisor.start()
    await stage.life(1)
    yield stage
    await stage.supervisor.stop()


def done(epoch: int, job_id: str = "job_1") -> events.JobDone:
    return events.JobDone(epoch, job_id, b"result")


async def test_a_request_is_answered_by_its_event(stage: Stage) -> None:
    asked = [stage.ask("job_1"), stage.ask("job_2")]
    await asyncio.sleep(0)
    stage.lives[0].say(done(1, "job_2"))
    stage.lives[0].say(done(1, "job_1"))
    assert [(await request).job_id for request in asked] == ["job_1", "job_2"]


async def test_a_refusal_comes_back_as_the_error_it_was(stage: Stage) -> None:
    asked = stage.ask()
    base = asyncio.create_task(
        stage.supervisor.request("base:nano", commands.LoadBaseModel("nano", "/x"), epoch=1)
    )
    await asyncio.sleep(0)
    error = ErrorInfo("out_of_memory", "too big", "capacity", "data", {"tokens": 3})
    stage.lives[0].say(events.JobFailed(1, "job_1", error))
    missing = ErrorInfo("not_found", "no model", "user")
    stage.lives[0].say(events.BaseModelFailed(1, "nano", missing))
    with pytest.raises(OutOfMemoryError, match="too big") as caught:
        await asked
    assert (caught.value.field, caught.value.details) == ("data", {"tokens": 3})
    with pytest.raises(NotFoundError):
        await base


async def test_a_late_word_of_an_earlier_epoch_is_not_heard(stage: Stage) -> None:
    stage.lives[0].events.put_nowait(WorkerDied("test"))
    second = await stage.life(2)
    asked = stage.ask()
    await asyncio.sleep(0)
    second.say(done(1))
    second.say(events.JobFailed(1, "job_1", ErrorInfo("x", "late")))
    await asyncio.sleep(0.02)
    assert not asked.done()
    second.say(done(2))
    assert (await asked).epoch == 2


async def test_a_command_prepared_for_an_earlier_life_is_not_sent(stage: Stage) -> None:
    stage.lives[0].events.put_nowait(WorkerDied("test"))
    second = await stage.life(2)
    with pytest.raises(WorkerDied):
        await stage.supervisor.request("job_1", commands.CancelJob("job_1"), epoch=1)
    assert second.sent == []


async def test_a_death_is_told_to_all_who_wait(stage: Stage) -> None:
    asked = [stage.ask("job_1"), stage.ask("job_2")]
    await asyncio.sleep(0)
    stage.lives[0].events.put_nowait(WorkerDied("exit code 9"))
    for request in asked:
        with pytest.raises(WorkerDied, match="exit code 9"):
            await request
    await stage.life(2)
    assert (stage.supervisor.epoch, stage.supervisor.num_deaths) == (2, 1)
    assert stage.supervisor.facts is not None


async def test_nothing_is_sent_between_two_lives(stage: Stage) -> None:
    started = asyncio.Event()

    def start() -> None:
        started.set()
        raise WorkerDied("cannot start")

    stage.on_start = start
    stage.lives[0].events.put_nowait(WorkerDied("test"))
    await started.wait()
    assert not stage.supervisor.ready.is_set()
    assert stage.supervisor.facts is None
    with pytest.raises(WorkerDied):
        await stage.supervisor.request(
            "job_1", commands.CancelJob("x"), epoch=stage.lives[-1].epoch
        )
    await stage.supervisor.tell(commands.CancelJob("lost"))
    assert all(life.sent == [] for life in stage.lives)


# Hanging ------------------------------------------------------------------------------------------


async def test_a_silent_worker_that_owes_an_answer_is_replaced(stage: Stage) -> None:
    started_s = time.monotonic()
    with pytest.raises(WorkerDied):
        await asyncio.wait_for(stage.ask(), 5)
    assert time.monotonic() - started_s >= HANG_TIMEOUT_S
    assert stage.lives[0].was_killed
    await stage.life(2)


async def test_a_silent_worker_is_replaced_although_more_requests_come(stage: Stage) -> None:
    """Traffic is the server's sign of life, not the worker's."""
    asked = []
    async with asyncio.timeout(5):
        while not stage.lives[0].was_killed:
            asked.append(stage.ask(f"job_{len(asked)}"))
            await asyncio.sleep(HANG_TIMEOUT_S / 10)
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(results[0], WorkerDied)


async def test_an_idle_worker_may_be_silent(stage: Stage) -> None:
    await asyncio.sleep(2 * HANG_TIMEOUT_S)
    asked = stage.ask()
    await asyncio.sleep(HANG_TIMEOUT_S / 2)
    stage.lives[0].say(done(1))
    await asked
    await asyncio.sleep(2 * HANG_TIMEOUT_S)
    assert not stage.lives[0].was_killed


async def test_signs_of_life_keep_a_busy_worker(stage: Stage) -> None:
    asked = stage.ask()
    for _ in range(10):
        await asyncio.sleep(HANG_TIMEOUT_S / 5)
        stage.lives[0].say(events.SignOfLife(1))
    stage.lives[0].say(done(1))
    assert (await asked).job_id == "job_1"
    assert len(stage.lives) == 1


# Restarting ---------------------------------------------------------------------------------------


@pytest.fixture
def delays_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was waited before each life; nothing really is."""
    delays_s: list[float] = []
    really_sleep = asyncio.sleep

    async def sleep(delay_s: float) -> None:
        if asyncio.current_task().get_name() == "worker-life":  # type: ignore[union-attr]
            delays_s.append(delay_s)
            delay_s = 0
        await really_sleep(delay_s)

    monkeypatch.setattr(supervisor_module.asyncio, "sleep", sleep)
    return delays_s


async def test_a_worker_that_cannot_start_is_not_hammered(delays_s: list[float]) -> None:
    def start() -> None:
        raise WorkerDied("cannot start")

    stage = Stage()
    stage.on_start = start
    await stage.supervisor.start()
    async with asyncio.timeout(5):
        while len(delays_s) < 10:
            await asyncio.sleep(0)
    await stage.supervisor.stop()
    assert delays_s[0] == 0.0
    assert delays_s[1] < 0.5
    assert all(later >= earlier for earlier, later in itertools.pairwise(delays_s))
    assert delays_s[9] == MAX_RESTART_DELAY_S


async def test_a_worker_that_worked_is_replaced_at_once_however_often(
    stage: Stage, delays_s: list[float]
) -> None:
    for number in range(1, 6):
        life = await stage.life(number)
        asked = stage.ask()
        await asyncio.sleep(0)
        life.say(done(stage.supervisor.epoch))
        await asked
        life.events.put_nowait(WorkerDied("test"))
        while stage.supervisor.epoch == number:
            await asyncio.sleep(0)
    await stage.life(6)
    assert stage.supervisor.num_deaths == 5
    assert delays_s == [0.0] * 5


@pytest.mark.parametrize(
    "error",
    [OSError("cannot fork"), StorageError("a message is damaged"), RuntimeError("unforeseen")],
)
async def test_whatever_ends_a_life_another_begins(stage: Stage, error: Exception) -> None:
    """A damaged message or a failed fork must not leave the server without a worker for ever."""
    asked = stage.ask()
    await asyncio.sleep(0)
    stage.lives[0].events.put_nowait(error)
    with pytest.raises(WorkerDied):
        await asyncio.wait_for(asked, 5)
    assert stage.lives[0].was_killed, "the process behind it may still live"
    await stage.life(2)


async def test_a_failing_start_is_tried_again(stage: Stage) -> None:
    def start() -> None:
        if len(stage.lives) < 3:
            raise OSError("cannot fork")

    stage.on_start = start
    stage.lives[0].events.put_nowait(WorkerDied("test"))
    await stage.life(3)
    assert stage.supervisor.num_deaths == 2


# Stopping -----------------------------------------------------------------------------------------


async def test_stop_asks_first_and_fails_who_waits() -> None:
    stage = Stage()
    await stage.supervisor.start()
    first = await stage.life(1)
    asked = stage.ask()
    await asyncio.sleep(0)
    await stage.supervisor.stop()
    with pytest.raises(WorkerDied):
        await asked
    assert isinstance(first.sent[-1], commands.Shutdown)
    assert len(stage.lives) == 1
    assert stage.supervisor.num_deaths == 0


async def test_stop_ends_a_worker_that_does_not_leave() -> None:
    stage = Stage()
    await stage.supervisor.start()
    first = await stage.life(1)

    async def ignore(_command: commands.Command) -> None:
        await asyncio.Event().wait()

    first.send = ignore  # type: ignore[method-assign]
    await asyncio.wait_for(stage.supervisor.stop(grace_s=0.05), 5)
    assert first.was_killed


async def test_a_fake_life_is_as_good_as_a_scripted_one() -> None:
    """The double of the other engine tests obeys the supervisor like this one."""
    world = World()
    supervisor = Supervisor(world.make_executor, WorkerSettings(epoch=4), hang_timeout_s=5)
    await supervisor.start()
    await supervisor.ready.wait()
    answer = await supervisor.request("base:n", commands.LoadBaseModel("n", "/x"), epoch=5)
    assert isinstance(answer, events.BaseModelLoaded)
    await supervisor.stop()
