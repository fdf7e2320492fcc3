"""Two halves of a pass side by side: the numbers of the whole, the same bits each time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from eztinker.engine.worker import lanes, micro_batch
from eztinker.errors import NumericalError
from eztinker.types.codec import decode
from eztinker.types.commands import OpenRun, RunOptimStep
from eztinker.types.events import JobDone, JobFailed
from eztinker.types.operations import OptimStep, PassResult
from eztinker.types.training import AdamParams, LoRAConfig
from tests.worker_harness import Harness, datum

RUNS = {"plain": 0.0, "dropped": 0.2}
DATA = {
    "plain": [datum(1, 12), datum(2, 20, 16), datum(3, 17), datum(4, 25)],
    "dropped": [datum(5, 19), datum(6, 18, 12)],
}


@pytest.fixture
def two_threads(monkeypatch):
    """Also small passes are divided."""
    monkeypatch.setattr(lanes, "_SMALLEST_HALF", 1)
    monkeypatch.setattr(lanes, "_LARGEST_SHARE", 0.8)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def opened(folder, num_threads) -> Harness:
    """Every run with a step behind it, so that B is not zero."""
    harness = Harness(folder, num_threads=1)
    for seed, (name, probability) in enumerate(RUNS.items()):
        config = LoRAConfig(r=3, lora_dropout=probability)
        harness.do(OpenRun(harness.job_id(), name, "m", config, seed + 1))
        harness.do(command(harness, name))
        harness.do(RunOptimStep(harness.job_id(), name, OptimStep(AdamParams(1e-2))))
    torch.set_num_threads(num_threads)
    return harness


def command(harness, run, data=None, may_share=False, **loss):
    made = harness.pass_command(data or DATA[run], run_id=run, **loss)
    return replace(made, plan=replace(made.plan, may_share=may_share))


def passed(harness, command) -> PassResult:
    return decode(ended(harness, command)[-1].result, PassResult)


def ended(harness, *commands) -> list:
    return [e for e in harness.do(*commands) if isinstance(e, (JobDone, JobFailed))]


def gradient(harness, name) -> torch.Tensor:
    return harness.run_state(name).gradient_P


def counted(monkeypatch) -> list[int]:
    """How many halves each model pass that was divided had."""
    seen, real = [], lanes.side_by_side

    def spy(tasks):
        seen.append(len(tasks))
        return real(tasks)

    monkeypatch.setattr(lanes, "side_by_side", spy)
    return seen


@pytest.mark.parametrize("name", RUNS)
def test_halves_add_up_to_the_whole_with_the_same_dropout(
    name, qwen2_folder, two_threads, monkeypatch
):
    whole = opened(qwen2_folder, 1)
    expected = passed(whole, command(whole, name))
    halved = opened(qwen2_folder, 2)
    seen = counted(monkeypatch)
    result = passed(halved, command(halved, name))
    assert seen == [2]
    assert torch.get_num_threads() == 2, "the halves' threads are theirs alone"
    assert result.loss == pytest.approx(expected.loss, rel=1e-6)
    for own, other in zip(result.logprobs, expected.logprobs, strict=True):
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-5)
    difference = gradient(halved, name) - gradient(whole, name)
    assert float(difference.norm()) <= 1e-5 * float(gradient(whole, name).norm())


def test_a_replay_gives_the_same_bits_alone_and_after_sharing(
    qwen2_folder, two_threads, monkeypatch
):
    first, again = opened(qwen2_folder, 2), opened(qwen2_folder, 2)
    seen = counted(monkeypatch)
    for may_share in (False, True):
        commands = {name: command(first, name, may_share=may_share) for name in RUNS}
        events = {e.job_id: e for e in ended(first, *commands.values())}
        for name in RUNS:
            event = events[commands[name].job_id]
            assert isinstance(event, JobDone), event
            assert event.executed_plan is not None
            assert [frame[2] for frame in event.executed_plan.frames] == [1] * may_share
            replayed = ended(again, replace(command(again, name), plan=event.executed_plan))[-1]
            assert (replayed.result, replayed.executed_plan) == (event.result, event.executed_plan)
            assert torch.equal(gradient(first, name), gradient(again, name))
        first, again = opened(qwen2_folder, 2), opened(qwen2_folder, 2)
    assert seen == [2, 2, 2, 2, 2, 1, 1]


def test_pairs_and_common_beginnings_stay_together(qwen2_folder, two_threads, monkeypatch):
    pairs = [
        datum(i, length, logprobs=np.full(length, -5, np.float32))
        for i, length in enumerate((10, 14, 12, 11))
    ]
    whole = opened(qwen2_folder, 1)
    expected = passed(whole, command(whole, "plain", pairs, name="dpo"))
    halved = opened(qwen2_folder, 2)
    seen = counted(monkeypatch)
    assert passed(halved, command(halved, "plain", pairs, name="dpo")).loss == pytest.approx(
        expected.loss, rel=1e-5
    )
    assert seen == [2]


def test_little_work_takes_one_thread(qwen2_folder, two_threads, monkeypatch):
    seen, real = [], micro_batch._hidden

    def spy(half):
        seen.append(torch.get_num_threads())
        return real(half)

    monkeypatch.setattr(micro_batch, "_hidden", spy)
    harness = opened(qwen2_folder, 2)
    seen.clear()
    passed(harness, command(harness, "plain", [datum(1, 1)]))
    assert (seen, torch.get_num_threads()) == ([1], 2)


def test_a_half_that_fails_fails_the_pass(qwen2_folder, two_threads):
    harness = opened(qwen2_folder, 2)
    bad = datum(9, 20, weights=np.full(20, np.inf, np.float32))
    before = harness.run_state("plain")
    event = ended(harness, command(harness, "plain", [datum(1, 20), bad]))[-1]
    assert isinstance(event, JobFailed)
    assert event.error.code == "not_finite"
    assert harness.run_state("plain") is before


def test_the_first_failure_of_a_half_is_raised_when_both_have_ended():
    ends = []

    def failing():
        raise NumericalError("no")

    with pytest.raises(NumericalError):
        lanes.side_by_side([failing, lambda: ends.append(1)])
    assert ends == [1]


def test_each_half_has_half_of_the_threads_whatever_is_set_elsewhere():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        for _ in range(3):
            assert lanes.side_by_side([torch.get_num_threads] * 2) == [2, 2]
            assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_sizes_fall_into_halves_only_where_these_are_alike():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert lanes.divided([512, 480, 448, 416]) == [[0, 3], [1, 2]]
        assert lanes.divided([512, 64]) == [[0, 1]]
        assert lanes.divided([100, 100]) == [[0, 1]]
        assert lanes.divided([4096]) == [[0]]
        torch.set_num_threads(1)
        assert lanes.divided([512, 512]) == [[0, 1]]
    finally:
        torch.set_num_threads(before)
