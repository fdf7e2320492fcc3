"""Base models come and go within the budget: who stays, who leaves, what is refused, what comes back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from eztinker.engine.memory_model import (
    ENGINE_BYTES,
    LEAST_CACHE_TOKENS,
    UNBOUNDED,
    cache_bytes_per_token,
    cache_tokens,
    compute_dtype,
    copies_bytes,
    estimate,
    num_copies,
    room_for_models,
    weights_bytes,
)
from eztinker.engine.model_shape import ModelShape
from eztinker.engine.residency import Residency
from eztinker.errors import OutOfMemoryError
from eztinker.types import commands
from eztinker.types.operations import Sample
from eztinker.types.sampling import SamplingParams, WeightsRef
from tests.unit.engine.harness import Engine, a_pass, a_step, ended

GB = 10**9
SHAPE = ModelShape(
    num_linear=900_000_000, num_other=100_000_000, largest_linear=1, lora_width=1000,
    num_linear_outputs=500, stored_item_bytes=4, hidden=64, inner=128,
    num_layers=2, num_heads=4, num_kv_heads=2, head_size=16, vocab_size=100,
)  # fmt: skip
"""4 GB in float32."""


def a_sample_of(base: str) -> Sample:
    return Sample(WeightsRef(base), np.array([1, 2], np.int32), SamplingParams())


@pytest.fixture
async def engine(tmp_path, world):
    """Room for two models of 4 GB."""
    world.shapes = dict.fromkeys(("teacher", "judge", "student"), SHAPE)
    engine = Engine(tmp_path, world, memory_budget_gb=9.5, dtype="float32", models=["nano"])
    await engine.start()
    yield engine
    await engine.stop()


async def sample(engine, base):
    return await ended(await engine.submit(a_sample_of(base), None))


def loads(world):
    return [command.base_model for command in world.sent(commands.LoadBaseModel)]


def unloads(world):
    return [command.base_model for command in world.sent(commands.UnloadBaseModel)]


async def test_the_model_used_longest_ago_leaves_for_another(engine, world):
    for base in ("teacher", "judge", "teacher", "student"):
        assert (await sample(engine, base)).status == "completed"
    assert unloads(world) == ["judge"]
    assert loads(world) == ["teacher", "judge", "student"]
    assert (await sample(engine, "judge")).status == "completed"
    assert unloads(world) == ["judge", "teacher"]
    assert [m.base_model for m in engine.manager.loaded_models] == ["student", "judge"]


async def test_everyone_who_asks_for_a_model_shares_its_one_copy(engine, world):
    await asyncio.gather(*(sample(engine, "teacher") for _ in range(5)))
    assert loads(world) == ["teacher"]


async def test_a_pinned_model_stays(engine, world):
    await engine.manager.need_base("nano")
    for base in ("teacher", "judge", "student"):
        await sample(engine, base)
    assert unloads(world) == ["teacher"]


async def test_a_run_comes_back_from_the_log_when_its_model_had_to_leave(engine, world):
    await ended(await engine.create(base="student"))
    await engine.do(a_pass(1, 2))
    before = await engine.do(a_step())
    await sample(engine, "teacher")
    await sample(engine, "judge")
    assert unloads(world) == ["student"]
    assert [command.run_id for command in world.sent(commands.CloseRun)] == ["run_1"]
    record = await engine.do(a_pass(3))
    assert record.status == "completed"
    assert record.result.loss == (5 + 3 * 0.5) * 3 + 3  # the step is there
    assert before.result.step == 1
    assert engine.manager.health()["replay_differences"] == 0


async def test_a_model_in_use_is_waited_for_and_not_taken_away(engine, world):
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def hold_up(command):
        if isinstance(command, commands.RunSample) and not may_end.is_set():
            begun.set()
            await may_end.wait()

    world.before = hold_up
    busy = [await engine.submit(a_sample_of(base), None) for base in ("teacher", "judge")]
    await begun.wait()
    late = await engine.submit(a_sample_of("student"), None)
    await asyncio.sleep(0.05)
    assert unloads(world) == []
    assert not late.ended.is_set()
    place = engine.manager.position(late.record.job_id)
    assert place is not None
    assert place.reason.startswith("Base model 'student'")
    assert place.reason.endswith("waits for memory: every other model is in use")
    assert engine.manager.position(busy[0].record.job_id) is None
    may_end.set()
    for active in (*busy, late):
        assert (await ended(active)).status == "completed"
    assert len(unloads(world)) == 1


async def test_what_never_fits_is_refused_with_the_sum_and_changes_nothing(engine, world):
    world.shapes["huge"] = replace(SHAPE, num_linear=4 * SHAPE.num_linear)
    await sample(engine, "teacher")
    record = await sample(engine, "huge")
    assert (record.status, record.error.code) == ("failed", "out_of_memory")
    assert "14.80 GB" in record.error.message
    assert "'teacher' 4.00 GB" in record.error.message
    assert "--memory-budget" in record.error.message
    assert loads(world) == ["teacher"]
    assert unloads(world) == []


async def test_a_quantised_copy_counts_by_itself(engine, world):
    world.shapes["huge"] = replace(SHAPE, num_linear=4 * SHAPE.num_linear)
    await ended(await engine.create("q", base="huge", quantization="nf4"))
    assert world.sent(commands.LoadBaseModel)[-1].quantization == "nf4"
    assert [m.quantization for m in engine.manager.loaded_models] == ["nf4"]


async def test_what_quantising_takes_is_no_room_for_models(tmp_path, world):
    """Two models of 4 GB fit to the last 20 MB; not beside bitsandbytes."""
    world.shapes = dict.fromkeys(("a", "b", "c"), SHAPE)
    engine = Engine(tmp_path, world, memory_budget_gb=8.3, dtype="float32")
    await engine.start()
    try:
        await sample(engine, "a")
        await sample(engine, "b")
        assert unloads(world) == []
        await ended(await engine.create(base="c", quantization="nf4"))
        await sample(engine, "a")
        await sample(engine, "b")
        assert len(engine.manager.loaded_models) == 1
    finally:
        await engine.stop()


async def test_copies_and_cache_follow_from_what_the_budget_leaves(tmp_path, world):
    small = replace(SHAPE, num_linear=100_000_000, num_other=0)  # 400 MB, and so much each copy
    world.shapes = {"small": small, "other": SHAPE}
    for budget_gb, copies in ((12.0, 3), (8.0, 2), (4.0, 1), (1.2, 0)):
        engine = Engine(
            tmp_path / str(budget_gb), world, memory_budget_gb=budget_gb, dtype="float32"
        )
        await engine.start()
        try:
            await sample(engine, "small")
            alone = world.sent(commands.LoadBaseModel)[-1]
            assert alone.num_copies == copies
            room = room_for_models(0, budget_gb, "cpu")
            held = weights_bytes(small, "none", "float32") + copies_bytes(
                small, "none", "float32", copies
            )
            assert alone.cache_tokens == cache_tokens(small, "float32", room - held)
            per_token = cache_bytes_per_token(small, "float32")
            assert alone.cache_tokens * per_token * 2 <= 0.25 * (room - held)
            if budget_gb > 9:
                await sample(engine, "other")  # takes 4 of 12 GB, and no room for a copy is left
                beside = world.sent(commands.LoadBaseModel)[-1]
                assert beside.num_copies == 0
                assert 0 < beside.cache_tokens < alone.cache_tokens
        finally:
            await engine.stop()


async def test_where_nobody_knows_the_memory_the_worker_looks_for_itself(tmp_path, world):
    world.shapes = {"teacher": SHAPE}
    engine = Engine(tmp_path, world, dtype="float32")
    await engine.start()
    try:
        await sample(engine, "teacher")
        command = world.sent(commands.LoadBaseModel)[-1]
        assert (command.num_copies, command.cache_tokens) == (3, 0)
    finally:
        await engine.stop()


async def test_micro_batches_shrink_with_the_memory_that_is_left(tmp_path, world):
    wide = replace(SHAPE, num_linear=1, num_other=1, hidden=4096, inner=16384, num_layers=32)
    world.shapes = {"wide": wide}
    engine = Engine(tmp_path, world, memory_budget_gb=4.0, dtype="float32")
    await engine.start()
    try:
        await ended(await engine.create(base="wide"))
        operation = a_pass(*[1] * 100)
        await engine.do(replace(operation, data=operation.data * 4))
        (command,) = world.sent(commands.RunPass)
        assert [len(batch) for batch in command.plan.micro_batches] == [2, 2]
        assert not command.plan.checkpointing
        await engine.do(a_pass(*[1] * 400))
        assert world.sent(commands.RunPass)[-1].plan.checkpointing
        record = await engine.do(a_pass(*[1] * 5000))
        assert (record.status, record.error.code) == ("failed", "out_of_memory")
        assert "5000 tokens" in record.error.message
    finally:
        await engine.stop()


@pytest.fixture
async def narrow(tmp_path, world):
    """Room for two models of 1.8 GB and 3.1 GB beside them; a pass of 3000 tokens in one datum needs 4.1 GB."""
    world.shapes = dict.fromkeys(("wide", "other"), WIDE)
    engine = Engine(tmp_path, world, memory_budget_gb=7.0, dtype="float32")
    await engine.start()
    yield engine
    await engine.stop()


WIDE = replace(SHAPE, num_linear=450_000_000, num_other=1, hidden=4096, inner=16384, num_layers=32)


async def test_an_idle_model_leaves_for_a_pass_that_would_not_fit_beside_it(narrow, world):
    await ended(await narrow.create(base="wide"))
    await sample(narrow, "other")
    assert (await narrow.do(a_pass(*[1] * 300))).status == "completed"
    assert unloads(world) == []
    assert (await narrow.do(a_pass(*[1] * 3000))).status == "completed"
    assert unloads(world) == ["other"]


async def test_passes_that_need_each_others_room_are_done_one_after_another(narrow, world):
    await ended(await narrow.create("run_1", base="wide"))
    await ended(await narrow.create("run_2", base="other"))
    jobs = [
        await narrow.submit(a_pass(*[1] * 3000), run_id)
        for _ in range(2)
        for run_id in ("run_1", "run_2")
    ]
    for job in jobs:
        assert (await asyncio.wait_for(ended(job), 20)).status == "completed"
    assert {"wide", "other"} <= set(unloads(world))


async def test_idle_models_leave_for_the_least_cache_of_another(tmp_path, world):
    """What remains beside them would hold the weights and hardly a token."""
    world.shapes = {"idle": SHAPE, "new": replace(SHAPE, num_layers=100, num_kv_heads=32)}
    engine = Engine(tmp_path, world, memory_budget_gb=8.6, dtype="float32")
    await engine.start()
    try:
        for base in ("idle", "new"):
            assert (await sample(engine, base)).status == "completed"
        assert unloads(world) == ["idle"]
        assert world.sent(commands.LoadBaseModel)[-1].cache_tokens >= LEAST_CACHE_TOKENS
    finally:
        await engine.stop()


async def test_a_model_that_fits_with_a_smaller_cache_alone_is_loaded(tmp_path, world):
    shape = world.shapes["alone"] = replace(SHAPE, num_layers=100, num_kv_heads=32)
    engine = Engine(tmp_path, world, memory_budget_gb=5.0, dtype="float32")
    await engine.start()
    try:
        assert (await sample(engine, "alone")).status == "completed"
        tokens = world.sent(commands.LoadBaseModel)[-1].cache_tokens
        assert 0 < tokens < LEAST_CACHE_TOKENS
        assert tokens * 2 * cache_bytes_per_token(shape, "float32") < GB
    finally:
        await engine.stop()


# The books alone ----------------------------------------------------------------------------------


def test_room_that_only_busy_tenants_could_give_is_waited_for():
    residency = Residency()
    residency.enter("a", "'a'", 6, is_pinned=False)
    residency.hold("a", "job")
    assert residency.make_room("b", 5, 10, what="b") is None
    residency.release("job")
    assert residency.make_room("b", 5, 10, what="b") == ["a"]


def test_runs_count_and_leave_with_their_model():
    residency = Residency()
    residency.enter("a", "'a'", 6, is_pinned=False)
    residency.add_run("a", "r", 3)
    assert residency.taken_bytes == 9
    assert residency.make_room("a", 1, 10, what="a run") == []
    with pytest.raises(OutOfMemoryError):
        residency.make_room("a", 2, 10, what="a run")
    residency.remove_run("r")
    assert residency.leave("a").total_bytes == 6


def test_the_type_is_chosen_by_size_and_device():
    assert compute_dtype("auto", "cpu", 299_999_999) == "float32"
    assert compute_dtype("auto", "cpu", 300_000_000) == "bfloat16"
    assert compute_dtype("auto", "cuda", 1) == "bfloat16"
    assert compute_dtype("float32", "cuda", 1) == "float32"


def test_room_is_a_share_of_the_memory_or_what_the_setting_says():
    assert room_for_models(10 * GB, 0, "cpu") == 8 * GB - ENGINE_BYTES
    assert room_for_models(10 * GB, 3.0, "cpu") == 3 * GB - ENGINE_BYTES
    assert room_for_models(0, 0, "cpu") == UNBOUNDED


@pytest.mark.parametrize(
    ("room_gb", "left_gb", "expected"),
    [(97, 0, 3), (95, 0, 2), (65, 0, 2), (64, 60, 1), (64, 16.1, 1), (64, 15.9, 0), (0, 0, 0)],
)
def test_two_copies_follow_from_the_room_alone_and_one_from_what_is_left(
    room_gb, left_gb, expected
):
    shape = replace(SHAPE, num_linear=GB, vocab_size=10, hidden=64)
    sizes = {"room_bytes": int(room_gb * GB), "left_bytes": int(left_gb * GB)}
    assert num_copies(shape, "none", "float32", device_type="cpu", **sizes) == expected
    assert num_copies(shape, "none", "float32", device_type="cuda", **sizes) == 0


def test_a_quantised_model_has_copies_of_its_head_alone():
    assert copies_bytes(SHAPE, "nf4", "float32", 1) == 4 * 100 * 64
    assert copies_bytes(SHAPE, "none", "bfloat16", 2) == 4 * (900_000_000 + 100 * 64)


def test_an_estimate_counts_the_copies_that_the_server_would_make():
    common: dict[str, Any] = {"quantization": "none", "rank": 4, "batch": 1, "seq_len": 10}
    small = replace(SHAPE, num_linear=GB // 4, num_other=0)
    without = estimate(small, dtype="float32", **common)
    found = estimate(small, dtype="float32", room_bytes=20 * GB, **common)
    assert without.copies == 0
    assert found.copies == copies_bytes(small, "none", "float32", 2)
    assert found.resident - without.resident == found.copies
    assert found.peak - without.peak == found.copies


def test_an_estimate_adds_up():
    found = estimate(
        SHAPE, quantization="nf4", dtype="bfloat16", rank=4, batch=8, seq_len=100, num_samples=2
    )
    assert found.weights == weights_bytes(SHAPE, "nf4", "bfloat16")
    assert 0.51 * 0.9 * GB + 0.2 * GB < found.weights < 0.52 * 0.9 * GB + 0.2 * GB
    assert found.micro_batch_tokens == 800
    assert found.resident == found.engine + found.weights + found.copies + found.run
    assert found.peak >= found.resident + found.training + found.sampling
    long = estimate(SHAPE, quantization="none", dtype="float32", rank=4, batch=8, seq_len=3000)
    assert long.micro_batch_tokens == 3000
