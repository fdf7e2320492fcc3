"""Plan, execute, commit, over the fake worker: order, deaths, replays, snapshots, cancellation."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from eztinker.engine.executors.base import WorkerDied
from eztinker.store import jobs as job_rows
from eztinker.store import runs
from eztinker.types import commands
from eztinker.types.error_info import ErrorInfo
from eztinker.types.operations import (
    LoadCheckpoint,
    SampleResult,
    SaveCheckpoint,
    StepResult,
)
from eztinker.types.training import AdamParams
from tests.unit.engine.fake_worker import FakeExecutor, World
from tests.unit.engine.harness import Engine, a_pass, a_sample, a_step, ended


async def train(engine: Engine, num_steps: int, *, start: int = 0) -> list[float]:
    """Losses of a loop of passes and steps."""
    losses = []
    for step in range(start, num_steps):
        losses.append((await engine.do(a_pass(step + 1, 2))).result.loss)
        await engine.do(a_step())
    return losses


async def undisturbed_losses(tmp_path: Path, num_steps: int) -> list[float]:
    engine = await Engine(tmp_path / "undisturbed", World()).start()
    await ended(await engine.create())
    losses = await train(engine, num_steps)
    await engine.stop()
    return losses


def die_on(cls: type, *, times: int = 1):
    """Kill the worker at the first ``times`` commands of a class."""
    left = [times]

    async def before(command: commands.Command) -> None:
        if isinstance(command, cls) and left[0]:
            left[0] -= 1
            raise WorkerDied("test")

    return before


async def test_operations_of_a_run_keep_their_order(engine: Engine) -> None:
    await engine.create()
    jobs = [await engine.submit(op) for op in (a_pass(1), a_pass(2), a_step(), a_pass(3))]
    records = [await ended(job) for job in jobs]
    assert [record.seq for record in records] == [1, 2, 3, 4]
    assert records[2].result == StepResult(1, 3.0, 0.5)
    assert records[3].result.loss == (5 + 3.0 * 0.5) * 3 + 3


async def test_worker_death_in_a_pass_changes_nothing(
    tmp_path: Path, engine: Engine, world: World
) -> None:
    await ended(await engine.create())
    losses = await train(engine, 2)
    world.before = die_on(commands.RunPass)
    losses += await train(engine, 4, start=2)
    assert losses == await undisturbed_losses(tmp_path, 4)
    assert engine.manager.health()["worker_restarts"] == 1
    assert engine.manager.health()["replay_differences"] == 0


async def test_worker_death_in_a_step_applies_it_once(engine: Engine, world: World) -> None:
    await ended(await engine.create())
    await engine.do(a_pass(4))
    world.before = die_on(commands.RunOptimStep)
    assert (await engine.do(a_step())).result == StepResult(1, 4.0, 0.5)
    assert (await engine.do(a_pass(1))).result.loss == (5 + 2) * 3 + 1


async def test_a_job_that_kills_two_workers_fails_and_others_go_on(
    engine: Engine, world: World
) -> None:
    await ended(await engine.create())

    async def poison(command: commands.Command) -> None:
        if isinstance(command, commands.RunPass) and 13 in command.operation.data[0].tokens_T:
            raise WorkerDied("poison")

    world.before = poison
    bad = await engine.submit(a_pass(13))
    good = await engine.submit(a_pass(2))
    assert (await ended(bad)).error.code == "engine_crash"
    assert (await ended(good)).status == "completed"
    assert (await engine.do(a_step())).result.grad_norm == 2.0


async def test_a_suspect_runs_alone(engine: Engine, world: World) -> None:
    await ended(await engine.create("run_1"))
    await ended(await engine.create("run_2"))
    beside_poison: list[int] = []
    neighbour_runs = asyncio.Event()

    async def poison(command: commands.Command) -> None:
        if not isinstance(command, commands.RunPass):
            return
        if 13 not in command.operation.data[0].tokens_T:
            neighbour_runs.set()
            await asyncio.sleep(0.05)
            return
        await neighbour_runs.wait()
        beside_poison.append(engine.manager.health()["running_jobs"] - 1)
        raise WorkerDied("poison")

    world.before = poison
    jobs = [await engine.submit(a_pass(13), "run_1"), await engine.submit(a_pass(1), "run_2")]
    for job in jobs:
        await ended(job)
    assert beside_poison == [1, 0]


async def test_one_poison_among_many_is_found_in_groups(engine: Engine, world: World) -> None:
    """A hundred samples and one that kills: three deaths, not a hundred turns one by one."""
    await ended(await engine.create())
    together: list[int] = []
    arrived: list[int] = []
    all_arrived, died = asyncio.Event(), asyncio.Event()

    async def poison(command: commands.Command) -> None:
        if not isinstance(command, commands.RunSample):
            return
        is_poison = int(command.operation.prompt_tokens[0]) == 13
        if len(world.lives) == 1:  # all are in the first worker when it dies
            arrived.append(1)
            if len(arrived) == 100:
                all_arrived.set()
            await (all_arrived if is_poison else died).wait()
        if is_poison:
            together.append(engine.manager.health()["running_jobs"])
            died.set()
            raise WorkerDied("poison")

    world.before = poison
    jobs = [await engine.submit(a_sample(13 if i == 40 else 7)) for i in range(100)]
    ends = [await ended(job) for job in jobs]
    assert [i for i, end in enumerate(ends) if end.status == "failed"] == [40]
    assert ends[40].error.code == "engine_crash"
    assert together[0] == 100
    assert 1 < together[1] <= 10
    assert together[2:] == [1]


async def test_restart_restores_runs_and_unfinished_jobs(tmp_path: Path, world: World) -> None:
    engine = await Engine(tmp_path / "state", world).start()
    await ended(await engine.create())
    losses = await train(engine, 3)
    blocked = asyncio.Event()

    async def block(command: commands.Command) -> None:
        if isinstance(command, commands.RunPass):
            blocked.set()
            await asyncio.Event().wait()

    world.before = block
    waiting = await engine.submit(a_pass(4, 2))
    await blocked.wait()
    await engine.crash()

    world.before = world._nothing
    engine = await Engine(tmp_path / "state", world).start()
    resumed = engine.manager.active(waiting.record.job_id)
    assert resumed is not None
    losses.append((await ended(resumed)).result.loss)
    await engine.do(a_step())
    losses.append((await engine.do(a_pass(5, 2))).result.loss)
    await engine.stop()
    assert losses == await undisturbed_losses(tmp_path, 5)


async def test_snapshot_bounds_the_replay(tmp_path: Path, world: World) -> None:
    world.compute_s = 1.0
    engine = await Engine(tmp_path / "state", world, replay_budget_s=3.0).start()
    await ended(await engine.create())
    losses = await train(engine, 6)
    await engine.manager._snapshots.settle()
    await engine.stop()

    world.commands.clear()
    engine = await Engine(tmp_path / "state", world, replay_budget_s=3.0).start()
    losses.append((await engine.do(a_pass(7, 2))).result.loss)
    replayed = [cmd for cmd in world.sent(commands.RunPass) if cmd.job_id.startswith("replay:")]
    assert world.sent(commands.OpenRun)[-1].snapshot_folder is not None
    assert len(replayed) < 6
    await engine.stop()
    assert losses == await undisturbed_losses(tmp_path, 7)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
async def test_damaged_snapshot_gives_way_to_an_older_one(
    tmp_path: Path, world: World, damage: str
) -> None:
    world.compute_s = 1.0
    engine = await Engine(tmp_path / "state", world, replay_budget_s=0.0).start()
    await ended(await engine.create())
    losses = []
    for step in range(4):
        losses.append((await engine.do(a_pass(step + 1, 2))).result.loss)
        await engine.do(a_step())
        await engine.manager._snapshots.settle()
        engine.manager._snapshots._accounts["run_1"].write_s = 0.0
    held = await engine.database.read(lambda conn: runs.list_snapshots(conn, "run_1"))
    assert len(held) == 2
    await engine.stop()
    file = Path(held[0].folder) / "state.json"
    if damage == "flip":
        data = bytearray(file.read_bytes())
        data[5] ^= 1
        file.write_bytes(bytes(data))
    elif damage == "truncate":
        file.write_bytes(file.read_bytes()[:-3])
    else:
        file.unlink()

    engine = await Engine(tmp_path / "state", world).start()
    losses.append((await engine.do(a_pass(5, 2))).result.loss)
    assert world.sent(commands.OpenRun)[-1].snapshot_folder == held[1].folder
    await engine.stop()
    assert losses == await undisturbed_losses(tmp_path, 5)


async def test_load_is_restored_although_its_checkpoint_is_gone(
    tmp_path: Path, world: World
) -> None:
    engine = await Engine(tmp_path / "state", world).start()
    await ended(await engine.create())
    await train(engine, 1)
    saved = (await engine.do(SaveCheckpoint("first"))).result
    await train(engine, 2)
    assert (await engine.do(LoadCheckpoint("run_1", "first"))).result.step == 1
    expected = (await engine.do(a_pass(9))).result.loss
    await engine.stop()
    for file in Path(saved.path).iterdir():
        file.unlink()
    engine = await Engine(tmp_path / "state", world).start()
    assert (await engine.do(a_pass(9))).result.loss == expected
    await engine.stop()


async def test_failed_job_leaves_the_run_as_it_was(engine: Engine, world: World) -> None:
    await ended(await engine.create())
    await engine.do(a_pass(4))

    async def fail(command: commands.Command) -> ErrorInfo | None:
        if isinstance(command, commands.RunPass):
            return ErrorInfo("not_finite", "loss is nan", "user")
        return None

    world.before = fail
    failed = await engine.do(a_pass(8))
    assert (failed.status, failed.error.code) == ("failed", "not_finite")
    world.before = world._nothing
    assert (await engine.do(a_step())).result.grad_norm == 4.0


async def test_cancel_waiting_and_running(engine: Engine, world: World) -> None:
    await ended(await engine.create())
    release = asyncio.Event()
    started = asyncio.Event()

    async def hold(command: commands.Command) -> None:
        if isinstance(command, commands.RunPass) and not release.is_set():
            started.set()
            await release.wait()

    world.before = hold
    running = await engine.submit(a_pass(1))
    waiting = await engine.submit(a_pass(2))
    await started.wait()
    position = engine.manager.position(waiting.record.job_id)
    assert position is not None
    assert position.ahead == 1, "the running one is ahead of it"
    assert "run_1" in position[1]
    await engine.manager.cancel(waiting.record.job_id)
    assert (await ended(waiting)).status == "cancelled"
    release.set()
    assert (await ended(running)).status == "completed"
    assert (await engine.do(a_step())).result.grad_norm == 1.0


async def test_failed_creation_leaves_no_run(engine: Engine, world: World) -> None:
    async def refuse(command: commands.Command) -> ErrorInfo | None:
        if isinstance(command, commands.OpenRun):
            return ErrorInfo("invalid_request", "no module 'q_prj'", "user", "target_modules")
        return None

    world.before = refuse
    record = await ended(await engine.create())
    assert record.error.field == "target_modules"
    _, total = await engine.database.read(
        lambda conn: runs.list_runs(conn, limit=10, offset=0, base_model=None)
    )
    assert total == 0


async def test_samples_run_beside_training_and_name_their_step(engine: Engine) -> None:
    await ended(await engine.create())
    await train(engine, 2)
    sample = a_sample(1, num_samples=3)
    result = (await engine.do(sample)).result
    assert isinstance(result, SampleResult)
    assert (result.step, len(result.sequences)) == (2, 3)


async def test_base_model_is_loaded_once(engine: Engine, world: World) -> None:
    jobs = [await engine.create(f"run_{number}") for number in range(5)]
    for job in jobs:
        await ended(job)
    assert world.num_loads == 1


async def test_results_are_committed_before_they_are_seen(engine: Engine) -> None:
    await ended(await engine.create())
    record = await engine.do(a_pass(1))
    stored = await engine.database.read(lambda conn: job_rows.get_job(conn, record.job_id))
    assert stored.decoded_result().loss == record.result.loss
    assert stored.plan.micro_batches == [[0]]


async def test_learning_rate_may_change_between_steps(engine: Engine) -> None:
    await ended(await engine.create())
    await engine.do(a_pass(2))
    await engine.do(a_step(1.0))
    await engine.do(a_pass(2))
    assert (await engine.do(a_step(0.25))).result == StepResult(
        2, 2.0, AdamParams(0.25).learning_rate
    )


async def test_numbers_may_arrive_out_of_order(engine: Engine) -> None:
    await ended(await engine.create())
    step = await engine.submit(a_step(), seq=3)
    second = await engine.submit(a_pass(2), seq=2)
    assert engine.manager.position(step.record.job_id) == (
        0,
        "operation 1, which comes before it, has not arrived",
        None,
    )
    await asyncio.sleep(0.01)
    assert {step.record.status, second.record.status} == {"queued"}
    first = await engine.submit(a_pass(1), seq=1)
    assert (await ended(step)).result == StepResult(1, 3.0, 0.5)
    assert first.record.finished_at_s < second.record.finished_at_s


async def test_what_waits_too_long_for_a_number_fails_and_says_for_which(
    tmp_path: Path, world: World
) -> None:
    limits = {"max_hold_s": 0.05}
    engine = await Engine(tmp_path / "state", world, limits=limits).start()
    await ended(await engine.create())
    held = await engine.submit(a_pass(4), seq=3)
    await engine.stop()
    engine = await Engine(tmp_path / "state", world, limits=limits).start()
    resumed = engine.manager.active(held.record.job_id)
    assert resumed is not None
    await engine.manager.end_held()  # a restart begins the wait anew
    assert resumed.record.status == "queued"
    await asyncio.sleep(0.06)
    await engine.manager.end_held()
    error = (await ended(resumed)).error
    assert error is not None
    assert (error.code, error.category) == ("operation_missing", "user")
    assert "for operation 1, which never arrived" in error.message
    await engine.stop()


async def test_held_jobs_survive_a_restart_and_can_be_cancelled(
    tmp_path: Path, world: World
) -> None:
    engine = await Engine(tmp_path / "state", world).start()
    await ended(await engine.create())
    early = await engine.submit(a_pass(4), seq=2)
    later = await engine.submit(a_step(), seq=3)
    await engine.stop()
    engine = await Engine(tmp_path / "state", world).start()
    resumed = engine.manager.active(later.record.job_id)
    await engine.manager.cancel(early.record.job_id)
    await engine.do(a_pass(1), seq=1)
    assert resumed is not None
    assert (await ended(resumed)).result.grad_norm == 1.0
    await engine.stop()


async def test_an_engine_that_does_not_start_says_so(tmp_path: Path, world: World) -> None:
    engine = Engine(tmp_path, world)

    class Stillborn(FakeExecutor):
        async def start(self, settings: commands.WorkerSettings) -> None:
            await self.kill()

    world.make_executor = lambda: Stillborn(world)  # type: ignore[method-assign]
    engine.manager._supervisor._make_executor = world.make_executor
    await engine.start()
    waiting = await engine.create()
    async with asyncio.timeout(5):
        while engine.manager.health()["engine_error"] is None:
            await asyncio.sleep(0.01)
    position = engine.manager.position(waiting.record.job_id)
    assert position is not None
    assert "does not start" in position[1]
    world.make_executor = lambda: FakeExecutor(world)  # type: ignore[method-assign]
    engine.manager._supervisor._make_executor = world.make_executor
    assert (await ended(waiting)).status == "completed"
    assert engine.manager.health()["engine_error"] is None
    await engine.stop()
