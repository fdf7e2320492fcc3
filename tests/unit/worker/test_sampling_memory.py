"""Little memory for keys and values: requests wait, rows give way and come back, nobody fails for others."""

from __future__ import annotations

import numpy as np
import pytest

from eztinker.engine.worker.kv_cache import KVCache
from eztinker.engine.worker.prefill import Reader
from eztinker.types.commands import CancelJob
from eztinker.types.events import JobDone
from eztinker.types.operations import SampleResult
from tests.unit.worker.test_training import DATA
from tests.worker_harness import Harness, tokens


def commands(harness) -> list:
    free = {"run_id": None, "stop_token_ids": ()}
    return [
        harness.sample_command(tokens(1, 9), num_samples=3, max_tokens=30, seed=1, **free),
        harness.sample_command(tokens(2, 20), max_tokens=25, temperature=0, **free),
        harness.sample_command(tokens(3, 4), num_samples=2, max_tokens=40, seed=3, **free),
    ]


@pytest.fixture
def expected(harness):
    return [harness.answer(command, SampleResult) for command in commands(harness)]


def check(harness, expected) -> None:
    """All at once give the expected answers."""
    asked = commands(harness)
    answers = harness.answers(*asked, cls=SampleResult)
    for command, one in zip(asked, expected, strict=True):
        for a, b in zip(answers[command.job_id].sequences, one.sequences, strict=True):
            assert a.tokens == b.tokens
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)


def test_a_shared_prompt_gives_what_its_copies_give(qwen2_folder, monkeypatch):
    """Five samples of a prompt attend to it where it is; beside them other rows and adapters."""
    answers = []
    for fewest in (4, 100):
        monkeypatch.setattr("eztinker.engine.worker.sampler._FEWEST_SHARING", fewest)
        harness = Harness(qwen2_folder)
        harness.open_run()
        harness.forward_backward(DATA)
        harness.optim_step(learning_rate=0.05)
        asked = [
            harness.sample_command(tokens(1, 40), num_samples=5, max_tokens=30, seed=1),
            harness.sample_command(tokens(2, 33), num_samples=2, max_tokens=12, seed=2),
            harness.sample_command(
                tokens(3, 50), run_id=None, num_samples=6, max_tokens=20, seed=3
            ),
            harness.sample_command(tokens(4, 35), num_samples=4, max_tokens=40, seed=4),
        ]
        done = harness.answers(*asked, cls=SampleResult)
        answers.append([done[command.job_id].sequences for command in asked])
    for shared, copied in zip(*answers, strict=True):
        for a, b in zip(shared, copied, strict=True):
            assert a.tokens == b.tokens
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)


def sampler_of(harness):
    return harness.worker._residents.samplers["m"]


def test_rows_that_outgrow_the_cache_give_way_and_come_back(qwen2_folder, expected, monkeypatch):
    monkeypatch.setattr("eztinker.engine.worker.admission._HEADROOM", 2)
    small = Harness(qwen2_folder, kv_cache_tokens=90)
    sampler, put_back, most = sampler_of(small), [], 0
    real = sampler._put_back
    monkeypatch.setattr(sampler, "_put_back", lambda n: (put_back.append(n), real(n)))
    reserve = KVCache.reserve

    def watched(cache, *args):
        nonlocal most
        reserve(cache, *args)
        most = max(most, cache.num_tokens)

    monkeypatch.setattr(KVCache, "reserve", watched)
    check(small, expected)
    assert put_back
    assert most <= 90
    assert sampler._cache.num_tokens == 0


def test_out_of_memory_while_decoding_makes_room_instead_of_failing(
    qwen2_folder, expected, monkeypatch
):
    harness = Harness(qwen2_folder)
    reserve, failures = KVCache.reserve, []

    def scarce(cache, num_rows, num_positions, max_tokens=None):
        if num_rows > 2 and num_positions > 15:
            failures.append(num_rows)
            raise MemoryError
        reserve(cache, num_rows, num_positions, max_tokens)

    monkeypatch.setattr(KVCache, "reserve", scarce)
    check(harness, expected)
    assert failures


def test_out_of_memory_while_growing_leaves_every_layer_usable(qwen2_folder, expected, monkeypatch):
    harness = Harness(qwen2_folder)
    resized, num_calls = KVCache._resized, 0

    def failing(cache, *args):
        nonlocal num_calls
        num_calls += 1
        if num_calls % 7 == 2:
            raise MemoryError
        return resized(cache, *args)

    monkeypatch.setattr(KVCache, "_resized", failing)
    check(harness, expected)
    assert num_calls > 7


def test_out_of_memory_while_reading_reads_less_at_a_time(qwen2_folder, expected, monkeypatch):
    monkeypatch.setattr("eztinker.engine.worker.prefill._MIN_CHUNK", 4)
    harness = Harness(qwen2_folder)
    read = Reader.read

    def scarce(reader, chunk):
        if sum(n for _, n in chunk) > 8:
            raise MemoryError
        return read(reader, chunk)

    monkeypatch.setattr(Reader, "read", scarce)
    check(harness, expected)
    assert sampler_of(harness)._reader.chunk_tokens <= 8


def test_a_cancelled_prompt_is_read_no_further(harness):
    sampler = sampler_of(harness)
    sampler._reader.chunk_tokens = 8
    long, short = commands(harness)[1::-1]
    harness.worker.submit(long)
    harness.worker.step()
    assert sampler._reader.queue
    harness.worker.submit(short)
    harness.worker.submit(CancelJob(long.job_id))
    harness.worker.step()
    assert long.job_id not in {prefill.request.job_id for prefill in sampler._reader.queue}
    assert isinstance(harness.do()[-1], JobDone)


def test_training_and_sampling_get_equal_time(harness, monkeypatch):
    """A unit of training of three seconds lets sampling have as much before the next one."""
    worker, clock, done = harness.worker, [0.0], []

    def unit(name, seconds):
        def run():
            clock[0] += seconds
            done.append(name)
            return True

        return run

    monkeypatch.setattr("eztinker.engine.worker.worker.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(worker._ordered, "unit", unit("training", 3.0))
    monkeypatch.setattr(worker._sampling, "unit", unit("sampling", 0.5))
    for _ in range(21):
        worker.step()
    assert done == (["training"] + ["sampling"] * 6) * 3
