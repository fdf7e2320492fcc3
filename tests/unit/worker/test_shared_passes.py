"""Passes of several runs through one model pass: each as if it were alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from eztinker.engine.worker import micro_batch
from eztinker.types.commands import CancelJob, OpenRun, RunOptimStep
from eztinker.types.events import JobDone, JobFailed
from eztinker.types.operations import OptimStep
from eztinker.types.training import AdamParams, LoRAConfig
from tests.worker_harness import Harness, datum

ADAPTERS = {
    "small": LoRAConfig(r=2, lora_dropout=0.0),
    "large": LoRAConfig(r=9, lora_alpha=3.0, lora_dropout=0.0),
    "dropped": LoRAConfig(r=4, lora_dropout=0.3),
    "narrow": LoRAConfig(r=3, lora_dropout=0.0, train_attn=False),
    "headed": LoRAConfig(r=2, lora_dropout=0.1, train_unembed=True),
}
WORK = {
    "small": ([datum(1, 12, 4), datum(2, 20)], {}),
    "large": ([datum(3, 9)], {"reduction": "sum"}),
    "dropped": ([datum(4, 17, 16), datum(5, 3)], {}),
    "narrow": (
        [
            datum(6, 11, logprobs=np.full(11, -5, np.float32), advantages=np.ones(11, np.float32)),
            datum(7, 11, logprobs=np.full(11, -4, np.float32), advantages=-np.ones(11, np.float32)),
        ],
        {"name": "ppo"},
    ),
    "headed": ([datum(8, 14)], {"name": "focal_loss", "reduction": "sum"}),
}


def opened(folder, names=tuple(ADAPTERS)) -> Harness:
    """Every run with a step behind it, so that B is not zero."""
    harness = Harness(folder)
    for seed, name in enumerate(names):
        harness.do(OpenRun(harness.job_id(), name, "m", ADAPTERS[name], seed + 1))
        harness.do(command(harness, name))
        harness.do(RunOptimStep(harness.job_id(), name, OptimStep(AdamParams(1e-2))))
    return harness


def command(harness, name, data=None, plan=None, may_share=False, **more):
    own_data, loss = WORK[name]
    made = harness.pass_command(data or own_data, run_id=name, plan=plan, **loss, **more)
    return replace(made, plan=replace(made.plan, may_share=may_share))


def ended(harness, *commands) -> list:
    """How jobs ended; signs of life of a slow machine are left out."""
    return [e for e in harness.do(*commands) if isinstance(e, (JobDone, JobFailed))]


def together(harness, names=tuple(ADAPTERS), **more) -> dict:
    """What became of a pass of each run, all handed over before the first begins."""
    commands = {name: command(harness, name, may_share=True, **more) for name in names}
    events = {event.job_id: event for event in ended(harness, *commands.values())}
    return {name: events[command.job_id] for name, command in commands.items()}


def assert_close(a: torch.Tensor, b: torch.Tensor, relative: float) -> None:
    """The difference as a vector is small against the vector."""
    assert float((a - b).norm()) <= relative * float(b.norm())


@pytest.mark.parametrize("model", ["qwen2_folder", "gpt2_folder"])
def test_each_gradient_is_the_one_it_would_be_alone(model, request):
    folder = request.getfixturevalue(model)
    shared, apart = opened(folder), opened(folder)
    events = together(shared)
    num_rows = sum(d.num_tokens for data, _ in WORK.values() for d in data)
    for name, event in events.items():
        assert isinstance(event, JobDone), event
        assert event.executed_plan.frames[0][1] == num_rows, "one model pass for all"
        alone = ended(apart, command(apart, name))[-1]
        assert alone.executed_plan.frames == []
        assert_close(shared.run_state(name).gradient_P, apart.run_state(name).gradient_P, 1e-5)


@pytest.mark.parametrize("model", ["qwen2_folder", "gpt2_folder"])
def test_a_replay_alone_gives_the_same_bits_as_the_shared_pass(model, request):
    folder = request.getfixturevalue(model)
    shared, replaying = opened(folder), opened(folder)
    for name, event in together(shared).items():
        again = replace(command(replaying, name), plan=event.executed_plan)
        replayed = ended(replaying, again)[-1]
        assert replayed.result == event.result
        assert replayed.executed_plan == event.executed_plan
        gradients = [h.run_state(name).gradient_P for h in (shared, replaying)]
        assert torch.equal(*gradients), name


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_adapters_of_one_shape_on_equally_many_rows_are_computed_together(qwen2_folder, dropout):
    names = [f"like {number}" for number in range(3)]
    shared, apart, replaying = Harness(qwen2_folder), Harness(qwen2_folder), Harness(qwen2_folder)
    for harness in (shared, apart, replaying):
        for seed, name in enumerate([*names, "other"]):
            lora = LoRAConfig(r=5 if name == "other" else 3, lora_dropout=dropout)
            harness.do(OpenRun(harness.job_id(), name, "m", lora, seed + 1))
            harness.do(harness.pass_command([datum(seed, 9)], run_id=name))
            harness.do(RunOptimStep(harness.job_id(), name, OptimStep(AdamParams(1e-2))))

    def made(harness, number, name, plan=None):
        lengths = (14, 14) if name == "other" else (20, 9)
        data = [datum(10 * number + i, length) for i, length in enumerate(lengths)]
        command = harness.pass_command(data, run_id=name)
        return replace(command, plan=plan or replace(command.plan, may_share=True))

    in_turn = list(enumerate([names[0], "other", *names[1:]]))
    commands = {name: made(shared, number, name) for number, name in in_turn}
    events = {event.job_id: event for event in ended(shared, *commands.values())}
    for number, name in in_turn:
        executed = events[commands[name].job_id].executed_plan
        assert executed.frames[0][4] == (1 if name == "other" else 3)
        ended(apart, made(apart, number, name))
        assert_close(shared.run_state(name).gradient_P, apart.run_state(name).gradient_P, 1e-5)
        ended(replaying, made(replaying, number, name, executed))
        gradients = [h.run_state(name).gradient_P for h in (shared, replaying)]
        assert torch.equal(*gradients), name


def test_passes_that_may_not_share_are_computed_as_if_alone(qwen2_folder):
    harness, apart = opened(qwen2_folder), opened(qwen2_folder)
    commands = [command(harness, name) for name in ADAPTERS]
    events = ended(harness, *commands)
    assert all(event.executed_plan.frames == [] for event in events)
    for name in ADAPTERS:
        apart.do(command(apart, name))
        assert torch.equal(harness.run_state(name).gradient_P, apart.run_state(name).gradient_P)


def test_a_failure_is_that_of_one_run(qwen2_folder):
    names = ("small", "dropped", "headed")
    harness, apart = opened(qwen2_folder, names), opened(qwen2_folder, names)
    bad = [datum(9, 5, weights=np.full(5, np.inf, np.float32))]
    commands = [
        command(harness, "small", may_share=True),
        command(harness, "dropped", data=bad, may_share=True),
        command(harness, "headed", may_share=True),
        command(harness, "headed", data=[datum(1, 900)], may_share=True),
    ]
    before = harness.run_state("dropped")
    events = {event.job_id: event for event in ended(harness, *commands)}
    assert [type(events[c.job_id]) for c in commands] == [JobDone, JobFailed, JobDone, JobFailed]
    assert events[commands[1].job_id].error.code == "not_finite"
    assert harness.run_state("dropped") is before
    for name in ("small", "headed"):
        apart.do(command(apart, name))
        assert_close(harness.run_state(name).gradient_P, apart.run_state(name).gradient_P, 1e-5)


def test_when_memory_runs_out_together_each_goes_alone(qwen2_folder, monkeypatch):
    harness, apart = opened(qwen2_folder), opened(qwen2_folder)
    real = micro_batch._hidden

    def limited(half):
        if len(half.parts) > 1:
            raise MemoryError
        return real(half)

    monkeypatch.setattr(micro_batch, "_hidden", limited)
    for name, event in together(harness).items():
        assert event.executed_plan.frames == []
        apart.do(command(apart, name))
        assert torch.equal(harness.run_state(name).gradient_P, apart.run_state(name).gradient_P)


def test_passes_of_several_micro_batches_join_where_they_can(qwen2_folder):
    names = ("small", "dropped")
    harness, apart = opened(qwen2_folder, names), opened(qwen2_folder, names)
    events = together(harness, names, plan=[[0], [1]])
    for name, event in events.items():
        assert all(event.executed_plan.frames)
        again = replace(command(apart, name), plan=event.executed_plan)
        assert ended(apart, again)[-1].result == event.result


def test_forward_only_does_not_mix_with_gradients(qwen2_folder):
    names = ("small", "dropped", "headed")
    harness = opened(qwen2_folder, names)
    commands = [command(harness, n, may_share=True, forward_only=n != "small") for n in names]
    events = {event.job_id: event for event in ended(harness, *commands)}
    frames = [events[c.job_id].executed_plan.frames for c in commands]
    assert frames[0] == []
    assert frames[1][0][1] == frames[2][0][1]
    assert harness.run_state("dropped").gradient_P is None


def test_cancelling_one_lets_the_others_finish(qwen2_folder):
    names = ("small", "dropped")
    harness = opened(qwen2_folder, names)
    commands = [command(harness, n, plan=[[0], [1]], may_share=True) for n in names]
    before = harness.run_state("small")
    for each in commands:
        harness.worker.submit(each)
    assert harness.worker.step()
    events = ended(harness, CancelJob(commands[0].job_id))
    assert [type(event) for event in events] == [JobFailed, JobDone]
    assert harness.run_state("small") is before


def test_a_step_waits_for_its_own_pass_only(qwen2_folder):
    harness = opened(qwen2_folder, ("small", "dropped"))
    harness.do(command(harness, "dropped"))
    long_pass = command(harness, "small", plan=[[0], [1]], may_share=True)
    steps = [
        RunOptimStep(harness.job_id(), name, OptimStep(AdamParams()))
        for name in ("small", "dropped")
    ]
    events = ended(harness, long_pass, *steps)
    assert [e.job_id for e in events] == [steps[1].job_id, long_pass.job_id, steps[0].job_id]


def test_a_long_pass_does_not_hold_up_a_short_one(qwen2_folder):
    harness = opened(qwen2_folder, ("small", "dropped"))
    long_data = [datum(i, 40) for i in range(12)]
    long_pass = command(harness, "small", long_data, [[i] for i in range(12)], may_share=True)
    short_pass = command(harness, "dropped", may_share=True)
    events = ended(harness, long_pass, short_pass)
    assert [event.job_id for event in events] == [short_pass.job_id, long_pass.job_id]


def test_nothing_overtakes_the_opening_of_a_run(qwen2_folder):
    harness = opened(qwen2_folder, ("small",))
    opening = OpenRun(harness.job_id(), "new", "m", LoRAConfig(r=2), 1)
    first = harness.pass_command([datum(1, 5)], run_id="new")
    events = ended(
        harness, command(harness, "small", plan=[[0], [1]], may_share=True), opening, first
    )
    assert all(isinstance(event, JobDone) for event in events)
