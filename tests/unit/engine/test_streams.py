"""Streamed jobs: tokens while they are drawn, each once, over the deaths of workers."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from eztinker.engine.active_job import ActiveJob
from eztinker.engine.streams import DrawnTokens, TokenStream, follow
from eztinker.store import log
from eztinker.types.commands import RunSample
from eztinker.types.events import TokensDrawn
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
        return [
            t async for batch in follow([active.stream]) for _, new in batch for t in new.tokens
        ]


def drawn(tokens: list[int], sample: int = 0) -> DrawnTokens:
    return DrawnTokens(sample, tokens, [-0.5] * len(tokens), [], [])


async def test_all_who_follow_see_every_token_before_the_end(engine: Engine, world: World) -> None:
    world.drawn, world.num_drawn_in_life = [4, 5, 6], [3]
    active = await submit(engine)
    seen = await asyncio.gather(followed(active), followed(active))
    assert seen == [[4, 5, 6]] * 2
    assert active.record.result.sequences[0].tokens == [4, 5, 6]
    assert await followed(active) == [4, 5, 6]
    assert not active.stream.has_diverged


async def test_several_streams_are_followed_as_one_and_end_together() -> None:
    streams = [TokenStream(), TokenStream()]
    streams[1].put(drawn([7, 8]), 0)
    batches = follow(streams)
    assert await anext(batches) == [(1, drawn([7, 8]))]
    streams[1].close()
    waiting = asyncio.ensure_future(anext(batches))
    await asyncio.sleep(0)
    streams[0].put(drawn([5]), 0)
    streams[0].put(drawn([6], sample=1), 0)
    assert await waiting == [(0, drawn([5])), (0, drawn([6], sample=1))]
    streams[0].close()
    assert [batch async for batch in batches] == []
    assert [stream.listeners for stream in streams] == [[], []]


async def test_who_waits_for_long_hears_that_nothing_came() -> None:
    stream = TokenStream()
    batches = follow([stream], patience_s=0.02)
    for _ in range(2):
        assert await anext(batches) == []
    stream.put(drawn([5]), 0)
    assert await anext(batches) == [(0, drawn([5]))]
    stream.close()
    assert [batch async for batch in batches] == []


@pytest.mark.parametrize(
    ("again", "place", "shown"),
    [
        ([4, 5], 0, []),
        ([5, 6, 7, 8], 1, [7, 8]),
        ([7], 3, [7]),
        ([9], 4, []),
        ([4, 0, 6, 7], 0, None),
    ],
)
def test_what_is_drawn_again_is_shown_once(again, place, shown) -> None:
    stream = TokenStream()
    stream.put(drawn([4, 5, 6]), 0)
    stream.put(drawn(again), place)
    assert stream.has_diverged == (shown is None)
    assert [new.tokens for new in stream.drawn[1:]] == ([shown] if shown else [])
    assert all(len(new.logprobs) == len(new.tokens) for new in stream.drawn)


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
    stray = TokensDrawn(1, ["job_none"], [0], [0], [[1]], [[0.0]], [[]], [[]])
    engine.manager._supervisor._on_event(stray)
    assert engine.manager.all_active() == []
