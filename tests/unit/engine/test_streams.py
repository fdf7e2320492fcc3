"""Streamed jobs: tokens while they are drawn, each once, over the deaths of workers."""

from __future__ import annotations

import asyncio

import numpy as np

from eztinker.engine.active_job import ActiveJob
from eztinker.engine.streams import TokenStream
from eztinker.store import log
from eztinker.types.messages import RunSample, TokensDrawn
from eztinker.types.operations import Sample
from eztinker.types.sampling import SamplingParams, WeightsRef
from tests.unit.engine.fake_worker import World
from tests.unit.engine.harness import Engine, ended

SAMPLE = Sample(WeightsRef("nano"), np.ones(1, np.int32), SamplingParams())


async def submit(engine: Engine, *, streamed: bool = True) -> ActiveJob:
    request = log.Request("job_00000001", None, SAMPLE, False, 0.0)
    appended = await engine.database.write(lambda conn: log.append(conn, request, scope=""))
    return engine.manager.submit(appended, streamed=streamed)


async def followed(active: ActiveJob) -> list[int]:
    async with asyncio.timeout(5):
        return [t.token async for batch in active.stream.follow() for t in batch]


async def test_all_who_follow_see_every_token_before_the_end(engine: Engine, world: World) -> None:
    world.drawn, world.num_drawn_in_life = [4, 5, 6], [3]
    active = await submit(engine)
    seen = await asyncio.gather(followed(active), followed(active))
    assert seen == [[4, 5, 6]] * 2
    assert active.record.result.sequences[0].tokens == [4, 5, 6]
    assert await followed(active) == [4, 5, 6]
    assert not active.stream.has_diverged


async def test_a_busy_server_shows_the_first_token_at_once_and_later_ones_together() -> None:
    stream = TokenStream(is_busy=lambda: True)
    batches = stream.follow()
    for place in range(4):
        stream.put(TokensDrawn(1, ["job"], [0], [place], [place], [0.0], [[]], [[]]), 0)
        if place == 0:
            assert [t.token for t in await anext(batches)] == [0]
    stream.close()
    assert [[t.token for t in batch] async for batch in batches] == [[1, 2, 3]]


async def test_a_job_that_nobody_streams_is_not_told_of(engine: Engine, world: World) -> None:
    active = await submit(engine, streamed=False)
    await ended(active)
    assert active.stream is None
    assert [command.streamed for command in world.sent(RunSample)] == [False]


async def test_a_death_is_not_seen_when_the_second_drawing_is_the_same(
    engine: Engine, world: World
) -> None:
    world.drawn, world.num_drawn_in_life = [4, 5, 6], [2, 3]
    active = await submit(engine)
    assert await followed(active) == [4, 5, 6]
    assert (active.record.status, len(world.lives)) == ("completed", 2)


async def test_another_second_drawing_ends_the_stream(engine: Engine, world: World) -> None:
    world.drawn, world.num_drawn_in_life = [4, 5, 6], [2, 3]

    async def before(_command: object) -> None:
        if len(world.lives) == 2:
            world.drawn = [4, 9, 6]

    world.before = before
    active = await submit(engine)
    assert await followed(active) == [4, 5]
    assert active.stream.has_diverged
    assert active.record.result.sequences[0].tokens == [4, 9, 6]


async def test_a_word_on_an_unknown_job_is_nobodys(engine: Engine) -> None:
    stray = TokensDrawn(1, ["job_none"], [0], [0], [1], [0.0], [[]], [[]])
    engine.manager._supervisor._on_event(stray)
    assert engine.manager.all_active() == []
